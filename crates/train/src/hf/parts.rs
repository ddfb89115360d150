//! What tensors of a layout are made of: runs of rows of ours. One rule serves matrices that are joined, heads that are interleaved, experts
//! that ours holds together, and pairs of a rotary head in another order; reading and writing follow it alike.

use std::ops::Range;

use models::decoder::DecoderConfig;

/// One tensor of theirs.
pub(super) struct Part {
    pub theirs: String,
    /// `[rows, columns]`, or `[rows]` of a vector, as it would lie here.
    pub dims: Vec<usize>,
    /// The rows of ours that it holds, in its order.
    pub pieces: Vec<Piece>,
    /// It is kept as `[columns, rows]` (GPT-2).
    pub is_turned: bool,
    /// Ours is theirs plus this (Gemma: norms that multiply by one more than they hold).
    pub offset: f32,
}

/// A run of rows of one of our arrays.
pub(super) struct Piece {
    pub ours: String,
    pub rows: Range<usize>,
}

impl Part {
    pub fn rows(&self) -> usize {
        self.dims[0]
    }

    pub fn cols(&self) -> usize {
        self.dims.get(1).copied().unwrap_or(1)
    }

    /// Of each run of rows of `ours` that it holds, where it begins here and where it goes there.
    pub fn runs_of(&self, ours: &str) -> Vec<(usize, Range<usize>)> {
        let mut from = 0;
        let mut runs = Vec::new();
        for piece in &self.pieces {
            if piece.ours == ours {
                runs.push((from, piece.rows.clone()));
            }
            from += piece.rows.len();
        }
        runs
    }

    /// As it lies in a file.
    pub fn their_dims(&self) -> Vec<usize> {
        if self.is_turned { vec![self.cols(), self.rows()] } else { self.dims.clone() }
    }
}

/// Collects the parts of a layout.
#[derive(Default)]
pub(super) struct Parts(pub Vec<Part>);

impl Parts {
    fn add(&mut self, theirs: String, cols: Option<usize>, pieces: Vec<Piece>) -> &mut Part {
        let rows = pieces.iter().map(|piece| piece.rows.len()).sum();
        self.0.push(Part { theirs, dims: [rows].into_iter().chain(cols).collect(), pieces, is_turned: false, offset: 0.0 });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    pub fn matrix(&mut self, theirs: impl Into<String>, ours: &str, [rows, cols]: [usize; 2]) -> &mut Part {
        self.add(theirs.into(), Some(cols), vec![whole(ours, rows)])
    }

    pub fn vector(&mut self, theirs: impl Into<String>, ours: &str, len: usize) -> &mut Part {
        self.add(theirs.into(), None, vec![whole(ours, len)])
    }

    /// A matrix of rows of several, or the vector of their biases.
    pub fn joined(&mut self, theirs: impl Into<String>, cols: Option<usize>, pieces: Vec<Piece>) -> &mut Part {
        self.add(theirs.into(), cols, pieces)
    }

    /// A linear layer `[out, inner]`: `{theirs}.weight`, and its bias if it has one.
    pub fn linear(&mut self, theirs: &str, ours: &str, dims: [usize; 2], has_bias: bool) {
        self.matrix(format!("{theirs}.weight"), &format!("{ours}.weight"), dims);
        if has_bias {
            self.vector(format!("{theirs}.bias"), &format!("{ours}.bias"), dims[0]);
        }
    }

    /// One linear layer of theirs that holds the rows of several of ours, `[(ours, rows)]`, in the order of `pieces` of their weights.
    pub fn joined_linear(&mut self, theirs: &str, cols: usize, pieces: impl Fn(&str) -> Vec<Piece>, has_bias: bool) {
        self.joined(format!("{theirs}.weight"), Some(cols), pieces("weight"));
        if has_bias {
            self.joined(format!("{theirs}.bias"), None, pieces("bias"));
        }
    }

    /// A norm of the residual.
    pub fn norm(&mut self, theirs: &str, ours: &str, c: &DecoderConfig) {
        self.vector(format!("{theirs}.weight"), &format!("{ours}.weight"), c.model);
        if c.norm == models::decoder::Norm::LayerNorm && c.norm_bias {
            self.vector(format!("{theirs}.bias"), &format!("{ours}.bias"), c.model);
        }
    }
}

/// All rows of one.
pub(super) fn whole(ours: &str, rows: usize) -> Piece {
    Piece { ours: ours.to_owned(), rows: 0..rows }
}

/// Queries, keys and values of layer `index` one after the other.
pub(super) fn one_after_the_other(c: &DecoderConfig, index: usize, end: &str) -> Vec<Piece> {
    let [q, kv] = [c.heads * c.head_dim, c.kv_heads * c.head_dim];
    [("q", q), ("k", kv), ("v", kv)].map(|(name, rows)| whole(&format!("layers.{index}.attn.{name}.{end}"), rows)).into()
}

/// The same by groups: the queries of a key head, its key, its value.
pub(super) fn by_key_heads(c: &DecoderConfig, index: usize, end: &str) -> Vec<Piece> {
    let (d, group) = (c.head_dim, c.heads / c.kv_heads);
    let run = |name: &str, first: usize, heads: usize| Piece {
        ours: format!("layers.{index}.attn.{name}.{end}"),
        rows: first * d..(first + heads) * d,
    };
    (0..c.kv_heads).flat_map(|head| [run("q", head * group, group), run("k", head, 1), run("v", head, 1)]).collect()
}
