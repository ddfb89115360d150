//! Autoencoders: an image again from a few numbers for each square of its pixels; arXiv:2112.10752, appendix G.

use std::sync::Arc;

use engine::{Array, EngineError, Inputs, ParamStore, Precision};
use image::RgbImage;
use models::{
    Model,
    autoencoder::{Autoencoder, AutoencoderConfig},
};
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{
    About, Augment, CroppedOptions, HeldOutImages, Line, Sample, Task, build_of_head, config, images, lower, options, pixels_around_zero,
    pixels_back,
};
use crate::{draws::Draws, passes};

pub(crate) const METRIC: MetricKind = lower("autoencoding_error", "squared error of pixels in -1..1");

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &options::<CroppedOptions>(recipe)?.augment)
}

/// See the head of this file.
pub(super) struct Autoencoding {
    config: AutoencoderConfig,
    augment: Augment,
}

impl Autoencoding {
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let (_, config) = config(recipe, &["autoencoder"])?;
        Ok(Self { config, augment: options::<CroppedOptions>(recipe)?.augment })
    }
}

impl Task for Autoencoding {
    fn makes_pictures(&self) -> bool {
        true
    }

    fn line(
        &self,
        held_out: &HeldOutImages<'_>,
        model: &dyn Model,
        store: &mut dyn ParamStore,
        precision: Precision,
    ) -> Result<Line, TrainError> {
        let count = held_out.feed.held_out().min(Line::MOST);
        let inputs = held_out.feed.held_out_inputs(0..count)?;
        let autoencoder = Autoencoder::new(models::typed(&model.config())?)?;
        let said = passes::run(&autoencoder, store, precision, count, |_| Ok(inputs.clone()), Autoencoder::reconstruction)?;
        let Array::F32(_, originals) = inputs.get("images")? else {
            return Err(EngineError::Input { name: "images", have: "other arrays".into() }.into());
        };
        let size = self.config.size;
        let pictures = |all: &[f32]| all.chunks_exact(3 * size * size).map(|image| pixels_back(image, size)).collect();
        Ok(Line { made: pictures(&said), originals: pictures(originals) })
    }

    fn size(&self) -> usize {
        self.config.size
    }

    fn augment(&self) -> &Augment {
        &self.augment
    }

    /// Latents are drawn while it learns; whole images are measured by their means.
    fn sample(&self, pixels: &RgbImage, about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError> {
        let each = self.config.latent_size().pow(2) * self.config.channels;
        let noise = (0..each).map(|_| if about.is_measured { 0.0 } else { draws.normal() as f32 }).collect();
        Ok(Sample { pixels: pixels_around_zero(pixels), noise, ..Sample::default() })
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        let (batch, size, side) = (samples.len(), self.config.size, self.config.latent_size());
        let noise = samples.iter_mut().flat_map(|sample| std::mem::take(&mut sample.noise)).collect();
        let inputs = Inputs::new().with_f32("images", &[batch, size, size, 3], images(&mut samples));
        Ok(inputs.with_f32("noise", &[batch, side, side, self.config.channels], noise))
    }
}
