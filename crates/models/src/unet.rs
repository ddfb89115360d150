//! The U-Net of latent diffusion, Stable Diffusion's: from noised latents, the time and the states of a text encoder to the
//! noise; arXiv:2112.10752, and github.com/CompVis/stable-diffusion for the sizes.
//!
//! ```text
//! latents -> conv -> [residual -> attention] x res_blocks, half the size -> ... -> middle
//!                          | kept                                                   |
//! noise   <- conv <- [residual -> attention] x (res_blocks + 1), twice the size <- ..
//! ```
//! Images are `[batch, height, width, channels]`: an image is its pixels as tokens under another shape. What is kept on the
//! way down ties the blocks together, so that they make one stage.

mod config;

use std::ops::Range;

pub use config::{PRESETS, UnetConfig};
use engine::{BlockId, EngineError, Inputs, ParamTable, Shape, ShapeError, Tape, Tensor, ops::Activation};

use crate::{
    Kind, Model, ModelError,
    encoders::Encoder,
    parts::{Attention, Conv, FeedForward, Grouping, Linear, Norm, Residual, double},
};

/// See the head of this file.
pub struct Unet {
    config: UnetConfig,
    params: ParamTable,
    time_block: BlockId,
    time: [Linear; 2],
    first_block: BlockId,
    first: Conv,
    down: Vec<(BlockId, Down)>,
    middle_block: BlockId,
    middle: (Residual, Spatial, Residual),
    up: Vec<Up>,
    last_block: BlockId,
    norm: Norm,
    last: Conv,
    encoders: Vec<Encoder>,
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "unet", unit: "images", objective: "denoising", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    let config: UnetConfig = crate::of_preset(table, PRESETS, config::preset)?;
    Ok(Box::new(Unet::new(config)?))
}

enum Down {
    Mix(Box<Residual>, Option<Spatial>),
    Halve(Conv),
}

struct Up {
    block: BlockId,
    residual: Residual,
    spatial: Option<Spatial>,
    double: Option<Conv>,
}

/// Pixels as tokens that see one another and then the text.
struct Spatial {
    norm: Norm,
    into: Linear,
    layers: Vec<SpatialLayer>,
    out: Linear,
    groups: usize,
}

struct SpatialLayer {
    norms: [Norm; 3],
    pixels: Attention,
    text: Attention,
    ffn: FeedForward,
}

impl Spatial {
    fn new(table: &mut ParamTable, name: &str, c: &UnetConfig, width: usize) -> Self {
        let head_dim = c.head_dim.unwrap_or(width / c.heads.unwrap_or(1));
        let layer = |table: &mut ParamTable, i: usize| {
            let name = format!("{name}.layers.{i}");
            SpatialLayer {
                norms: [1, 2, 3].map(|i| Norm::new(table, &format!("{name}.norm{i}"), width, 1e-5)),
                pixels: Attention::new(table, &format!("{name}.pixels"), [width, width], head_dim, false),
                text: Attention::new(table, &format!("{name}.text"), [width, c.text_width], head_dim, false),
                ffn: FeedForward::new(table, &format!("{name}.ffn"), [width, 4 * width], Activation::Gelu, true),
            }
        };
        Self {
            norm: Norm::new(table, &format!("{name}.norm"), width, 1e-6),
            into: Linear::new(table, &format!("{name}.in"), [width, width], true),
            layers: (0..c.depth).map(|i| layer(table, i)).collect(),
            out: Linear::starting(table, &format!("{name}.out"), [width, width], true, engine::Init::Zeros),
            groups: c.groups,
        }
    }

    fn run(&self, tape: &mut Tape<'_>, image: &Tensor, text: &Tensor) -> Result<Tensor, EngineError> {
        let shape = image.shape();
        let [batch, height, width, channels] = *shape.dims() else {
            return Err(ShapeError::new("unet", format!("{shape} is no [batch, height, width, channels]")).into());
        };
        let normed = self.norm.groups(tape, image, self.groups)?;
        let mut x = self.into.run(tape, &normed)?.reshape(&[batch, height * width, channels])?;
        drop(normed);
        for layer in &self.layers {
            let normed = layer.norms[0].layer(tape, &x)?;
            let attended = layer.pixels.run(tape, &normed, None)?;
            x = tape.add(&x, &attended)?;
            let normed = layer.norms[1].layer(tape, &x)?;
            let attended = layer.text.run(tape, &normed, Some(text))?;
            x = tape.add(&x, &attended)?;
            let normed = layer.norms[2].layer(tape, &x)?;
            let fed = layer.ffn.run(tape, &normed)?;
            x = tape.add(&x, &fed)?;
        }
        let y = self.out.run(tape, &x)?.reshape(shape.dims())?;
        tape.add(image, &y)
    }
}

impl Unet {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: UnetConfig) -> Result<Self, ModelError> {
        config.check()?;
        let encoders = config.encoders.iter().map(|encoder| Encoder::new(encoder, 8 * config.size)).collect::<Result<_, _>>()?;
        let (c, mut table) = (&config, ParamTable::default());
        let time_width = 4 * c.width;
        let grouping = Grouping { groups: c.groups, eps: 1e-5 };
        let residual = |table: &mut ParamTable, name: &str, dims: [usize; 2]| Residual::new(table, name, dims, Some(time_width), grouping);
        let spatial = |table: &mut ParamTable, level: usize, width: usize| {
            c.attention.get(level).copied().unwrap_or(false).then(|| Spatial::new(table, "attn", c, width))
        };
        let time_block = table.block("time");
        let time = [Linear::new(&mut table, "in", [time_width, c.width], true), Linear::new(&mut table, "out", [time_width; 2], true)];
        let first_block = table.block("");
        let first = Conv::new(&mut table, "in", [c.width, c.channels], 3);
        let (mut down, mut kept, mut at) = (Vec::new(), vec![c.width], c.width);
        for (level, factor) in c.factors.iter().enumerate() {
            for _ in 0..c.res_blocks {
                let (block, width) = (table.block(format!("down.{}", down.len())), factor * c.width);
                let residual = residual(&mut table, "res", [width, at]);
                down.push((block, Down::Mix(Box::new(residual), spatial(&mut table, level, width))));
                at = width;
                kept.push(at);
            }
            if level + 1 < c.factors.len() {
                let block = table.block(format!("down.{}", down.len()));
                down.push((block, Down::Halve(Conv::halving(&mut table, "halve", at, [1, 1]))));
                kept.push(at);
            }
        }
        let middle_block = table.block("middle");
        let middle =
            (residual(&mut table, "res1", [at, at]), Spatial::new(&mut table, "attn", c, at), residual(&mut table, "res2", [at, at]));
        let mut up = Vec::new();
        for (level, factor) in c.factors.iter().enumerate().rev() {
            for i in 0..=c.res_blocks {
                let (block, width) = (table.block(format!("up.{}", up.len())), factor * c.width);
                let residual = residual(&mut table, "res", [width, at + kept.pop().unwrap_or(0)]);
                let spatial = spatial(&mut table, level, width);
                let double = (level > 0 && i == c.res_blocks).then(|| Conv::new(&mut table, "double", [width, width], 3));
                up.push(Up { block, residual, spatial, double });
                at = width;
            }
        }
        let last_block = table.block("");
        let norm = Norm::new(&mut table, "norm", c.width, 1e-5);
        let last = Conv::zeros(&mut table, "out", [c.out_channels, c.width], 3);
        Ok(Self {
            params: table,
            encoders,
            time_block,
            time,
            first_block,
            first,
            down,
            middle_block,
            middle,
            up,
            last_block,
            norm,
            last,
            config,
        })
    }

    /// The time as the residual blocks are told it: `[batch, 4 width]`.
    fn time(&self, tape: &mut Tape<'_>, timesteps: &Tensor) -> Result<Tensor, EngineError> {
        let waves = tape.sinusoid(timesteps, self.config.width, 0)?;
        let wide = self.time[0].run(tape, &waves)?;
        let wide = tape.activation(Activation::Silu, &wide)?;
        self.time[1].run(tape, &wide)
    }

    /// What the last block reads: `[batch, height, width, width of the first level]`.
    fn features<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let (latents, timesteps, text) = (tape.input(inputs, "latents")?, tape.input(inputs, "timesteps")?, tape.input(inputs, "text")?);
        let [time] = tape.block(self.time_block, [&timesteps], move |tape, [timesteps]| Ok([self.time(tape, timesteps)?]))?;
        let [mut x] = tape.block(self.first_block, [&latents], move |tape, [latents]| Ok([self.first.run(tape, latents)?]))?;
        let mut kept = vec![x.clone()];
        for (block, down) in &self.down {
            let run = move |tape: &mut Tape<'m>, [x, time, text]: [&Tensor; 3]| {
                Ok([match down {
                    Down::Mix(residual, None) => residual.run(tape, x, Some(time))?,
                    Down::Mix(residual, Some(spatial)) => {
                        let mixed = residual.run(tape, x, Some(time))?;
                        spatial.run(tape, &mixed, text)?
                    }
                    Down::Halve(conv) => conv.run(tape, x)?,
                }])
            };
            let [y] = tape.block(*block, [&x, &time, &text], run)?;
            kept.push(y.clone());
            x = y;
        }
        let middle = move |tape: &mut Tape<'m>, [x, time, text]: [&Tensor; 3]| {
            let x = self.middle.0.run(tape, x, Some(time))?;
            let x = self.middle.1.run(tape, &x, text)?;
            Ok([self.middle.2.run(tape, &x, Some(time))?])
        };
        [x] = tape.block(self.middle_block, [&x, &time, &text], middle)?;
        for up in &self.up {
            let Some(beside) = kept.pop() else { unreachable!("as many are kept as are read") };
            let run = move |tape: &mut Tape<'m>, [x, beside, time, text]: [&Tensor; 4]| {
                let both = tape.concat(x, beside)?;
                let mut y = up.residual.run(tape, &both, Some(time))?;
                drop(both);
                if let Some(spatial) = &up.spatial {
                    y = spatial.run(tape, &y, text)?;
                }
                if let Some(conv) = &up.double {
                    y = double(tape, &y)?;
                    y = conv.run(tape, &y)?;
                }
                Ok([y])
            };
            [x] = tape.block(up.block, [&x, &beside, &time, &text], run)?;
        }
        Ok(x)
    }

    /// What it says the noise is, `[batch, height, width, channels]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn noise<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let x = self.features(tape, inputs)?;
        self.last(tape, &x)
    }

    fn last(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let normed = self.norm.groups(tape, x, self.config.groups)?;
        let active = tape.activation(Activation::Silu, &normed)?;
        self.last.run(tape, &active)
    }
}

impl Model for Unet {
    fn config(&self) -> toml::Table {
        crate::written("unet", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("unet", &self.params, &blocks)?;
        self.features(tape, inputs)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let target = tape.input(inputs, "target")?;
        let [loss] = tape.kept_block(self.last_block, [x, &target], move |tape, [x, target]| {
            let noise = self.last(tape, x)?;
            Ok([tape.mse(&noise, target, scale)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        Shape::new(&[batch, self.config.size, self.config.size, self.config.width])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        crate::made_up(self.shapes(batch, length), first, |_| 1)
    }

    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        let c = &self.config;
        Inputs::new()
            .with_f32("latents", &[batch, c.size, c.size, c.channels], Vec::new())
            .with_f32("timesteps", &[batch], Vec::new())
            .with_f32("text", &[batch, c.text_tokens, c.text_width], Vec::new())
            .with_f32("target", &[batch, c.size, c.size, c.out_channels], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn encoders(&self) -> &[Encoder] {
        &self.encoders
    }
}
