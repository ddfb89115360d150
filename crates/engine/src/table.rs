//! What a model declares: its parameters and its blocks, by name, in a fixed order.

use crate::{Shape, ShapeError};

/// The place of a parameter in its [`ParamTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// The place of a block (`layers.3`) in its [`ParamTable`]: the unit of gathering, recomputation and pipeline cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub usize);

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Normal { std: f32 },
    Ones,
    Zeros,
    Constant(f32),
}

/// What an optimiser may want to know: Muon takes matrices, weight decay spares vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    Matrix,
    Embedding,
    Head,
    Vector,
}

/// One parameter as declared: `layers.3.attn.q.weight` `[heads * head_dim, model]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Shape,
    pub init: Init,
    pub kind: ParamKind,
    pub block: BlockId,
    /// The axis along which ranks of the tensor axis hold equal parts: heads, ffn or vocab. Others hold it whole.
    pub cut: Option<usize>,
    /// How many rows or columns of that axis stay together: those of a head.
    pub cut_unit: usize,
    /// Of its outermost axis, experts, how many one token reads; absent: all.
    pub experts_per_token: Option<usize>,
    /// No update leaves one of its numbers above this.
    pub most: Option<f32>,
}

impl ParamSpec {
    /// How many of its numbers one token reads.
    #[must_use]
    pub fn active_elements(&self) -> u64 {
        let all = self.shape.elements() as u64;
        self.experts_per_token.map_or(all, |count| all / (self.shape.dims()[0] as u64).max(1) * count as u64)
    }
}

/// Every parameter of a model, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParamTable {
    specs: Vec<ParamSpec>,
    blocks: Vec<String>,
    /// Parameters that a block reads besides its own.
    shared: Vec<(BlockId, ParamId)>,
}

impl ParamTable {
    /// Begin a block; parameters declared from here on belong to it.
    pub fn block(&mut self, name: impl Into<String>) -> BlockId {
        self.blocks.push(name.into());
        BlockId(self.blocks.len() - 1)
    }

    /// Declare a parameter of the current block. The name is completed with the block's: `attn.q.weight` in block
    /// `layers.3` is `layers.3.attn.q.weight`; in the block named "" it stays as it is.
    pub fn add(&mut self, name: &str, dims: &[usize], init: Init, kind: ParamKind) -> ParamId {
        if self.blocks.is_empty() {
            self.block("");
        }
        let block = BlockId(self.blocks.len() - 1);
        let prefix = &self.blocks[block.0];
        let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        debug_assert!(self.find(&name).is_none(), "parameter `{name}` is declared twice");
        self.specs.push(ParamSpec {
            name,
            shape: Shape::new(dims),
            init,
            kind,
            block,
            cut: None,
            cut_unit: 1,
            experts_per_token: None,
            most: None,
        });
        ParamId(self.specs.len() - 1)
    }

    /// `param` may be cut along its `axis`, between runs of `unit` rows or columns.
    pub fn may_cut(&mut self, param: ParamId, axis: usize, unit: usize) {
        (self.specs[param.0].cut, self.specs[param.0].cut_unit) = (Some(axis), unit);
    }

    /// No update leaves a number of `param` above `most`.
    pub fn at_most(&mut self, param: ParamId, most: f32) {
        self.specs[param.0].most = Some(most);
    }

    /// A token reads `per_token` of the matrices of `param` `[experts, out, in]`.
    pub fn routed(&mut self, param: ParamId, per_token: usize) {
        self.specs[param.0].experts_per_token = Some(per_token);
    }

    /// The same parameters with the shapes that one of `parts` ranks of the tensor axis has; those of blocks that
    /// `is_here` leaves out are empty.
    /// # Errors
    /// Names a parameter that cannot be cut into so many parts.
    pub fn local(&self, parts: usize, is_here: impl Fn(BlockId) -> bool) -> Result<Self, ShapeError> {
        let mut local = self.clone();
        for spec in &mut local.specs {
            if !is_here(spec.block) {
                spec.shape = Shape::new(&[0]);
            } else if let Some(axis) = spec.cut {
                let mut dims = spec.shape.dims().to_vec();
                if dims[axis] % (spec.cut_unit * parts) != 0 {
                    let (units, what) = (dims[axis] / spec.cut_unit, if spec.cut_unit > 1 { "heads" } else { "rows or columns" });
                    let problem = format!("{parts} ranks of the tensor axis do not divide the {units} {what} of `{}`", spec.name);
                    return Err(ShapeError::new("mesh", problem));
                }
                dims[axis] /= parts;
                spec.shape = Shape::new(&dims);
            }
        }
        Ok(local)
    }

    /// What the rank at `place` of `parts` holds of the whole values of `param`.
    #[must_use]
    pub fn slice(&self, param: ParamId, (place, parts): (usize, usize), whole: &[f32]) -> Vec<f32> {
        let Some((run, stride)) = self.runs(param, parts) else { return whole.to_vec() };
        let mut mine = Vec::with_capacity(whole.len() / parts);
        whole.chunks_exact(stride).for_each(|row| mine.extend_from_slice(&row[place * run..(place + 1) * run]));
        mine
    }

    /// The whole values of `param` from what each rank holds, in their order.
    #[must_use]
    pub fn join(&self, param: ParamId, held: &[Vec<f32>]) -> Vec<f32> {
        let Some((run, _)) = self.runs(param, held.len()) else { return held[0].clone() };
        (0..held[0].len() / run).flat_map(|row| held.iter().flat_map(move |part| &part[row * run..(row + 1) * run])).copied().collect()
    }

    /// Of a parameter cut into `parts`: how many numbers lie together, and how far apart those of one rank begin.
    fn runs(&self, param: ParamId, parts: usize) -> Option<(usize, usize)> {
        let spec = self.spec(param);
        let axis = spec.cut.filter(|_| parts > 1)?;
        let stride: usize = spec.shape.dims()[axis..].iter().product();
        Some((stride / parts, stride))
    }

    /// The current block reads `param` of an earlier block too: a tied head, a shared norm.
    pub fn share(&mut self, param: ParamId) {
        self.shared.push((BlockId(self.blocks.len() - 1), param));
    }

    /// The blocks whose parameters `block` reads: its own, and those that it shares with earlier ones.
    #[must_use]
    pub fn needs(&self, block: BlockId) -> Vec<BlockId> {
        let of_others = self.shared.iter().filter(|(reader, _)| *reader == block).map(|(_, param)| self.spec(*param).block);
        let mut needs: Vec<BlockId> = of_others.chain([block]).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    #[must_use]
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    #[must_use]
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// Block names in the order in which they run; index with [`BlockId`].
    #[must_use]
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|spec| spec.name == name).map(ParamId)
    }

    /// How many numbers there are in all parameters together.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.specs.iter().map(|spec| spec.shape.elements() as u64).sum()
    }

    /// How many of them one token reads: all but the experts that it does not go to.
    #[must_use]
    pub fn active_elements(&self) -> u64 {
        self.specs.iter().map(ParamSpec::active_elements).sum()
    }

    /// Starting values of one parameter: a function of `seed` and its name alone, whoever computes them.
    #[must_use]
    pub fn initial(&self, id: ParamId, seed: u64) -> Vec<f32> {
        let spec = self.spec(id);
        let mut values = vec![0.0; spec.shape.elements()];
        match spec.init {
            Init::Zeros => {}
            Init::Ones => values.fill(1.0),
            Init::Constant(value) => values.fill(value),
            Init::Normal { std } => kernels::rng::fill_normal(crate::key(seed, &spec.name), std, &mut values),
        }
        values
    }
}
