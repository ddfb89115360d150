//! The decoder language model: GPT, Llama, Falcon, BLOOM, Gemma, DeepSeek and Mixtral are settings of one.
//!
//! ```text
//! tokens -> embed (+ positions) -> [norm -> attention -> + ; norm -> mlp -> +] x layers -> norm -> head
//! ```
//! In a parallel block both parts read the same residual. Start at [`Decoder::residual`]; a layer is in [`layers`].

mod check;
mod choices;
mod config;
pub(crate) mod declare;
mod experts;
mod latent;
pub(crate) mod layers;
mod options;
mod presets;

use std::{ops::Range, sync::Arc};

pub use config::{DecoderConfig, Head, Mixture, Mlp, Norm, NormPlace, Position, RopeScaling, Router};
use declare::NormParams;
use engine::{
    Axis, BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, ShapeError, Tape, Tensor,
    ops::{Advance, KvCache, Places},
};
use layers::Layers;
pub use options::DecoderOptions;
pub use presets::PRESETS;

use crate::{Kind, LanguageModel, Model, ModelError};

/// See the head of this file.
pub struct Decoder {
    params: ParamTable,
    embed_block: BlockId,
    embed: ParamId,
    positions: Option<ParamId>,
    embed_norm: Option<NormParams>,
    layers: Layers,
    head_block: BlockId,
    norm: NormParams,
    /// Of tokens.
    head: Option<ParamId>,
    scalar: Option<[ParamId; 2]>,
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "decoder", unit: "tokens", objective: "next_token", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    let options: DecoderOptions = table.try_into().map_err(|e: toml::de::Error| ModelError::Table(e.message().to_owned()))?;
    Ok(Box::new(Decoder::new(options.resolve()?)?))
}

impl Decoder {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: DecoderConfig) -> Result<Self, ModelError> {
        config.check()?;
        let c = &config;
        let mut table = ParamTable::default();
        let embed_block = table.block("");
        let start = Init::Normal { std: c.init_std };
        let embed = table.add("embed.weight", &[c.vocab, c.model], start, ParamKind::Embedding);
        table.may_cut(embed, 0, 1);
        let positions =
            (c.position == Position::Learned).then(|| table.add("positions.weight", &[c.context, c.model], start, ParamKind::Embedding));
        let embed_norm = c.embed_norm.then(|| NormParams::new(&mut table, c, "embed.norm"));
        let layers = Layers::new(&mut table, config.clone(), Mask::Causal, "");
        let head_block = table.block("");
        let norm = NormParams::new(&mut table, c, "norm");
        let start = if c.zero_init { Init::Zeros } else { start };
        if c.tied && c.head.has_tokens() {
            table.share(embed);
        }
        let head = c.head.has_tokens().then(|| {
            let head = if c.tied { embed } else { table.add("head.weight", &[c.vocab, c.model], start, ParamKind::Head) };
            table.may_cut(head, 0, 1);
            head
        });
        // As reward models begin: *Learning to summarize from human feedback*, arXiv:2009.01325, appendix C.
        let start = Init::Normal { std: 1.0 / (c.model as f32 + 1.0).sqrt() };
        let scalar = c.head.has_scalar().then(|| {
            let weight = table.add("scalar.weight", &[1, c.model], start, ParamKind::Head);
            [weight, table.add("scalar.bias", &[1], Init::Zeros, ParamKind::Vector)]
        });
        Ok(Self { params: table, embed_block, embed, positions, embed_norm, layers, head_block, norm, head, scalar })
    }

    #[must_use]
    pub fn decoder_config(&self) -> &DecoderConfig {
        &self.layers.config
    }

    /// Where the tokens of an input stand: after those in the cache, or after those of other ranks.
    fn places(&self, tape: &Tape<'_>, inputs: &Inputs, advance: Option<&Advance>) -> Result<Places, EngineError> {
        let tokens = inputs.get("tokens")?.shape();
        let [_, seq] = *tokens.dims() else {
            return Err(ShapeError::new("decoder", format!("tokens are {tokens}, not [batch, seq]")).into());
        };
        let first = tape.place(Axis::Context).0 * seq;
        let end = advance.map_or(first + seq, |advance| advance.places().iter().max().map_or(0, |last| *last as usize + 1));
        if self.layers.config.position == Position::Learned && end > self.layers.config.context {
            let problem = format!("`seq` is {end}, and there are {} learned positions", self.layers.config.context);
            return Err(ShapeError::new("decoder", problem).into());
        }
        Ok(advance.map_or(Places::From(first), |advance| Places::After(advance.clone())))
    }

    /// The residual `[batch, seq, model]` after those of `blocks` that come before the head, from that before the first.
    fn residual<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        mut x: Option<Tensor>,
        blocks: Range<usize>,
        advance: Option<&Advance>,
    ) -> Result<Tensor, EngineError> {
        let places = self.places(tape, inputs, advance)?;
        if blocks.start == 0 {
            let tokens = tape.input(inputs, "tokens")?;
            let at = places.clone();
            let [embedded] = tape.block(self.embed_block, [&tokens], move |tape, [tokens]| Ok([self.embed(tape, tokens, &at)?]))?;
            x = Some(embedded);
        }
        let first_layer = self.embed_block.0 + 1;
        for (i, layer) in self.layers.each().iter().enumerate().filter(|(i, _)| blocks.contains(&(first_layer + i))) {
            let before = x.ok_or_else(|| ShapeError::new("decoder", format!("block {i} has no residual to start from")))?;
            let at = places.clone();
            let run = move |tape: &mut Tape<'m>, [x]: [&Tensor; 1]| Ok([self.layers.run(tape, layer, x, &at)?]);
            let [after] = tape.block(layer.block, [&before], run)?;
            x = Some(after);
        }
        Ok(x.ok_or_else(|| ShapeError::new("decoder", "the head has no residual to start from"))?)
    }

    fn embed(&self, tape: &mut Tape<'_>, tokens: &Tensor, places: &Places) -> Result<Tensor, EngineError> {
        let x = tape.embedding_share(tokens, &tape.param(self.embed))?;
        let x = tape.sum_tokens(&x)?;
        let mut x = tape.scale(&x, self.layers.config.embed_scale.unwrap_or(1.0))?;
        if let Some(positions) = self.positions {
            let (batch, seq) = (x.shape().dims()[0], x.shape().dims()[1]);
            let indices: Vec<u32> = match places {
                Places::After(advance) => advance.places().to_vec(),
                Places::From(first) => {
                    let first = first + tape.place(Axis::Tensor).0 * seq;
                    (0..batch).flat_map(|_| (first..first + seq).map(|p| p as u32)).collect()
                }
            };
            let indices = tape.tokens(Shape::new(&[batch, seq]), &indices)?;
            let positions = tape.embedding(&indices, &tape.param(positions))?;
            x = tape.add(&x, &positions)?;
        }
        if let Some(norm) = self.embed_norm {
            x = self.layers.norm(tape, norm, &x)?;
        }
        tape.dropout(&x, self.layers.config.dropout)
    }

    /// The last norm, then `run` on its output and the output layer's weight.
    fn output<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        x: &Tensor,
        run: impl Fn(&mut Tape<'m>, &Tensor, &Tensor) -> Result<Tensor, EngineError> + 'm,
    ) -> Result<Tensor, EngineError> {
        let head = self.head.ok_or_else(|| ShapeError::new("decoder", "it ends in one number, not in tokens"))?;
        let [y] = tape.kept_block(self.head_block, [x], move |tape, [x]| {
            let normed = self.layers.norm(tape, self.norm, x)?;
            let normed = tape.gather_tokens(&normed)?;
            let normed = self.scaled(tape, &normed)?;
            let head = tape.param(head);
            Ok([run(tape, &normed, &head)?])
        })?;
        Ok(y)
    }

    /// What the output layer reads of normed states, so that logits are scaled.
    fn scaled(&self, tape: &mut Tape<'_>, normed: &Tensor) -> Result<Tensor, EngineError> {
        tape.scale(normed, self.layers.config.logit_scale.unwrap_or(1.0))
    }

    /// Logits of what the output layer reads.
    fn capped(&self, tape: &mut Tape<'_>, x: &Tensor, head: &Tensor) -> Result<Tensor, EngineError> {
        let logits = tape.linear_f32(x, head, None)?;
        tape.softcap(&logits, self.layers.config.logit_softcap)
    }

    /// The scalar head of normed states `[batch, seq, model]`: `[batch, seq]`.
    fn scalars(&self, tape: &mut Tape<'_>, normed: &Tensor) -> Result<Tensor, EngineError> {
        let [weight, bias] = self.scalar.ok_or_else(|| ShapeError::new("decoder", "it has no scalar head: set `model.head`"))?;
        if tape.place(Axis::Tensor).1 > 1 {
            return Err(ShapeError::new("decoder", "a scalar head is not shared: use `parallel.mesh.tensor = 1`").into());
        }
        let (weight, bias) = (tape.param(weight), tape.param(bias));
        let scalars = tape.linear_f32(normed, &weight, Some(&bias))?;
        let dims = normed.shape();
        scalars.reshape(&dims.dims()[..dims.dims().len() - 1])
    }
}

impl Model for Decoder {
    fn config(&self) -> toml::Table {
        let mut table = toml::Table::try_from(&self.layers.config).unwrap_or_default();
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
        let cap = self.layers.config.logit_softcap;
        self.output(tape, x, move |tape, x, head| tape.cross_entropy(x, head, None, &targets, scale, cap))
    }

    fn between(&self, batch: usize, length: usize) -> Shape {
        Shape::new(&[batch, length, self.layers.config.model])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        crate::made_up(self.shapes(batch, length), first, |_| self.layers.config.vocab)
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
        self.layers.config.vocab
    }

    fn context(&self) -> usize {
        self.layers.config.context
    }

    fn head_nll<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        let targets = tape.input(inputs, "targets")?;
        let cap = self.layers.config.logit_softcap;
        self.output(tape, x, move |tape, x, head| tape.token_nll(x, head, &targets, cap))
    }

    fn head(&self) -> Head {
        self.layers.config.head
    }

    fn head_scalars<'m>(&'m self, tape: &mut Tape<'m>, x: &Tensor) -> Result<Tensor, EngineError> {
        let [y] = tape.kept_block(self.head_block, [x], move |tape, [x]| {
            let normed = self.layers.norm(tape, self.norm, x)?;
            Ok([self.scalars(tape, &normed)?])
        })?;
        Ok(y)
    }

    fn head_nll_and_scalars<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<[Tensor; 2], EngineError> {
        let targets = tape.input(inputs, "targets")?;
        let head = self.head.ok_or_else(|| ShapeError::new("decoder", "it ends in one number, not in tokens"))?;
        tape.kept_block(self.head_block, [x], move |tape, [x]| {
            let normed = self.layers.norm(tape, self.norm, x)?;
            let scalars = self.scalars(tape, &normed)?;
            let (normed, head) = (self.scaled(tape, &normed)?, tape.param(head));
            Ok([tape.token_nll(&normed, &head, &targets, self.layers.config.logit_softcap)?, scalars])
        })
    }

    fn logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let x = self.residual(tape, inputs, None, 0..self.head_block.0, None)?;
        self.output(tape, &x, |tape, x, head| self.capped(tape, x, head))
    }

    fn next_logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, advance: &Advance) -> Result<Tensor, EngineError> {
        let x = self.residual(tape, inputs, None, 0..self.head_block.0, Some(advance))?;
        let rows = advance.last_rows();
        let x = x.reshape(&[x.shape().rows(), x.shape().last()])?;
        let rows = tape.tokens(Shape::new(&[1, rows.len()]), &rows)?;
        let last = tape.embedding(&rows, &x)?;
        self.output(tape, &last, |tape, x, head| self.capped(tape, x, head))
    }

    fn cache(&self) -> Arc<KvCache> {
        KvCache::new(self.layers.each().len())
    }

    fn decoder(&self) -> Option<&DecoderConfig> {
        Some(&self.layers.config)
    }
}
