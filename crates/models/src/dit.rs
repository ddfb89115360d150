//! The diffusion transformer: latents cut into patches, each layer's norms scaled, shifted and gated by time and class;
//! arXiv:2212.09748.
//!
//! ```text
//! latents -> patches + positions -> [modulated norm -> attention -> gate -> + ; modulated norm -> mlp -> gate -> +] -> patches
//! time -> waves -> mlp \
//! class -> embedding    + (text -> linear) -> silu -> linear -> scales, shifts and gates of each layer, zero at the start
//! ```
//! Absent: the term that trains the variances (arXiv:2102.09672), of which the last layer gives as many numbers as of the
//! noise; here they get no gradient. With `text_width` a row of numbers for each sample, what a frozen encoder says of its caption, is told
//! beside time and class.

use std::ops::Range;

use engine::{BlockId, EngineError, Init, Inputs, ParamId, ParamKind, ParamTable, Shape, Tape, Tensor, ops::Activation};
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Model, ModelError,
    parts::{self, Attention, FeedForward, Linear, bare_norm, with_positions},
};

/// Every size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Side of the latents: an eighth of the image's. Sides of patches.
    pub size: usize,
    pub patch: usize,
    pub channels: usize,
    /// Twice `channels` where variances are said too.
    pub out_channels: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// One more than there are: none.
    pub classes: usize,
    /// Waves of the time.
    pub waves: usize,
    /// 1 in the layout of diffusers, whose waves are a little longer than the paper's code has them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wave_shift: usize,
    /// Numbers of a caption; 0: it is told none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub text_width: usize,
    /// Of the norms before the feed-forward layers; all others have 1e-6.
    #[serde(default = "usual_eps", skip_serializing_if = "is_usual_eps")]
    pub mlp_eps: f32,
}

/// Of the norms of the paper's code.
const EPS: f32 = 1e-6;

fn usual_eps() -> f32 {
    EPS
}

fn is_usual_eps(eps: &f32) -> bool {
    *eps == EPS
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Published models by name, for 256 pixels.
pub const PRESETS: &[&str] = &["dit-s-2", "dit-b-2", "dit-l-2", "dit-xl-2"];

/// arXiv:2212.09748, table 1.
fn preset(name: &str) -> Option<DitConfig> {
    let of = |layers, width, heads| DitConfig {
        size: 32,
        patch: 2,
        channels: 4,
        out_channels: 8,
        layers,
        width,
        heads,
        classes: 1001,
        waves: 256,
        wave_shift: 0,
        text_width: 0,
        mlp_eps: EPS,
    };
    Some(match name {
        "dit-s-2" => of(12, 384, 6),
        "dit-b-2" => of(12, 768, 12),
        "dit-l-2" => of(24, 1024, 16),
        "dit-xl-2" => of(28, 1152, 16),
        _ => return None,
    })
}

/// See the head of this file.
pub struct Dit {
    config: DitConfig,
    params: ParamTable,
    told_block: BlockId,
    time: [Linear; 2],
    class: ParamId,
    text: Option<Linear>,
    embed_block: BlockId,
    patch: Linear,
    layers: Vec<Layer>,
    last_block: BlockId,
    last_told: Linear,
    last: Linear,
}

struct Layer {
    block: BlockId,
    told: Linear,
    attn: Attention,
    mlp: FeedForward,
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "dit", unit: "images", objective: "denoising", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    Ok(Box::new(Dit::new(crate::of_preset(table, PRESETS, preset)?)?))
}

impl Dit {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: DitConfig) -> Result<Self, ModelError> {
        config.check()?;
        let (c, mut table) = (&config, ParamTable::default());
        let told_block = table.block("");
        let time = [Linear::new(&mut table, "time.in", [c.width, c.waves], true), Linear::new(&mut table, "time.out", [c.width; 2], true)];
        let class = table.add("class", &[c.classes, c.width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let text = (c.text_width > 0).then(|| Linear::new(&mut table, "text", [c.width, c.text_width], true));
        let embed_block = table.block("");
        let patch = Linear::new(&mut table, "patch", [c.width, c.patch * c.patch * c.channels], true);
        let layer = |i: usize| {
            let block = table.block(format!("layers.{i}"));
            Layer {
                block,
                told: Linear::starting(&mut table, "told", [6 * c.width, c.width], true, Init::Zeros),
                attn: Attention::new(&mut table, "attn", [c.width; 2], c.width / c.heads, true),
                mlp: FeedForward::new(&mut table, "mlp", [c.width, 4 * c.width], Activation::GeluTanh, false),
            }
        };
        let layers = (0..c.layers).map(layer).collect();
        let last_block = table.block("");
        let last_told = Linear::starting(&mut table, "out.told", [2 * c.width, c.width], true, Init::Zeros);
        let last = Linear::starting(&mut table, "out", [c.patch * c.patch * c.out_channels, c.width], true, Init::Zeros);
        Ok(Self { params: table, told_block, time, class, text, embed_block, patch, layers, last_block, last_told, last, config })
    }

    /// Time, class and, if there is one, text: `[batch, width]`.
    fn told(&self, tape: &mut Tape<'_>, timesteps: &Tensor, classes: &Tensor, text: Option<&Tensor>) -> Result<Tensor, EngineError> {
        let waves = tape.sinusoid(timesteps, self.config.waves, self.config.wave_shift)?;
        let time = self.time[0].run(tape, &waves)?;
        let time = tape.activation(Activation::Silu, &time)?;
        let time = self.time[1].run(tape, &time)?;
        let class = tape.embedding(classes, &tape.param(self.class))?;
        let mut told = tape.add(&time, &class)?;
        if let Some(text) = text {
            told = tape.add(&told, text)?;
        }
        tape.activation(Activation::Silu, &told)
    }

    /// The states before the last layer `[batch, patches, width]` and what it is told `[batch, width]`, as one more token.
    fn states<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<[Tensor; 2], EngineError> {
        let c = &self.config;
        let (latents, timesteps, classes) =
            (tape.input(inputs, "latents")?, tape.input(inputs, "timesteps")?, tape.input(inputs, "classes")?);
        let [told] = match self.text {
            Some(linear) => {
                let text = tape.input(inputs, "text")?;
                tape.block(self.told_block, [&timesteps, &classes, &text], move |tape, [timesteps, classes, text]| {
                    let said = linear.run(tape, text)?;
                    Ok([self.told(tape, timesteps, classes, Some(&said))?])
                })?
            }
            None => tape.block(self.told_block, [&timesteps, &classes], move |tape, [timesteps, classes]| {
                Ok([self.told(tape, timesteps, classes, None)?])
            })?,
        };
        let [mut x] = tape.block(self.embed_block, [&latents], move |tape, [latents]| {
            let patches = tape.patches(latents, c.patch)?;
            let tokens = self.patch.run(tape, &patches)?;
            let positions = parts::positions(tape, c.size / c.patch, c.width)?;
            Ok([with_positions(tape, &tokens, &positions)?])
        })?;
        for layer in &self.layers {
            [x] = tape.block(layer.block, [&x, &told], move |tape, [x, told]| {
                let all = layer.told.run(tape, told)?;
                let mut part = 0..c.width;
                let mut next = |tape: &mut Tape<'m>| {
                    let columns = part.clone();
                    part = part.end..part.end + c.width;
                    tape.columns(&all, columns)
                };
                let (shift, scale, gate) = (next(tape)?, next(tape)?, next(tape)?);
                let normed = modulated(tape, x, [&shift, &scale], EPS)?;
                let attended = layer.attn.run(tape, &normed, None)?;
                let attended = tape.modulate(&attended, 0.0, Some(&gate), None)?;
                let x = tape.add(x, &attended)?;
                let (shift, scale, gate) = (next(tape)?, next(tape)?, next(tape)?);
                let normed = modulated(tape, &x, [&shift, &scale], c.mlp_eps)?;
                let fed = layer.mlp.run(tape, &normed)?;
                let fed = tape.modulate(&fed, 0.0, Some(&gate), None)?;
                Ok([tape.add(&x, &fed)?])
            })?;
        }
        Ok([x, told])
    }

    /// What it says of each patch: `[batch, patches, patch * patch * out_channels]`.
    fn said(&self, tape: &mut Tape<'_>, x: &Tensor, told: &Tensor) -> Result<Tensor, EngineError> {
        let (all, width) = (self.last_told.run(tape, told)?, self.config.width);
        let (shift, scale) = (tape.columns(&all, 0..width)?, tape.columns(&all, width..2 * width)?);
        let normed = modulated(tape, x, [&shift, &scale], EPS)?;
        self.last.run(tape, &normed)
    }

    /// The same from the model's inputs.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn patches<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let [x, told] = self.states(tape, inputs)?;
        self.said(tape, &x, &told)
    }
}

/// A bare norm of `x`, times `1 + scale`, plus `shift`.
fn modulated(tape: &mut Tape<'_>, x: &Tensor, [shift, scale]: [&Tensor; 2], eps: f32) -> Result<Tensor, EngineError> {
    let normed = bare_norm(tape, x, 1.0, eps)?;
    tape.modulate(&normed, 1.0, Some(scale), Some(shift))
}

impl DitConfig {
    fn check(&self) -> Result<(), ModelError> {
        crate::in_range(&[
            ("size", self.size, 1 << 12),
            ("patch", self.patch, 1 << 12),
            ("channels", self.channels, 1 << 12),
            ("out_channels", self.out_channels, 1 << 13),
            ("layers", self.layers, 1 << 12),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, 1 << 12),
            ("classes", self.classes, 1 << 24),
            ("waves", self.waves, 1 << 16),
            ("text_width", self.text_width.max(1), 1 << 16),
        ])?;
        let wrong = |key, problem: String, help: &str| Err(ModelError::key(key, problem, help));
        if !self.size.is_multiple_of(self.patch) {
            let problem = format!("patches of {} do not fill a side of {}", self.patch, self.size);
            return wrong("patch", problem, "choose `patch` that divides `size`");
        }
        if !self.width.is_multiple_of(self.heads) || !self.width.is_multiple_of(4) {
            let problem = format!("{} is no multiple of {} heads and of 4", self.width, self.heads);
            return wrong("width", problem, "positions take quarters of the width, and heads equal parts");
        }
        if !self.waves.is_multiple_of(2) {
            return wrong("waves", format!("{} is odd, and waves come in pairs", self.waves), "use an even number");
        }
        if self.wave_shift >= self.waves / 2 {
            return wrong("wave_shift", format!("{} leaves none of {} waves", self.wave_shift, self.waves / 2), "use 0, or 1");
        }
        if !(self.mlp_eps >= 0.0 && self.mlp_eps.is_finite()) {
            return wrong("mlp_eps", format!("{} is no small number", self.mlp_eps), "leave it out for 1e-6");
        }
        if self.out_channels < self.channels {
            let problem = format!("{} are fewer than the {} of the latents", self.out_channels, self.channels);
            return wrong("out_channels", problem, "use as many as `channels`, or twice as many");
        }
        Ok(())
    }
}

impl Model for Dit {
    fn config(&self) -> toml::Table {
        crate::written("dit", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("dit", &self.params, &blocks)?;
        let [x, told] = self.states(tape, inputs)?;
        tape.stack(&x, &told)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let target = tape.input(inputs, "target")?;
        let c = &self.config;
        let [loss] = tape.kept_block(self.last_block, [x, &target], move |tape, [x, target]| {
            let (batch, tokens) = (target.shape().dims()[0], (c.size / c.patch).pow(2));
            let states = crate::parts::pick(tape, x, &[batch, tokens], |i| i)?;
            let told = crate::parts::pick(tape, x, &[batch], |n| batch * tokens + n)?;
            let said = self.said(tape, &states, &told)?.reshape(&[batch, tokens * c.patch * c.patch, c.out_channels])?;
            let noise = tape.columns(&said, 0..c.channels)?;
            let target = tape.patches(target, c.patch)?;
            Ok([tape.mse(&noise, &target, scale)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        let c = &self.config;
        Shape::new(&[batch * ((c.size / c.patch).pow(2) + 1), c.width])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        crate::made_up(self.shapes(batch, length), first, |_| self.config.classes)
    }

    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        let c = &self.config;
        let inputs = Inputs::new()
            .with_f32("latents", &[batch, c.size, c.size, c.channels], Vec::new())
            .with_f32("timesteps", &[batch], Vec::new())
            .with_u32("classes", &[batch], Vec::new())
            .with_f32("target", &[batch, c.size, c.size, c.channels], Vec::new());
        if c.text_width > 0 { inputs.with_f32("text", &[batch, c.text_width], Vec::new()) } else { inputs }
    }

    fn is_whole(&self) -> bool {
        true
    }
}
