//! Models that were trained before and now only run forward, so that another learns from what they say: the autoencoder and
//! the text encoder of latent diffusion, a teacher's image tower. Their parameters are no part of the model's: no gradient
//! reaches them and no optimiser moves them.
//!
//! A trainer is handed what they gave, as inputs; the planner runs them on `Meta` and adds their time to the step's, as they ran
//! beside the published runs. What runs them in training holds models whole: `vision` reads them from runs and folders.

use engine::{EngineError, Inputs, ParamTable, Tape, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    ModelError,
    autoencoder::{self, AutoencoderConfig},
    clip::{TextConfig, TextTower},
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
    Autoencoder(Box<autoencoder::Encoding>, usize),
    Text(TextTower),
    Image(Tower, crate::decoder::declare::NormParams),
}

impl Encoder {
    /// Of images of `size` pixels, where it has no size of its own.
    pub(crate) fn new(config: &EncoderConfig, size: usize) -> Result<Self, ModelError> {
        match config {
            EncoderConfig::Autoencoder => Ok(Self::autoencoder(&AutoencoderConfig { size, ..AutoencoderConfig::stable_diffusion() })),
            EncoderConfig::Text(config) => Self::text(config),
            EncoderConfig::Image(config) => {
                config.check()?;
                config.with_class_token()?;
                let mut params = ParamTable::default();
                let tower = Tower::new(&mut params, config.clone(), "")?;
                params.block("");
                let norm = tower.last_norm(&mut params);
                Ok(Self { params, part: Part::Image(tower, norm) })
            }
        }
    }

    /// The half of an autoencoder that gives latents.
    #[must_use]
    pub fn autoencoder(config: &AutoencoderConfig) -> Self {
        let mut params = ParamTable::default();
        let part = Part::Autoencoder(Box::new(autoencoder::Encoding::new(&mut params, config, "")), config.size);
        Self { params, part }
    }

    /// The text side of a CLIP.
    /// # Errors
    /// When its sizes do not fit to one another.
    pub fn text(config: &TextConfig) -> Result<Self, ModelError> {
        config.check()?;
        let mut params = ParamTable::default();
        let part = Part::Text(TextTower::new(&mut params, config.clone(), "")?);
        Ok(Self { params, part })
    }

    /// What it is called in tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.part {
            Part::Autoencoder(..) => "autoencoder",
            Part::Text(_) => "text encoder",
            Part::Image(..) => "image tower",
        }
    }

    #[must_use]
    pub fn params(&self) -> &ParamTable {
        &self.params
    }

    /// Inputs of the right shapes without data.
    #[must_use]
    pub fn shapes(&self, batch: usize) -> Inputs {
        match &self.part {
            Part::Autoencoder(_, size) => Inputs::new().with_f32("images", &[batch, *size, *size, 3], Vec::new()),
            Part::Text(tower) => tower.tokens(Inputs::new(), batch),
            Part::Image(tower, _) => tower.images(Inputs::new(), batch),
        }
    }

    /// What it says of them.
    /// # Errors
    /// When an input is missing or of another shape, or memory is short.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        match &self.part {
            Part::Autoencoder(part, _) => {
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
