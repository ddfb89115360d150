//! Autoencoders: an image again from a few numbers for each square of its pixels; arXiv:2112.10752, appendix G.

use std::sync::Arc;

use engine::Inputs;
use image::RgbImage;
use models::autoencoder::AutoencoderConfig;
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{About, Augment, CroppedOptions, Sample, Task, build_of_head, config, images, lower, options, pixels_around_zero};
use crate::draws::Draws;

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
