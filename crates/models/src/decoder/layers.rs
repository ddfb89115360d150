//! The layers of a transformer: a decoder's, and with a mask that hides nothing those of an encoder of images or text.
//!
//! ```text
//! x -> norm -> attention -> + -> norm -> mlp -> +
//! ```
//! Here is what ranks may share: heads, the width of feed-forward layers, tokens.

use engine::{
    BlockId, EngineError, Init, Mask, ParamId, ParamKind, ParamTable, Tape, Tensor,
    ops::{Activation, AttentionOptions, Places, Rotary},
};

use super::{
    config::{DecoderConfig, Mlp, Norm, Position},
    experts::Experts,
    latent::Latent,
};

/// See the head of this file. Of the config it reads what concerns a layer.
pub(crate) struct Layers {
    pub config: DecoderConfig,
    rotary: Rotary,
    mask: Mask,
    layers: Vec<Layer>,
}

#[derive(Clone, Copy)]
pub(crate) struct NormParams {
    weight: ParamId,
    bias: Option<ParamId>,
}

#[derive(Clone, Copy)]
struct LinearParams {
    weight: ParamId,
    bias: Option<ParamId>,
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

/// A feed-forward part.
#[derive(Clone, Copy)]
pub(super) struct MlpParams {
    gate: Option<LinearParams>,
    up: LinearParams,
    down: LinearParams,
}

#[derive(Clone, Copy)]
enum Feed {
    Dense(MlpParams),
    Experts(Experts),
}

/// One layer's parameters.
#[derive(Clone, Copy)]
pub(crate) struct Layer {
    pub block: BlockId,
    /// Its place among the layers.
    index: usize,
    attn_norm: NormParams,
    attention: Attention,
    /// Absent when the attention's norm serves both.
    mlp_norm: Option<NormParams>,
    feed: Feed,
}

impl NormParams {
    pub fn new(table: &mut ParamTable, c: &DecoderConfig, name: &str) -> Self {
        let weight = table.add(&format!("{name}.weight"), &[c.model], Init::Ones, ParamKind::Vector);
        let bias = (c.norm == Norm::LayerNorm && c.norm_bias)
            .then(|| table.add(&format!("{name}.bias"), &[c.model], Init::Zeros, ParamKind::Vector));
        Self { weight, bias }
    }
}

impl Layers {
    /// Declare those of `config` in blocks `{prefix}layers.0` and on.
    pub fn new(table: &mut ParamTable, config: DecoderConfig, mask: Mask, prefix: &str) -> Self {
        let mut declare = Declare { table, config: &config };
        let layers = (0..config.layers).map(|i| declare.layer(prefix, i)).collect();
        Self { rotary: config.rotary(), config, mask, layers }
    }

    pub fn each(&self) -> &[Layer] {
        &self.layers
    }

    /// `x` `[batch, seq, model]` through one layer, whose tokens stand at `places`.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, layer: &Layer, x: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        if self.config.post_norm {
            return self.run_normed_after(tape, layer, x, places);
        }
        let normed = self.norm(tape, layer.attn_norm, x)?;
        let normed = tape.gather_tokens(&normed)?;
        let attended = self.attention(tape, layer, &normed, places)?;
        if self.config.parallel_block {
            let normed = match layer.mlp_norm {
                Some(norm) => {
                    let normed = self.norm(tape, norm, x)?;
                    tape.gather_tokens(&normed)?
                }
                None => normed,
            };
            let fed = self.feed(tape, layer, &normed)?;
            let both = tape.add(&attended, &fed)?;
            let both = tape.sum_tokens(&both)?;
            let both = tape.dropout(&both, self.config.dropout)?;
            return tape.add(x, &both);
        }
        drop(normed);
        let attended = tape.sum_tokens(&attended)?;
        let attended = tape.dropout(&attended, self.config.dropout)?;
        let x = tape.add(x, &attended)?;
        drop(attended);
        let normed = match layer.mlp_norm {
            Some(norm) => self.norm(tape, norm, &x)?,
            None => x.clone(),
        };
        let normed = tape.gather_tokens(&normed)?;
        let fed = self.feed(tape, layer, &normed)?;
        let fed = tape.sum_tokens(&fed)?;
        let fed = tape.dropout(&fed, self.config.dropout)?;
        tape.add(&x, &fed)
    }

    /// Each part reads the residual as it is, and what it gives is normed: `x + norm(part(x))`.
    fn run_normed_after<'m>(&'m self, tape: &mut Tape<'m>, layer: &Layer, x: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        let whole = tape.gather_tokens(x)?;
        let attended = self.attention(tape, layer, &whole, places)?;
        drop(whole);
        let attended = tape.sum_tokens(&attended)?;
        let attended = self.norm(tape, layer.attn_norm, &attended)?;
        let attended = tape.dropout(&attended, self.config.dropout)?;
        let x = tape.add(x, &attended)?;
        drop(attended);
        let whole = tape.gather_tokens(&x)?;
        let fed = self.feed(tape, layer, &whole)?;
        drop(whole);
        let fed = tape.sum_tokens(&fed)?;
        let fed = match layer.mlp_norm {
            Some(norm) => self.norm(tape, norm, &fed)?,
            None => fed,
        };
        let fed = tape.dropout(&fed, self.config.dropout)?;
        tape.add(&x, &fed)
    }

    fn attention(&self, tape: &mut Tape<'_>, layer: &Layer, x: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        let c = &self.config;
        let [q, k, v] = match &layer.attention {
            Attention::Heads(heads) => self.project(tape, heads, x, places)?,
            Attention::Latent(latent) => latent.project(tape, c, x, places)?,
        };
        let options = AttentionOptions {
            head_dim: c.head_dim,
            mask: self.mask,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            alibi: c.position == Position::Alibi,
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

    fn project(&self, tape: &mut Tape<'_>, heads: &Heads, x: &Tensor, places: &Places) -> Result<[Tensor; 3], EngineError> {
        let c = &self.config;
        let mut q = linear(tape, heads.q, x)?;
        let mut k = linear(tape, heads.k, x)?;
        let v = linear(tape, heads.v, x)?;
        if let Some([q_norm, k_norm]) = heads.qk_norm {
            q = self.head_norm(tape, q_norm, &q)?;
            k = self.head_norm(tape, k_norm, &k)?;
        }
        if c.position == Position::Rope {
            q = tape.rope(&q, c.head_dim, places, &self.rotary)?;
            k = tape.rope(&k, c.head_dim, places, &self.rotary)?;
        }
        Ok([q, k, v])
    }

    fn feed(&self, tape: &mut Tape<'_>, layer: &Layer, x: &Tensor) -> Result<Tensor, EngineError> {
        match &layer.feed {
            Feed::Dense(mlp) => mlp.run(tape, self.config.mlp, x),
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

impl MlpParams {
    pub fn run(&self, tape: &mut Tape<'_>, mlp: Mlp, x: &Tensor) -> Result<Tensor, EngineError> {
        let up = linear(tape, self.up, x)?;
        let middle = match (mlp, self.gate) {
            (Mlp::Swiglu, Some(gate)) => {
                let gate = linear(tape, gate, x)?;
                tape.swiglu(&gate, &up)?
            }
            (Mlp::GeluTanh, _) => tape.activation(Activation::GeluTanh, &up)?,
            (Mlp::QuickGelu, _) => tape.activation(Activation::QuickGelu, &up)?,
            (Mlp::Relu2, _) => tape.activation(Activation::Relu2, &up)?,
            (Mlp::Gelu | Mlp::Swiglu, _) => tape.activation(Activation::Gelu, &up)?,
        };
        drop(up);
        linear_share(tape, self.down, &middle)
    }
}

fn linear(tape: &mut Tape<'_>, params: LinearParams, x: &Tensor) -> Result<Tensor, EngineError> {
    let bias = params.bias.map(|bias| tape.param(bias));
    tape.linear(x, &tape.param(params.weight), bias.as_ref())
}

/// `linear` over an inner axis that ranks may share: a part of the sum.
fn linear_share(tape: &mut Tape<'_>, params: LinearParams, x: &Tensor) -> Result<Tensor, EngineError> {
    let bias = params.bias.map(|bias| tape.param(bias));
    tape.linear_share(x, &tape.param(params.weight), bias.as_ref())
}

/// The axis of a matrix `[out, in]` along which ranks may share it.
#[derive(Clone, Copy, PartialEq)]
enum Shared {
    Outputs = 0,
    Inputs = 1,
}

/// Declares parameters by name.
pub(super) struct Declare<'a> {
    pub table: &'a mut ParamTable,
    pub config: &'a DecoderConfig,
}

impl Declare<'_> {
    /// Ranks may share the outputs, and the bias with them, or the inputs.
    fn linear(&mut self, name: &str, out: usize, inner: usize, std: f32, shared: Shared) -> LinearParams {
        let unit = if name.starts_with("attn.") { self.config.head_dim } else { 1 };
        let weight = self.table.add(&format!("{name}.weight"), &[out, inner], Init::Normal { std }, ParamKind::Matrix);
        let has_bias = self.config.bias || self.config.qkv_bias && ["attn.q", "attn.k", "attn.v"].contains(&name);
        let bias = has_bias.then(|| self.table.add(&format!("{name}.bias"), &[out], Init::Zeros, ParamKind::Vector));
        self.table.may_cut(weight, shared as usize, unit);
        if let Some(bias) = bias.filter(|_| shared == Shared::Outputs) {
            self.table.may_cut(bias, 0, unit);
        }
        LinearParams { weight, bias }
    }

    fn norm(&mut self, name: &str) -> NormParams {
        NormParams::new(self.table, self.config, name)
    }

    /// Standard deviations at the start: of a matrix, and of one that writes to the residual.
    pub fn stds(&self) -> [f32; 2] {
        let c = self.config;
        [c.init_std, if c.zero_init { 0.0 } else { c.init_std / (2.0 * c.layers as f32).sqrt() }]
    }

    pub fn mlp(&mut self, name: &str, ffn: usize) -> MlpParams {
        let (c, [std, residual_std]) = (self.config, self.stds());
        MlpParams {
            gate: (c.mlp == Mlp::Swiglu).then(|| self.linear(&format!("{name}.gate"), ffn, c.model, std, Shared::Outputs)),
            up: self.linear(&format!("{name}.up"), ffn, c.model, std, Shared::Outputs),
            down: self.linear(&format!("{name}.down"), c.model, ffn, residual_std, Shared::Inputs),
        }
    }

    fn layer(&mut self, prefix: &str, index: usize) -> Layer {
        let c = self.config;
        let block = self.table.block(format!("{prefix}layers.{index}"));
        Layer {
            index,
            block,
            attn_norm: self.norm("attn.norm"),
            attention: match c.latent() {
                Some(widths) => Attention::Latent(Latent::new(self, widths)),
                None => Attention::Heads(self.heads()),
            },
            mlp_norm: (!c.shared_norm).then(|| self.norm("mlp.norm")),
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
