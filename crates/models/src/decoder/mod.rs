//! The decoder language model: GPT, Llama, Falcon and BLOOM are settings of one.
//!
//! ```text
//! tokens -> embed (+ positions) -> [norm -> attention -> + ; norm -> mlp -> +] x layers -> norm -> head
//! ```
//! In a parallel block both parts read the same residual. Start at [`Decoder::hidden`].

mod config;

use std::{cell::RefCell, rc::Rc};

pub use config::{DecoderConfig, DecoderOptions, Mlp, Norm, PRESETS, Position};
use engine::{
    BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, ShapeError, Tape, Tensor,
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
        let params = declare.table;
        Ok(Self { params, embed_block, embed, positions, embed_norm, layers, head_block, norm, head, config })
    }

    #[must_use]
    pub fn decoder_config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The residual after the last layer, normalised: `tokens` `[batch, seq]` to `[batch, seq, model]`.
    fn hidden<'m>(&'m self, tape: &mut Tape<'m>, tokens: &Tensor, cache: Option<&Cache>) -> Result<Tensor, EngineError> {
        let offset = cache.map_or(0, Cache::len);
        let [batch, seq] = *tokens.shape().dims() else {
            return Err(ShapeError::new("decoder", format!("tokens are {}, not [batch, seq]", tokens.shape())).into());
        };
        if self.config.position == Position::Learned && offset + seq > self.config.context {
            let problem = format!("`seq` is {}, and there are {} learned positions", offset + seq, self.config.context);
            return Err(ShapeError::new("decoder", problem).into());
        }
        let tokens = tokens.clone();
        let [mut x] = tape.block(self.embed_block, [&tokens], move |tape, [tokens]| {
            let mut x = tape.embedding(tokens, &tape.param(self.embed))?;
            if let Some(positions) = self.positions {
                let indices: Vec<u32> = (0..batch).flat_map(|_| (offset..offset + seq).map(|p| p as u32)).collect();
                let indices = tape.tokens(Shape::new(&[batch, seq]), &indices)?;
                let positions = tape.embedding(&indices, &tape.param(positions))?;
                x = tape.add(&x, &positions)?;
            }
            if let Some(norm) = self.embed_norm {
                x = self.norm(tape, norm, &x)?;
            }
            Ok([tape.dropout(&x, self.config.dropout)?])
        })?;
        for (i, layer) in self.layers.iter().enumerate() {
            let cache = cache.map(|cache| cache.layers[i].clone());
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layer(tape, layer, x, cache.as_ref(), offset)?]))?;
        }
        Ok(x)
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
        let attended = self.attention(tape, layer, &normed, cache, offset)?;
        let attended = tape.dropout(&attended, self.config.dropout)?;
        if self.config.parallel_block {
            let normed = match layer.mlp_norm {
                Some(norm) => self.norm(tape, norm, x)?,
                None => normed,
            };
            let fed = self.mlp(tape, layer, &normed)?;
            let both = tape.add(&attended, &fed)?;
            return tape.add(x, &both);
        }
        drop(normed);
        let x = tape.add(x, &attended)?;
        drop(attended);
        let normed = match layer.mlp_norm {
            Some(norm) => self.norm(tape, norm, &x)?,
            None => x.clone(),
        };
        let fed = self.mlp(tape, layer, &normed)?;
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
        linear(tape, layer.out, &attended)
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
        linear(tape, layer.down, &middle)
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

impl Model for Decoder {
    fn config(&self) -> toml::Table {
        let mut table = toml::Table::try_from(&self.config).unwrap_or_default();
        table.insert("kind".into(), "decoder".into());
        table
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, scale: f32) -> Result<Tensor, EngineError> {
        let tokens = tape.input(inputs, "tokens")?;
        let targets = tape.input(inputs, "targets")?;
        let x = self.hidden(tape, &tokens, None)?;
        self.output(tape, &x, move |tape, x, head| tape.cross_entropy(x, head, &targets, scale))
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

    fn token_nll<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let tokens = tape.input(inputs, "tokens")?;
        let targets = tape.input(inputs, "targets")?;
        let x = self.hidden(tape, &tokens, None)?;
        self.output(tape, &x, move |tape, x, head| tape.token_nll(x, head, &targets))
    }

    fn logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, cache: Option<&Cache>) -> Result<Tensor, EngineError> {
        let tokens = tape.input(inputs, "tokens")?;
        let x = self.hidden(tape, &tokens, cache)?;
        self.output(tape, &x, |tape, x, head| tape.linear(x, head, None))
    }

    fn cache(&self) -> Cache {
        Cache { layers: self.layers.iter().map(|_| Rc::default()).collect() }
    }

    fn decoder(&self) -> Option<&DecoderConfig> {
        Some(&self.config)
    }
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

    fn linear(&mut self, name: &str, out: usize, inner: usize, std: f32) -> LinearParams {
        let weight = self.table.add(&format!("{name}.weight"), &[out, inner], Init::Normal { std }, ParamKind::Matrix);
        let bias = self.config.bias.then(|| self.table.add(&format!("{name}.bias"), &[out], Init::Zeros, ParamKind::Vector));
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
            q: self.linear("attn.q", q_width, c.model, std),
            k: self.linear("attn.k", kv_width, c.model, std),
            v: self.linear("attn.v", kv_width, c.model, std),
            out: self.linear("attn.out", c.model, q_width, residual_std),
            qk_norm: c.qk_norm.then(|| {
                ["attn.q_norm.weight", "attn.k_norm.weight"].map(|name| self.table.add(name, &[c.head_dim], Init::Ones, ParamKind::Vector))
            }),
            mlp_norm: (!c.shared_norm).then(|| self.norm("mlp.norm")),
            gate: (c.mlp == Mlp::Swiglu).then(|| self.linear("mlp.gate", c.ffn, c.model, std)),
            up: self.linear("mlp.up", c.ffn, c.model, std),
            down: self.linear("mlp.down", c.model, c.ffn, residual_std),
        }
    }
}
