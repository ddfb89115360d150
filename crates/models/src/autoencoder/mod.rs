//! The autoencoder of latent diffusion: images to a few numbers for each square of pixels, and back; arXiv:2112.10752, appendix G.
//!
//! ```text
//! images -> [residual blocks, half the size] .. -> attention -> mean and log variance -> a draw
//! images <- [residual blocks, twice the size] .. <- attention <--------------------------'
//! ```
//! It learns the squared error of pixels in -1..1 and, beside it, a little of the divergence of its latents from the standard normal
//! distribution. Absent: the perceptual and adversarial losses of the published ones, which need networks of their own.

mod config;
mod halves;

use std::ops::Range;

pub use config::{AutoencoderConfig, PRESETS};
use engine::{EngineError, Inputs, ParamTable, Shape, Tape, Tensor};
pub(crate) use halves::Encoding;
use halves::{COLOURS, Decoding};

use crate::{Kind, Model, ModelError};

/// See the head of this file.
pub struct Autoencoder {
    config: AutoencoderConfig,
    params: ParamTable,
    encoding: Encoding,
    decoding: Decoding,
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "autoencoder", unit: "images", objective: "autoencoding", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    Ok(Box::new(Autoencoder::new(crate::of_preset(table, PRESETS, config::preset)?)?))
}

impl Autoencoder {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: AutoencoderConfig) -> Result<Self, ModelError> {
        config.check()?;
        let mut params = ParamTable::default();
        let encoding = Encoding::new(&mut params, &config, "encoder");
        let decoding = Decoding::new(&mut params, &config, "decoder");
        Ok(Self { config, params, encoding, decoding })
    }

    /// The moments of images' latents: `images` `[batch, size, size, 3]` in -1..1 to `[batch, latent size, latent size, 2 channels]`, of each
    /// latent pixel its means and then its log variances.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn moments<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let images = tape.input(inputs, "images")?;
        self.encoding.run(tape, &images)
    }

    /// Images in -1..1 `[batch, size, size, 3]` of `latents` `[batch, latent size, latent size, channels]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn decode<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let latents = tape.input(inputs, "latents")?;
        let x = self.decoding.features(tape, [&latents], |_, [latents]| Ok(latents.clone()))?;
        self.last(tape, &x)
    }

    /// Images to images, by the means of their latents.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn reconstruction<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let (moments, channels) = (self.moments(tape, inputs)?, self.config.channels);
        let x = self.decoding.features(tape, [&moments], move |tape, [moments]| tape.columns(moments, 0..channels))?;
        self.last(tape, &x)
    }

    fn last<'m>(&'m self, tape: &mut Tape<'m>, x: &Tensor) -> Result<Tensor, EngineError> {
        let [images] = tape.block(self.decoding.last_block, [x], move |tape, [x]| Ok([self.decoding.last(tape, x)?]))?;
        Ok(images)
    }
}

impl Model for Autoencoder {
    fn config(&self) -> toml::Table {
        crate::written("autoencoder", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("autoencoder", &self.params, &blocks)?;
        let (moments, noise) = (self.moments(tape, inputs)?, tape.input(inputs, "noise")?);
        let (channels, weight) = (self.config.channels, self.config.kl_weight);
        self.decoding.features(tape, [&moments, &noise], move |tape, [moments, noise]| {
            if weight == 0.0 {
                return tape.columns(moments, 0..channels);
            }
            let divergence = tape.divergence(moments, weight)?;
            tape.add_loss(&divergence)?;
            tape.gaussian(moments, noise)
        })
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let images = tape.input(inputs, "images")?;
        let [loss] = tape.kept_block(self.decoding.last_block, [x, &images], move |tape, [x, images]| {
            let said = self.decoding.last(tape, x)?;
            Ok([tape.mse(&said, images, scale)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        let c = &self.config;
        Shape::new(&[batch, c.size, c.size, c.factors.first().copied().unwrap_or(1) * c.width])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        crate::made_up(self.shapes(batch, length), first, |_| 1)
    }

    /// `noise`: what latents are drawn by; zeros give their means.
    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        let (c, side) = (&self.config, self.config.latent_size());
        let inputs = Inputs::new().with_f32("images", &[batch, c.size, c.size, COLOURS], Vec::new());
        inputs.with_f32("noise", &[batch, side, side, c.channels], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }
}
