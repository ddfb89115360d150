//! CLIP: images and their texts brought together by which belongs to which; arXiv:2103.00020.
//!
//! ```text
//! images -> tower -> class token -> linear \
//!                                           of length one -> which belongs to which, both ways
//! tokens -> layers -> last token -> linear /
//! ```
//! The candidates of a pair are those of its micro-batch on one rank: published runs gather them from all ranks, which changes
//! the loss but hardly the time, for an embedding is some hundred numbers.

use std::ops::Range;

use engine::{BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, Tape, Tensor, ops::Places};
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Model, ModelError,
    decoder::{
        DecoderConfig, Mlp,
        layers::{Layers, NormParams},
    },
    parts::{Linear, pick_by, with_positions},
    vit::{Tower, TowerConfig},
};

/// Sizes of the text side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    pub vocab: usize,
    pub tokens: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub mlp: Mlp,
}

impl TextConfig {
    pub(crate) fn of(layers: usize, width: usize, heads: usize, mlp: Mlp) -> Self {
        Self { vocab: 49_408, tokens: 77, layers, width, heads, ffn: 4 * width, mlp }
    }

    fn layer_config(&self) -> Result<DecoderConfig, ModelError> {
        DecoderConfig::encoder(self.layers, self.width, self.heads, self.ffn, self.mlp, 1e-5)
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        crate::in_range(&[("vocab", self.vocab, 1 << 24), ("tokens", self.tokens, 1 << 16)])?;
        self.layer_config()?.check()
    }
}

/// From tokens to their normed states, each seeing those before it.
pub(crate) struct TextTower {
    config: TextConfig,
    embed_block: BlockId,
    embed: ParamId,
    positions: ParamId,
    layers: Layers,
    norm_block: BlockId,
    norm: NormParams,
}

impl TextTower {
    /// Its blocks' names begin with `prefix`.
    pub fn new(table: &mut ParamTable, config: TextConfig, prefix: &str) -> Result<Self, ModelError> {
        let (c, layer_config) = (&config, config.layer_config()?);
        let name = prefix.trim_end_matches('.');
        let embed_block = table.block(name);
        let embed = table.add("embed", &[c.vocab, c.width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let positions = table.add("positions", &[c.tokens, c.width], Init::Normal { std: 0.01 }, ParamKind::Embedding);
        let layers = Layers::new(table, layer_config, Mask::Causal, prefix);
        let norm_block = table.block(name);
        let norm = NormParams::new(table, &layers.config, "norm");
        Ok(Self { embed_block, embed, positions, layers, norm_block, norm, config })
    }

    /// Input `tokens` `[batch, tokens]` to `[batch, tokens, width]`.
    pub fn states<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let tokens = tape.input(inputs, "tokens")?;
        let embed = move |tape: &mut Tape<'m>, [tokens]: [&Tensor; 1]| {
            let x = tape.embedding(tokens, &tape.param(self.embed))?;
            Ok([with_positions(tape, &x, &tape.param(self.positions))?])
        };
        let [mut x] = tape.block(self.embed_block, [&tokens], embed)?;
        for layer in self.layers.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layers.run(tape, layer, x, &Places::From(0))?]))?;
        }
        let [x] = tape.block(self.norm_block, [&x], move |tape, [x]| Ok([self.layers.norm(tape, self.norm, x)?]))?;
        Ok(x)
    }

    pub fn tokens(&self, inputs: Inputs, batch: usize) -> Inputs {
        inputs.with_u32("tokens", &[batch, self.config.tokens], Vec::new())
    }
}

/// Both sides, and how long what is compared is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    pub image: TowerConfig,
    pub text: TextConfig,
    pub embed: usize,
}

/// See the head of this file.
pub struct Clip {
    config: ClipConfig,
    params: ParamTable,
    image: Tower,
    text: TextTower,
    ends_block: BlockId,
    image_norm: NormParams,
    image_head: Linear,
    text_head: Linear,
    loss_block: BlockId,
    temperature: ParamId,
}

/// Published models by name.
pub const PRESETS: &[&str] = &["clip-vit-b-16", "clip-vit-l-14", "clip-vit-h-14"];

/// arXiv:2103.00020, table 20, with the quick form of GELU of the released weights.
fn preset(name: &str) -> Option<ClipConfig> {
    let image = |patch, layers, width, heads, mlp, eps| TowerConfig {
        mlp,
        eps,
        norm_first: true,
        ..TowerConfig::of([224, patch], layers, width, heads, 4 * width)
    };
    let openai = |patch, layers, width, heads| image(patch, layers, width, heads, Mlp::QuickGelu, 1e-5);
    Some(match name {
        "clip-vit-b-16" => ClipConfig { image: openai(16, 12, 768, 12), text: TextConfig::of(12, 512, 8, Mlp::QuickGelu), embed: 512 },
        "clip-vit-l-14" => ClipConfig { image: openai(14, 24, 1024, 16), text: TextConfig::of(12, 768, 12, Mlp::QuickGelu), embed: 768 },
        // mlfoundations/open_clip, model_configs/ViT-H-14.json.
        "clip-vit-h-14" => {
            ClipConfig { image: image(14, 32, 1280, 16, Mlp::Gelu, 1e-5), text: TextConfig::of(24, 1024, 16, Mlp::Gelu), embed: 1024 }
        }
        _ => return None,
    })
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "clip", unit: "pairs", objective: "contrastive", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    Ok(Box::new(Clip::new(crate::of_preset(table, PRESETS, preset)?)?))
}

impl Clip {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: ClipConfig) -> Result<Self, ModelError> {
        crate::in_range(&[("embed", config.embed, 1 << 16)])?;
        config.image.check()?;
        config.text.check()?;
        let mut table = ParamTable::default();
        let image = Tower::new(&mut table, config.image.clone(), "image.")?;
        let text = TextTower::new(&mut table, config.text.clone(), "text.")?;
        let ends_block = table.block("image");
        let image_norm = image.last_norm(&mut table);
        let image_head = Linear::new(&mut table, "head", [config.embed, config.image.width], false);
        table.block("text");
        let text_head = Linear::new(&mut table, "head", [config.embed, config.text.width], false);
        let loss_block = table.block("");
        let temperature = table.add("temperature", &[1], Init::Zeros, ParamKind::Vector);
        Ok(Self { params: table, image, text, ends_block, image_norm, image_head, text_head, loss_block, temperature, config })
    }

    /// What is compared, both sides beside one another: `[batch, 2 embed]`, each of root mean square one.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn embeddings<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let (images, ends) = (tape.input(inputs, "images")?, tape.input(inputs, "ends")?);
        let (image, text) = (self.image.run(tape, &images)?, self.text.states(tape, inputs)?);
        let [image] = tape.block(self.ends_block, [&image], move |tape, [image]| {
            let image = self.image.class(tape, self.image_norm, image)?;
            let image = self.image_head.run(tape, &image)?;
            Ok([of_length_one(tape, &image)?])
        })?;
        let [both] = tape.block(BlockId(self.ends_block.0 + 1), [&image, &text, &ends], move |tape, [image, text, ends]| {
            let text = pick_by(tape, text, ends)?;
            let text = self.text_head.run(tape, &text)?;
            let text = of_length_one(tape, &text)?;
            Ok([tape.concat(image, &text)?])
        })?;
        Ok(both)
    }
}

/// Rows over their root mean square.
fn of_length_one(tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
    let width = x.shape().last();
    let ones = if tape.device() == engine::Device::Cpu { vec![1.0; width] } else { Vec::new() };
    let ones = tape.constant(Shape::new(&[width]), &ones)?;
    tape.rms_norm(x, &ones, 1e-12)
}

impl Model for Clip {
    fn config(&self) -> toml::Table {
        crate::written("clip", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("clip", &self.params, &blocks)?;
        self.embeddings(tape, inputs)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, _inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let width = self.config.embed;
        let [loss] = tape.kept_block(self.loss_block, [x], move |tape, [x]| {
            let (image, text) = (tape.columns(x, 0..width)?, tape.columns(x, width..2 * width)?);
            let temperature = tape.param(self.temperature);
            Ok([tape.contrastive(&image, &text, &temperature, scale)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        Shape::new(&[batch, 2 * self.config.embed])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        let tokens = self.config.text.tokens;
        let ends = (0..batch).map(|n| (n * tokens + tokens - 1) as u32).collect();
        crate::made_up(self.shapes(batch, length), first, |_| self.config.text.vocab).with_u32("ends", &[batch], ends)
    }

    /// `ends`: of each text its last token's place among all of the batch.
    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        self.text.tokens(self.image.images(Inputs::new(), batch), batch).with_u32("ends", &[batch], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }
}
