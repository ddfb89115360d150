//! Masked autoencoders: an encoder sees a quarter of an image's patches, and a small decoder says what the others are;
//! arXiv:2111.06377.
//!
//! ```text
//! images -> patches + positions -> those kept -> class token -> layers -> norm -> narrower
//!        -> mask tokens in the places of the others + positions -> layers -> norm -> pixels of the masked patches
//! ```
//! Which patches are kept is an input, drawn by whoever makes the batch: [`Choice::of`]. Targets are each patch's own pixels,
//! with mean 0 and variance 1. Positions are fixed waves.

use std::ops::Range;

use engine::{BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, Tape, Tensor, ops::Places};
use serde::{Deserialize, Serialize};

use crate::{
    Beginning, Kind, Model, ModelError,
    decoder::{DecoderConfig, Mlp, declare::NormParams, layers::Layers},
    parts::{self, Linear, bare_norm, pick, pick_by, prepend, with_positions},
    tower::TowerConfig,
    vit,
};

/// Sizes of both halves. Of the tower it takes all but the norm that CLIP puts first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    pub tower: TowerConfig,
    pub decoder_layers: usize,
    pub decoder_width: usize,
    pub decoder_heads: usize,
    /// Share of the patches that the encoder does not see.
    pub mask_ratio: f32,
}

/// Published models by name.
pub const PRESETS: &[&str] = &["mae-vit-s-16", "mae-vit-b-16", "mae-vit-l-16", "mae-vit-h-14"];

/// arXiv:2111.06377, appendix A: the encoders of the vision transformer, one decoder for all.
fn preset(name: &str) -> Option<MaeConfig> {
    let tower = vit::tower(name.strip_prefix("mae-").filter(|_| PRESETS.contains(&name))?)?;
    Some(MaeConfig { tower, decoder_layers: 8, decoder_width: 512, decoder_heads: 16, mask_ratio: 0.75 })
}

/// See the head of this file.
pub struct Mae {
    config: MaeConfig,
    params: ParamTable,
    embed_block: BlockId,
    patch: Linear,
    class: ParamId,
    layers: Layers,
    into_block: BlockId,
    norm: NormParams,
    into: Linear,
    mask: ParamId,
    decoder: Layers,
    last_block: BlockId,
    decoder_norm: NormParams,
    out: Linear,
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "vit_mae", unit: "images", objective: "reconstruction", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    Ok(Box::new(Mae::new(crate::of_preset(table, PRESETS, preset)?)?))
}

/// A masked autoencoder's encoder as the start of a classifier, arXiv:2111.06377, appendix A.1: its fixed positions are where the
/// classifier's own begin.
pub(crate) const AS_CLASSIFIER: Beginning = Beginning {
    kind: "vit",
    from: "vit_mae",
    shared: &["tower"],
    left_out: &["decoder."],
    anew: &["head.weight", "head.bias"],
    made: |theirs| {
        let tower = crate::typed::<MaeConfig>(theirs)?.tower;
        // The class token has no place.
        let mut positions = vec![0.0; tower.width];
        positions.extend(crate::fixed_positions(tower.size / tower.patch, tower.width));
        Ok(vec![("positions", positions)])
    },
};

/// Which patches of each sample are kept, as the model's inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// `[batch, kept]`: their places among all patches of the batch.
    pub keep: Vec<u32>,
    /// `[batch, patches]`: 0 where a patch is masked, or one more than its place among all that are kept.
    pub restore: Vec<u32>,
    /// `[batch, patches - kept]`: places of those that are masked.
    pub masked: Vec<u32>,
}

impl Choice {
    /// Of each sample's `patches` the `kept` with the smallest number in `order` `[batch, patches]`.
    #[must_use]
    pub fn of(order: &[f32], patches: usize, kept: usize) -> Self {
        let mut choice = Self { keep: Vec::new(), restore: vec![0; order.len()], masked: Vec::new() };
        for (n, order) in order.chunks_exact(patches).enumerate() {
            let mut sorted: Vec<usize> = (0..patches).collect();
            sorted.sort_by(|a, b| order[*a].total_cmp(&order[*b]));
            for (rank, patch) in sorted.into_iter().enumerate() {
                let place = n * patches + patch;
                if rank < kept {
                    choice.keep.push(place as u32);
                    choice.restore[place] = choice.keep.len() as u32;
                } else {
                    choice.masked.push(place as u32);
                }
            }
        }
        choice
    }

    /// With `images`, what the model asks for.
    #[must_use]
    pub fn inputs(self, images: Inputs, batch: usize) -> Inputs {
        let each = |all: &[u32]| all.len() / batch.max(1);
        let (keep, restore, masked) = ([batch, each(&self.keep)], [batch, each(&self.restore)], [batch, each(&self.masked)]);
        images.with_u32("keep", &keep, self.keep).with_u32("restore", &restore, self.restore).with_u32("masked", &masked, self.masked)
    }
}

impl Mae {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: MaeConfig) -> Result<Self, ModelError> {
        let c = &config;
        c.tower.check()?;
        c.tower.with_class_token()?;
        if c.tower.norm_first {
            return Err(ModelError::key("tower.norm_first", "its encoder has no norm before the layers", "leave it `false`"));
        }
        for (key, width) in [("tower.width", c.tower.width), ("decoder_width", c.decoder_width)] {
            if !width.is_multiple_of(4) {
                let problem = format!("{width} columns are no sines and cosines of lines and columns");
                return Err(ModelError::key(key, problem, "use a multiple of 4"));
            }
        }
        let patches = c.tower.patches();
        if !(1..patches).contains(&c.kept()) {
            let problem = format!("of {patches} patches {} are kept", c.kept());
            return Err(ModelError::key("mask_ratio", problem, "use a ratio that leaves some patches and masks some, such as 0.75"));
        }
        let tower = &c.tower;
        let encoder = DecoderConfig::encoder(tower.layers, tower.width, tower.heads, tower.ffn, tower.mlp, tower.eps)?;
        let small = DecoderConfig::encoder(c.decoder_layers, c.decoder_width, c.decoder_heads, 4 * c.decoder_width, Mlp::Gelu, tower.eps)?;
        small.check()?;
        let pixels = 3 * tower.patch * tower.patch;
        let mut table = ParamTable::default();
        let embed_block = table.block("");
        let patch = Linear::new(&mut table, "patch", [tower.width, pixels], true);
        let class = table.add("class", &[1, tower.width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let layers = Layers::new(&mut table, encoder, Mask::Full, "");
        let into_block = table.block("");
        let norm = NormParams::new(&mut table, &layers.config, "norm");
        let into = Linear::new(&mut table, "decoder.in", [c.decoder_width, tower.width], true);
        let mask = table.add("decoder.mask", &[1, c.decoder_width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let decoder = Layers::new(&mut table, small, Mask::Full, "decoder.");
        let last_block = table.block("decoder");
        let decoder_norm = NormParams::new(&mut table, &decoder.config, "norm");
        let out = Linear::new(&mut table, "out", [pixels, c.decoder_width], true);
        Ok(Self {
            params: table,
            embed_block,
            patch,
            class,
            layers,
            into_block,
            norm,
            into,
            mask,
            decoder,
            last_block,
            decoder_norm,
            out,
            config,
        })
    }

    /// The decoder's states of all patches, the class token first: `[batch, 1 + patches, decoder_width]`.
    fn states<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let tower = &self.config.tower;
        let side = tower.size / tower.patch;
        let (images, keep, restore) = (tape.input(inputs, "images")?, tape.input(inputs, "keep")?, tape.input(inputs, "restore")?);
        let [mut x] = tape.block(self.embed_block, [&images, &keep], move |tape, [images, keep]| {
            let patches = tape.patches(images, tower.patch)?;
            let tokens = self.patch.run(tape, &patches)?;
            let positions = parts::positions(tape, side, tower.width)?;
            let tokens = with_positions(tape, &tokens, &positions)?;
            let kept = pick_by(tape, &tokens, keep)?;
            Ok([prepend(tape, &tape.param(self.class), &kept)?])
        })?;
        for layer in self.layers.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layers.run(tape, layer, x, &Places::From(0))?]))?;
        }
        [x] = tape.block(self.into_block, [&x, &restore], move |tape, [x, restore]| {
            let normed = self.layers.norm(tape, self.norm, x)?;
            let narrow = self.into.run(tape, &normed)?;
            let [batch, seen] = [narrow.shape().dims()[0], narrow.shape().dims()[1]];
            let kept = pick(tape, &narrow, &[batch, seen - 1], |i| i / (seen - 1) * seen + 1 + i % (seen - 1))?;
            let all = tape.stack(&tape.param(self.mask), &kept)?;
            let patches = pick_by(tape, &all, restore)?;
            let positions = parts::positions(tape, side, self.config.decoder_width)?;
            let patches = with_positions(tape, &patches, &positions)?;
            // The class token of each sample before its patches, at no position.
            let (count, tokens) = (patches.shape().dims()[1], batch * seen);
            let both = tape.stack(&narrow, &patches)?;
            let place = |i: usize| {
                let (n, at) = (i / (count + 1), i % (count + 1));
                if at == 0 { n * seen } else { tokens + n * count + at - 1 }
            };
            Ok([pick(tape, &both, &[batch, count + 1], place)?])
        })?;
        for layer in self.decoder.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.decoder.run(tape, layer, x, &Places::From(0))?]))?;
        }
        Ok(x)
    }

    /// What the encoder makes of images `[batch, size, size, 3]` of which it sees every patch: the normed states of the class token and of
    /// the patches, `[batch, 1 + patches, width]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn features<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let tower = &self.config.tower;
        let images = tape.input(inputs, "images")?;
        let [mut x] = tape.block(self.embed_block, [&images], move |tape, [images]| {
            let patches = tape.patches(images, tower.patch)?;
            let tokens = self.patch.run(tape, &patches)?;
            let positions = parts::positions(tape, tower.size / tower.patch, tower.width)?;
            let tokens = with_positions(tape, &tokens, &positions)?;
            Ok([prepend(tape, &tape.param(self.class), &tokens)?])
        })?;
        for layer in self.layers.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layers.run(tape, layer, x, &Places::From(0))?]))?;
        }
        let [x] = tape.block(self.into_block, [&x], move |tape, [x]| Ok([self.layers.norm(tape, self.norm, x)?]))?;
        Ok(x)
    }

    /// What it says of the pixels of the masked patches: `[batch, masked, pixels]`.
    fn pixels(&self, tape: &mut Tape<'_>, x: &Tensor, masked: &Tensor) -> Result<Tensor, EngineError> {
        let [batch, tokens] = [x.shape().dims()[0], x.shape().dims()[1]];
        let patches = pick(tape, x, &[batch, tokens - 1], |i| i / (tokens - 1) * tokens + 1 + i % (tokens - 1))?;
        let masked = pick_by(tape, &patches, masked)?;
        let normed = self.decoder.norm(tape, self.decoder_norm, &masked)?;
        self.out.run(tape, &normed)
    }

    /// The same from the model's inputs.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn reconstruction<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let (x, masked) = (self.states(tape, inputs)?, tape.input(inputs, "masked")?);
        self.pixels(tape, &x, &masked)
    }
}

impl MaeConfig {
    /// Patches that the encoder sees.
    fn kept(&self) -> usize {
        (self.tower.patches() as f32 * (1.0 - self.mask_ratio)) as usize
    }
}

impl Model for Mae {
    fn config(&self) -> toml::Table {
        crate::written("vit_mae", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("vit_mae", &self.params, &blocks)?;
        self.states(tape, inputs)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let (images, masked) = (tape.input(inputs, "images")?, tape.input(inputs, "masked")?);
        let [loss] = tape.kept_block(self.last_block, [x, &images, &masked], move |tape, [x, images, masked]| {
            let patches = tape.patches(images, self.config.tower.patch)?;
            let targets = pick_by(tape, &patches, masked)?;
            // The published code divides by the root of the unbiased variance, and 1e-6.
            let shrink = 1.0 - 1.0 / targets.shape().last() as f32;
            let targets = bare_norm(tape, &targets, shrink.sqrt(), 1e-6 * shrink)?;
            let pixels = self.pixels(tape, x, masked)?;
            Ok([tape.mse(&pixels, &targets, scale)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        Shape::new(&[batch, self.config.tower.patches() + 1, self.config.decoder_width])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        let patches = self.config.tower.patches();
        let drawn = |i: usize| (engine::mix((first * patches + i) as u64) >> 40) as f32;
        let order: Vec<f32> = (0..batch * patches).map(drawn).collect();
        let inputs = crate::made_up(self.shapes(batch, length), first, |_| 1);
        Choice::of(&order, patches, self.config.kept()).inputs(inputs, batch)
    }

    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        let (size, patches, kept) = (self.config.tower.size, self.config.tower.patches(), self.config.kept());
        Inputs::new()
            .with_f32("images", &[batch, size, size, 3], Vec::new())
            .with_u32("keep", &[batch, kept], Vec::new())
            .with_u32("restore", &[batch, patches], Vec::new())
            .with_u32("masked", &[batch, patches - kept], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }
}
