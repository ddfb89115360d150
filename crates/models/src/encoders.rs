//! Models that were trained before and now only run forward, so that another learns from what they say: the autoencoder and
//! the text encoder of latent diffusion, a teacher's image tower. Their parameters are no part of the model's: no gradient
//! reaches them and no optimiser moves them.
//!
//! A trainer is handed what they gave, as inputs; the planner runs them on `Meta` and adds their time to the step's, as they ran
//! beside the published runs.

use engine::{BlockId, EngineError, Inputs, ParamTable, Tape, Tensor, ops::Activation};
use serde::{Deserialize, Serialize};

use crate::{
    ModelError,
    clip::{TextConfig, TextTower},
    parts::{Attention, Conv, Grouping, Norm, Residual},
    tower::{Tower, TowerConfig},
};

/// Which one, with its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderConfig {
    /// Images to latents of an eighth of their side.
    Autoencoder,
    /// Text to the states of its tokens.
    Text(TextConfig),
    /// Images to the state of the class token.
    Image(TowerConfig),
}

/// See the head of this file.
pub struct Encoder {
    params: ParamTable,
    part: Part,
}

enum Part {
    Autoencoder(Box<Autoencoder>),
    Text(TextTower),
    Image(Tower, crate::decoder::declare::NormParams),
}

impl Encoder {
    /// Of images of `size` pixels, where it has no size of its own.
    pub(crate) fn new(config: &EncoderConfig, size: usize) -> Result<Self, ModelError> {
        let mut params = ParamTable::default();
        let part = match config {
            EncoderConfig::Autoencoder => {
                let sizes = AutoencoderSizes { size, width: 128, channels: 4, groups: 32 };
                Part::Autoencoder(Box::new(Autoencoder::new(&mut params, sizes)))
            }
            EncoderConfig::Text(config) => {
                config.check()?;
                Part::Text(TextTower::new(&mut params, config.clone(), "")?)
            }
            EncoderConfig::Image(config) => {
                config.check()?;
                let tower = Tower::new(&mut params, config.clone(), "")?;
                params.block("");
                let norm = tower.last_norm(&mut params);
                Part::Image(tower, norm)
            }
        };
        Ok(Self { params, part })
    }

    #[must_use]
    pub fn params(&self) -> &ParamTable {
        &self.params
    }

    /// Inputs of the right shapes without data.
    #[must_use]
    pub fn shapes(&self, batch: usize) -> Inputs {
        match &self.part {
            Part::Autoencoder(part) => Inputs::new().with_f32("images", &[batch, part.sizes.size, part.sizes.size, 3], Vec::new()),
            Part::Text(tower) => tower.tokens(Inputs::new(), batch),
            Part::Image(tower, _) => tower.images(Inputs::new(), batch),
        }
    }

    /// What it says of them.
    /// # Errors
    /// When an input is missing or of another shape, or memory is short.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        match &self.part {
            Part::Autoencoder(part) => {
                let images = tape.input(inputs, "images")?;
                part.run(tape, &images)
            }
            Part::Text(tower) => tower.states(tape, inputs),
            Part::Image(tower, norm) => {
                let images = tape.input(inputs, "images")?;
                let x = tower.run(tape, &images)?;
                tower.class(tape, *norm, &x)
            }
        }
    }
}

/// The encoder half of the autoencoder of arXiv:2112.10752, appendix G: a mean and a log variance for each latent pixel. Levels
/// of 1, 2, 4 and 4 times the width, two residual blocks each, and attention of one head in the middle.
pub struct Autoencoder {
    sizes: AutoencoderSizes,
    block: BlockId,
    first: Conv,
    levels: Vec<(Vec<Residual>, Option<Conv>)>,
    middle: (Residual, Norm, Attention, Residual),
    norm: Norm,
    last: Conv,
    moments: Conv,
}

/// Sides in pixels, channels of the finest level and of a latent pixel, groups of a norm.
#[derive(Debug, Clone, Copy)]
pub struct AutoencoderSizes {
    pub size: usize,
    pub width: usize,
    pub channels: usize,
    pub groups: usize,
}

impl Autoencoder {
    /// Declare its parameters in `table`.
    pub fn new(table: &mut ParamTable, sizes: AutoencoderSizes) -> Self {
        let grouping = Grouping { groups: sizes.groups, eps: 1e-6 };
        let block = table.block("");
        let first = Conv::new(table, "in", [sizes.width, 3], 3);
        let (factors, mut at, mut levels) = ([1, 2, 4, 4], sizes.width, Vec::new());
        for (level, factor) in factors.into_iter().enumerate() {
            let mut residual = |table: &mut ParamTable, i: usize| {
                let before = std::mem::replace(&mut at, factor * sizes.width);
                Residual::new(table, &format!("down.{level}.res{i}"), [at, before], None, grouping)
            };
            let residuals = vec![residual(table, 1), residual(table, 2)];
            // Zeros right and below alone: the code's way of "asymmetric padding".
            let halve = (level + 1 < factors.len()).then(|| Conv::halving(table, &format!("down.{level}.halve"), at, [0, 1]));
            levels.push((residuals, halve));
        }
        let middle = (
            Residual::new(table, "middle.res1", [at, at], None, grouping),
            Norm::new(table, "middle.attn.norm", at, 1e-6),
            Attention::new(table, "middle.attn", [at, at], at, true),
            Residual::new(table, "middle.res2", [at, at], None, grouping),
        );
        let norm = Norm::new(table, "norm", at, 1e-6);
        let last = Conv::new(table, "out", [2 * sizes.channels, at], 3);
        let moments = Conv::new(table, "moments", [2 * sizes.channels; 2], 1);
        Self { sizes, block, first, levels, middle, norm, last, moments }
    }

    /// `images` `[batch, size, size, 3]` to `[batch, size / 8, size / 8, 2 channels]`.
    /// # Errors
    /// When the shapes do not fit, or memory is short.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, images: &Tensor) -> Result<Tensor, EngineError> {
        let [moments] = tape.block(self.block, [images], move |tape, [images]| Ok([self.encode(tape, images)?]))?;
        Ok(moments)
    }

    fn encode(&self, tape: &mut Tape<'_>, images: &Tensor) -> Result<Tensor, EngineError> {
        let mut x = self.first.run(tape, images)?;
        for (residuals, halve) in &self.levels {
            for residual in residuals {
                x = residual.run(tape, &x, None)?;
            }
            if let Some(halve) = halve {
                x = halve.run(tape, &x)?;
            }
        }
        let (before, norm, attention, after) = &self.middle;
        x = before.run(tape, &x, None)?;
        let shape = x.shape();
        let normed = norm.groups(tape, &x, self.sizes.groups)?;
        let tokens = normed.reshape(&[shape.dims()[0], shape.dims()[1] * shape.dims()[2], shape.last()])?;
        let attended = attention.run(tape, &tokens, None)?.reshape(shape.dims())?;
        x = tape.add(&x, &attended)?;
        x = after.run(tape, &x, None)?;
        let normed = self.norm.groups(tape, &x, self.sizes.groups)?;
        let active = tape.activation(Activation::Silu, &normed)?;
        let last = self.last.run(tape, &active)?;
        self.moments.run(tape, &last)
    }
}
