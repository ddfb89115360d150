//! The layers of a transformer: a decoder's, and with a mask that hides nothing those of an encoder of images or text.
//!
//! ```text
//! x -> norm -> attention -> + -> norm -> mlp -> +
//! ```
//! Here is what ranks may share: heads, the width of feed-forward layers, tokens.

use engine::{
    BlockId, EngineError, Init, Mask, ParamId, ParamKind, ParamTable, Tape, Tensor,
    ops::{AttentionOptions, Places, Rotary},
};

use super::{
    config::{DecoderConfig, Norm, NormPlace, Position, Turns},
    declare::{Declare, LinearParams, MlpParams, NormParams, Shared, linear, linear_share},
    experts::Experts,
    latent::Latent,
};

/// See the head of this file. Of the config it reads what concerns a layer.
pub(crate) struct Layers {
    pub config: DecoderConfig,
    layers: Vec<Layer>,
}

#[derive(Clone, Copy)]
enum Attention {
    Heads(Heads),
    Latent(Latent),
}

/// Queries, keys and values made of the residual.
#[derive(Clone, Copy)]
struct Heads {
    q: LinearParams,
    k: LinearParams,
    v: LinearParams,
    out: LinearParams,
    qk_norm: Option<[ParamId; 2]>,
}

#[derive(Clone, Copy)]
enum Feed {
    Dense(MlpParams),
    Experts(Experts),
}

/// One layer's parameters and ways.
#[derive(Clone)]
pub(crate) struct Layer {
    pub block: BlockId,
    /// Its place among the layers.
    index: usize,
    mask: Mask,
    /// Absent where heads do not turn.
    rotary: Option<Rotary>,
    attn_norms: Norms,
    attention: Attention,
    /// None of its own where the attention's norm serves both.
    mlp_norms: Norms,
    feed: Feed,
}

/// Of one part.
#[derive(Clone, Copy, Default)]
struct Norms {
    before: Option<NormParams>,
    after: Option<NormParams>,
}

impl Layers {
    /// Declare those of `config` in blocks `{prefix}layers.0` and on; a window of a layer narrows `mask`.
    pub fn new(table: &mut ParamTable, config: DecoderConfig, mask: Mask, prefix: &str) -> Self {
        let rotary = config.rotary();
        let mut declare = Declare { table, config: &config };
        let layers = (0..config.layers).map(|i| declare.layer(prefix, i, mask, &rotary)).collect();
        Self { config, layers }
    }

    pub fn each(&self) -> &[Layer] {
        &self.layers
    }

    /// `x` `[batch, seq, model]` through one layer, whose tokens stand at `places`.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, layer: &Layer, x: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        let read = self.read(tape, layer.attn_norms, x)?;
        let attended = self.attention(tape, layer, &read, places)?;
        if self.config.parallel_block {
            let read = match layer.mlp_norms.before {
                Some(_) => self.read(tape, layer.mlp_norms, x)?,
                None => read,
            };
            let fed = self.feed(tape, layer, &read)?;
            let both = tape.add(&attended, &fed)?;
            let both = self.added(tape, Norms::default(), &both)?;
            return tape.add(x, &both);
        }
        drop(read);
        let attended = self.added(tape, layer.attn_norms, &attended)?;
        let x = tape.add(x, &attended)?;
        drop(attended);
        let read = self.read(tape, layer.mlp_norms, &x)?;
        let fed = self.feed(tape, layer, &read)?;
        drop(read);
        let fed = self.added(tape, layer.mlp_norms, &fed)?;
        tape.add(&x, &fed)
    }

    /// What a part reads: the residual, normed where a norm stands before, of all tokens that ranks hold.
    fn read(&self, tape: &mut Tape<'_>, norms: Norms, x: &Tensor) -> Result<Tensor, EngineError> {
        match norms.before {
            Some(norm) => {
                let normed = self.norm(tape, norm, x)?;
                tape.gather_tokens(&normed)
            }
            None => tape.gather_tokens(x),
        }
    }

    /// What is added to the residual for what a part gave, of which ranks hold a share each.
    fn added(&self, tape: &mut Tape<'_>, norms: Norms, part: &Tensor) -> Result<Tensor, EngineError> {
        let mut part = tape.sum_tokens(part)?;
        if let Some(norm) = norms.after {
            part = self.norm(tape, norm, &part)?;
        }
        let part = tape.scale(&part, self.config.residual_scale.unwrap_or(1.0))?;
        tape.dropout(&part, self.config.dropout)
    }

    fn attention(&self, tape: &mut Tape<'_>, layer: &Layer, x: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        let c = &self.config;
        let [q, k, v] = match &layer.attention {
            Attention::Heads(heads) => self.project(tape, heads, layer.rotary.as_ref(), x, places)?,
            Attention::Latent(latent) => latent.project(tape, layer.rotary.as_ref(), x, places)?,
        };
        let options = AttentionOptions {
            head_dim: c.head_dim,
            mask: layer.mask,
            scale: c.score_scale(),
            alibi: c.position == Position::Alibi,
            softcap: c.attn_softcap,
        };
        let attended = match places {
            Places::After(advance) => tape.attention_cached([&q, &k, &v], options, layer.index, advance)?,
            Places::From(_) => tape.attention(&q, &k, &v, options)?,
        };
        drop((q, k, v));
        match &layer.attention {
            Attention::Heads(heads) => linear_share(tape, heads.out, &attended),
            Attention::Latent(latent) => latent.output(tape, &attended),
        }
    }

    fn project(
        &self,
        tape: &mut Tape<'_>,
        heads: &Heads,
        rotary: Option<&Rotary>,
        x: &Tensor,
        places: &Places,
    ) -> Result<[Tensor; 3], EngineError> {
        let mut q = linear(tape, heads.q, x)?;
        let mut k = linear(tape, heads.k, x)?;
        let v = linear(tape, heads.v, x)?;
        if let Some([q_norm, k_norm]) = heads.qk_norm {
            q = self.head_norm(tape, q_norm, &q)?;
            k = self.head_norm(tape, k_norm, &k)?;
        }
        if let Some(rotary) = rotary {
            q = tape.rope(&q, self.config.head_dim, places, rotary)?;
            k = tape.rope(&k, self.config.head_dim, places, rotary)?;
        }
        Ok([q, k, v])
    }

    fn feed(&self, tape: &mut Tape<'_>, layer: &Layer, x: &Tensor) -> Result<Tensor, EngineError> {
        match &layer.feed {
            Feed::Dense(mlp) => mlp.run(tape, self.config.mlp.activation().0, x),
            Feed::Experts(experts) => experts.run(tape, x),
        }
    }

    pub fn norm(&self, tape: &mut Tape<'_>, norm: NormParams, x: &Tensor) -> Result<Tensor, EngineError> {
        let weight = tape.param(norm.weight);
        match self.config.norm {
            Norm::RmsNorm => tape.rms_norm(x, &weight, self.config.eps),
            Norm::LayerNorm => {
                let bias = norm.bias.map(|bias| tape.param(bias));
                tape.layer_norm(x, &weight, bias.as_ref(), self.config.eps)
            }
        }
    }

    /// RMSNorm of each head: `x` `[batch, seq, heads * head_dim]`, `weight` `[head_dim]`; or of all together.
    fn head_norm(&self, tape: &mut Tape<'_>, weight: ParamId, x: &Tensor) -> Result<Tensor, EngineError> {
        if self.config.qk_norm_joint {
            return tape.rms_norm(x, &tape.param(weight), self.config.eps);
        }
        let (shape, head_dim) = (x.shape(), self.config.head_dim);
        let heads = x.reshape(&[shape.elements() / head_dim, head_dim])?;
        tape.rms_norm(&heads, &tape.param(weight), self.config.eps)?.reshape(shape.dims())
    }
}

impl Declare<'_> {
    /// Of the part `name`.
    fn norms(&mut self, name: &str) -> Norms {
        let place = self.config.norm_place;
        let mut norm = |name: String| NormParams::new(self.table, self.config, &name);
        let first = norm(format!("{name}.norm"));
        match place {
            NormPlace::Before => Norms { before: Some(first), after: None },
            NormPlace::After => Norms { before: None, after: Some(first) },
            NormPlace::Both => Norms { before: Some(first), after: Some(norm(format!("{name}.post_norm"))) },
        }
    }

    fn layer(&mut self, prefix: &str, index: usize, mask: Mask, rotary: &Rotary) -> Layer {
        let c = self.config;
        let block = self.table.block(format!("{prefix}layers.{index}"));
        Layer {
            index,
            block,
            mask: match c.window_of(index) {
                Some(window) if mask == Mask::Causal => Mask::Window(window),
                _ => mask,
            },
            rotary: match c.turns(index) {
                Turns::Usual => Some(rotary.clone()),
                Turns::Windowed(theta) => Some(Rotary::plain(2 * rotary.frequencies.len(), theta)),
                Turns::Not => None,
            },
            attn_norms: self.norms("attn"),
            attention: match c.latent() {
                Some(widths) => Attention::Latent(Latent::new(self, widths)),
                None => Attention::Heads(self.heads()),
            },
            mlp_norms: if c.shared_norm { Norms::default() } else { self.norms("mlp") },
            feed: match c.mixture(index) {
                Some(mixture) => Feed::Experts(Experts::new(self, mixture)),
                None => Feed::Dense(self.mlp("mlp", c.ffn)),
            },
        }
    }

    fn heads(&mut self) -> Heads {
        let (c, [std, residual_std]) = (self.config, self.stds());
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let norm_widths = if c.qk_norm_joint { [q_width, kv_width] } else { [c.head_dim; 2] };
        Heads {
            q: self.linear("attn.q", q_width, c.model, std, Shared::Outputs),
            k: self.linear("attn.k", kv_width, c.model, std, Shared::Outputs),
            v: self.linear("attn.v", kv_width, c.model, std, Shared::Outputs),
            out: self.linear("attn.out", c.model, q_width, residual_std, Shared::Inputs),
            qk_norm: c.qk_norm.then(|| {
                let mut norm = |name, width| self.table.add(name, &[width], Init::Ones, ParamKind::Vector);
                [norm("attn.q_norm.weight", norm_widths[0]), norm("attn.k_norm.weight", norm_widths[1])]
            }),
        }
    }
}
