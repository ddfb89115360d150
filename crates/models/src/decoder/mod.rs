//! The decoder language model: GPT, Llama, Falcon and BLOOM are settings of one.
//!
//! ```text
//! tokens -> embed (+ positions) -> [norm -> attention -> + ; norm -> mlp -> +] x layers -> norm -> head
//! ```
//! In a parallel block both parts read the same residual. Start at [`Decoder::residual`].

mod config;

use std::{cell::RefCell, ops::Range, rc::Rc};

pub use config::{DecoderConfig, DecoderOptions, Mlp, Norm, PRESETS, Position};
use engine::{
    Axis, BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, ShapeError, Tape, Tensor,
    ops::{Activation, AttentionOptions, KvCache},
};

use crate::{Cache, LanguageModel, Model, ModelError};

/// See the head of this file.
pub struct Decoder {
    config: DecoderConfig,
    params: ParamTable,
    embed_block: BlockId,
    embed: ParamId,
    positions: Option<ParamId>,
    embed_norm: Option<NormParams>,
    layers: Vec<Layer>,
    head_block: BlockId,
    norm: NormParams,
    head: ParamId,
}

/// The entry of [`crate::KINDS`].
pub(crate) fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    let options: DecoderOptions = table.try_into().map_err(|e: toml::de::Error| ModelError::Table(e.message().to_owned()))?;
    Ok(Box::new(Decoder::new(options.resolve()?)?))
}

#[derive(Clone, Copy)]
struct NormParams {
    weight: ParamId,
    bias: Option<ParamId>,
}

#[derive(Clone, Copy)]
struct LinearParams {
    weight: ParamId,
    bias: Option<ParamId>,
}

#[derive(Clone, Copy)]
struct Layer {
    block: BlockId,
    attn_norm: NormParams,
    q: LinearParams,
    k: LinearParams,
    v: LinearParams,
    out: LinearParams,
    qk_norm: Option<[ParamId; 2]>,
    /// Absent when the attention's norm serves both.
    mlp_norm: Option<NormParams>,
    gate: Option<LinearParams>,
    up: LinearParams,
    down: LinearParams,
}

impl Decoder {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: DecoderConfig) -> Result<Self, ModelError> {
        config.check()?;
        let c = &config;
        let mut declare = Declare { table: ParamTable::default(), config: c };
        let embed_block = declare.table.block("");
        let start = Init::Normal { std: c.init_std };
        let embed = declare.table.add("embed.weight", &[c.vocab, c.model], start, ParamKind::Embedding);
        declare.table.may_cut(embed, 0, 1);
        let positions = (c.position == Position::Learned)
            .then(|| declare.table.add("positions.weight", &[c.context, c.model], start, ParamKind::Embedding));
        let embed_norm = c.embed_norm.then(|| declare.norm("embed.norm"));
        let layers = (0..c.layers).map(|i| declare.layer(i)).collect();
        let head_block = declare.table.block("");
        let norm = declare.norm("norm");
        let start = if c.zero_init { Init::Zeros } else { start };
        if c.tied {
            declare.table.share(embed);
        }
        let head = if c.tied { embed } else { declare.table.add("head.weight", &[c.vocab, c.model], start, ParamKind::Head) };
        declare.table.may_cut(head, 0, 1);
        let params = declare.table;
        Ok(Self { params, embed_block, embed, positions, embed_norm, layers, head_block, norm, head, config })
    }

    #[must_use]
    pub fn decoder_config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where the tokens of an input begin in their sequence: after those in the cache, or after those of other ranks.
    fn offset(&self, tape: &Tape<'_>, inputs: &Inputs, cache: Option<&Cache>) -> Result<usize, EngineError> {
        let tokens = inputs.get("tokens")?.shape();
        let [_, seq] = *tokens.dims() else {
            return Err(ShapeError::new("decoder", format!("tokens are {tokens}, not [batch, seq]")).into());
        };
        let offset = cache.map_or(tape.place(Axis::Context).0 * seq, Cache::len);
        if self.config.position == Position::Learned && offset + seq > self.config.context {
            let problem = format!("`seq` is {}, and there are {} learned positions", offset + seq, self.config.context);
            return Err(ShapeError::new("decoder", problem).into());
        }
        Ok(offset)
    }

    /// The residual `[batch, seq, model]` after those of `blocks` that come before the head, from that before the first.
    fn residual<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        mut x: Option<Tensor>,
        blocks: Range<usize>,
        cache: Option<&Cache>,
    ) -> Result<Tensor, EngineError> {
        let offset = self.offset(tape, inputs, cache)?;
        if blocks.start == 0 {
            let tokens = tape.input(inputs, "tokens")?;
            let [embedded] = tape.block(self.embed_block, [&tokens], move |tape, [tokens]| Ok([self.embed(tape, tokens, offset)?]))?;
            x = Some(embedded);
        }
        let first_layer = self.embed_block.0 + 1;
        for (i, layer) in self.layers.iter().enumerate().filter(|(i, _)| blocks.contains(&(first_layer + i))) {
            let before = x.ok_or_else(|| ShapeError::new("decoder", format!("block {i} has no residual to start from")))?;
            let cache = cache.map(|cache| cache.layers[i].clone());
            let run = move |tape: &mut Tape<'m>, [x]: [&Tensor; 1]| Ok([self.layer(tape, layer, x, cache.as_ref(), offset)?]);
            let [after] = tape.block(layer.block, [&before], run)?;
            x = Some(after);
        }
        Ok(x.ok_or_else(|| ShapeError::new("decoder", "the head has no residual to start from"))?)
    }

    fn embed(&self, tape: &mut Tape<'_>, tokens: &Tensor, offset: usize) -> Result<Tensor, EngineError> {
        let x = tape.embedding_share(tokens, &tape.param(self.embed))?;
        let mut x = tape.sum_tokens(&x)?;
        if let Some(positions) = self.positions {
            let (batch, seq) = (x.shape().dims()[0], x.shape().dims()[1]);
            let first = offset + tape.place(Axis::Tensor).0 * seq;
            let indices: Vec<u32> = (0..batch).flat_map(|_| (first..first + seq).map(|p| p as u32)).collect();
            let indices = tape.tokens(Shape::new(&[batch, seq]), &indices)?;
            let positions = tape.embedding(&indices, &tape.param(positions))?;
            x = tape.add(&x, &positions)?;
        }
        if let Some(norm) = self.embed_norm {
            x = self.norm(tape, norm, &x)?;
        }
        tape.dropout(&x, self.config.dropout)
    }

    fn layer<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        layer: &Layer,
        x: &Tensor,
        cache: Option<&Rc<RefCell<KvCache>>>,
        offset: usize,
    ) -> Result<Tensor, EngineError> {
        let normed = self.norm(tape, layer.attn_norm, x)?;
        let normed = tape.gather_tokens(&normed)?;
        let attended = self.attention(tape, layer, &normed, cache, offset)?;
        if self.config.parallel_block {
            let attended = tape.dropout(&attended, self.config.dropout)?;
            let normed = match layer.mlp_norm {
                Some(norm) => {
                    let normed = self.norm(tape, norm, x)?;
                    tape.gather_tokens(&normed)?
                }
                None => normed,
            };
            let fed = self.mlp(tape, layer, &normed)?;
            let both = tape.add(&attended, &fed)?;
            let both = tape.sum_tokens(&both)?;
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
        let fed = self.mlp(tape, layer, &normed)?;
        let fed = tape.sum_tokens(&fed)?;
        let fed = tape.dropout(&fed, self.config.dropout)?;
        tape.add(&x, &fed)
    }

    fn attention(
        &self,
        tape: &mut Tape<'_>,
        layer: &Layer,
        x: &Tensor,
        cache: Option<&Rc<RefCell<KvCache>>>,
        offset: usize,
    ) -> Result<Tensor, EngineError> {
        let c = &self.config;
        let mut q = linear(tape, layer.q, x)?;
        let mut k = linear(tape, layer.k, x)?;
        let v = linear(tape, layer.v, x)?;
        if let Some([q_norm, k_norm]) = layer.qk_norm {
            q = self.head_norm(tape, q_norm, &q)?;
            k = self.head_norm(tape, k_norm, &k)?;
        }
        if c.position == Position::Rope {
            q = tape.rope(&q, c.head_dim, offset, c.theta)?;
            k = tape.rope(&k, c.head_dim, offset, c.theta)?;
        }
        let options = AttentionOptions {
            head_dim: c.head_dim,
            mask: c.window.map_or(Mask::Causal, Mask::Window),
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            alibi: c.position == Position::Alibi,
        };
        let attended = match cache {
            Some(cache) => tape.attention_cached(&q, &k, &v, options, cache)?,
            None => tape.attention(&q, &k, &v, options)?,
        };
        drop((q, k, v));
        linear_share(tape, layer.out, &attended)
    }

    fn mlp(&self, tape: &mut Tape<'_>, layer: &Layer, x: &Tensor) -> Result<Tensor, EngineError> {
        let up = linear(tape, layer.up, x)?;
        let middle = match (self.config.mlp, layer.gate) {
            (Mlp::Swiglu, Some(gate)) => {
                let gate = linear(tape, gate, x)?;
                tape.swiglu(&gate, &up)?
            }
            (Mlp::GeluTanh, _) => tape.activation(Activation::GeluTanh, &up)?,
            (Mlp::Relu2, _) => tape.activation(Activation::Relu2, &up)?,
            (Mlp::Gelu | Mlp::Swiglu, _) => tape.activation(Activation::Gelu, &up)?,
        };
        drop(up);
        linear_share(tape, layer.down, &middle)
    }

    fn norm(&self, tape: &mut Tape<'_>, norm: NormParams, x: &Tensor) -> Result<Tensor, EngineError> {
        let weight = tape.param(norm.weight);
        match self.config.norm {
            Norm::RmsNorm => tape.rms_norm(x, &weight, self.config.eps),
            Norm::LayerNorm => {
                let bias = norm.bias.map(|bias| tape.param(bias));
                tape.layer_norm(x, &weight, bias.as_ref(), self.config.eps)
            }
        }
    }

    /// RMSNorm of each head: `x` `[batch, seq, heads * head_dim]`, `weight` `[head_dim]`.
    fn head_norm(&self, tape: &mut Tape<'_>, weight: ParamId, x: &Tensor) -> Result<Tensor, EngineError> {
        let (shape, head_dim) = (x.shape(), self.config.head_dim);
        let heads = x.reshape(&[shape.elements() / head_dim, head_dim])?;
        tape.rms_norm(&heads, &tape.param(weight), self.config.eps)?.reshape(shape.dims())
    }

    /// The last norm, then `run` on its output and the output layer's weight.
    fn output<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        x: &Tensor,
        run: impl Fn(&mut Tape<'m>, &Tensor, &Tensor) -> Result<Tensor, EngineError> + 'm,
    ) -> Result<Tensor, EngineError> {
        let [y] = tape.kept_block(self.head_block, [x], move |tape, [x]| {
            let normed = self.norm(tape, self.norm, x)?;
            let normed = tape.gather_tokens(&normed)?;
            let head = tape.param(self.head);
            Ok([run(tape, &normed, &head)?])
        })?;
        Ok(y)
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

impl Model for Decoder {
    fn config(&self) -> toml::Table {
        let mut table = toml::Table::try_from(&self.config).unwrap_or_default();
        table.insert("kind".into(), "decoder".into());
        table
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        self.residual(tape, inputs, x, blocks, None)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let targets = tape.input(inputs, "targets")?;
        self.output(tape, x, move |tape, x, head| tape.cross_entropy(x, head, None, &targets, scale))
    }

    fn between(&self, batch: usize, length: usize) -> Shape {
        Shape::new(&[batch, length, self.config.model])
    }

    fn shapes(&self, batch: usize, length: usize) -> Inputs {
        Inputs::new().with_u32("tokens", &[batch, length], Vec::new()).with_u32("targets", &[batch, length], Vec::new())
    }

    fn language(&self) -> Option<&dyn LanguageModel> {
        Some(self)
    }
}

impl LanguageModel for Decoder {
    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn context(&self) -> usize {
        self.config.context
    }

    fn head_nll<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        let targets = tape.input(inputs, "targets")?;
        self.output(tape, x, move |tape, x, head| tape.token_nll(x, head, &targets))
    }

    fn logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, cache: Option<&Cache>) -> Result<Tensor, EngineError> {
        let x = self.residual(tape, inputs, None, 0..self.head_block.0, cache)?;
        self.output(tape, &x, |tape, x, head| tape.linear(x, head, None))
    }

    fn cache(&self) -> Cache {
        Cache { layers: self.layers.iter().map(|_| Rc::default()).collect() }
    }

    fn decoder(&self) -> Option<&DecoderConfig> {
        Some(&self.config)
    }
}

/// The axis of a matrix `[out, in]` along which ranks may share it.
#[derive(Clone, Copy, PartialEq)]
enum Shared {
    Outputs = 0,
    Inputs = 1,
}

/// Declares parameters by name.
struct Declare<'a> {
    table: ParamTable,
    config: &'a DecoderConfig,
}

impl Declare<'_> {
    fn norm(&mut self, name: &str) -> NormParams {
        let (c, model) = (self.config, self.config.model);
        let weight = self.table.add(&format!("{name}.weight"), &[model], Init::Ones, ParamKind::Vector);
        let bias = (c.norm == Norm::LayerNorm && c.norm_bias)
            .then(|| self.table.add(&format!("{name}.bias"), &[model], Init::Zeros, ParamKind::Vector));
        NormParams { weight, bias }
    }

    /// Ranks may share the outputs, and the bias with them, or the inputs.
    fn linear(&mut self, name: &str, out: usize, inner: usize, std: f32, shared: Shared) -> LinearParams {
        let unit = if name.starts_with("attn.") { self.config.head_dim } else { 1 };
        let weight = self.table.add(&format!("{name}.weight"), &[out, inner], Init::Normal { std }, ParamKind::Matrix);
        let bias = self.config.bias.then(|| self.table.add(&format!("{name}.bias"), &[out], Init::Zeros, ParamKind::Vector));
        self.table.may_cut(weight, shared as usize, unit);
        if let Some(bias) = bias.filter(|_| shared == Shared::Outputs) {
            self.table.may_cut(bias, 0, unit);
        }
        LinearParams { weight, bias }
    }

    fn layer(&mut self, index: usize) -> Layer {
        let c = self.config;
        let std = c.init_std;
        let residual_std = if c.zero_init { 0.0 } else { std / (2.0 * c.layers as f32).sqrt() };
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let block = self.table.block(format!("layers.{index}"));
        Layer {
            block,
            attn_norm: self.norm("attn.norm"),
            q: self.linear("attn.q", q_width, c.model, std, Shared::Outputs),
            k: self.linear("attn.k", kv_width, c.model, std, Shared::Outputs),
            v: self.linear("attn.v", kv_width, c.model, std, Shared::Outputs),
            out: self.linear("attn.out", c.model, q_width, residual_std, Shared::Inputs),
            qk_norm: c.qk_norm.then(|| {
                ["attn.q_norm.weight", "attn.k_norm.weight"].map(|name| self.table.add(name, &[c.head_dim], Init::Ones, ParamKind::Vector))
            }),
            mlp_norm: (!c.shared_norm).then(|| self.norm("mlp.norm")),
            gate: (c.mlp == Mlp::Swiglu).then(|| self.linear("mlp.gate", c.ffn, c.model, std, Shared::Outputs)),
            up: self.linear("mlp.up", c.ffn, c.model, std, Shared::Outputs),
            down: self.linear("mlp.down", c.model, c.ffn, residual_std, Shared::Inputs),
        }
    }
}
