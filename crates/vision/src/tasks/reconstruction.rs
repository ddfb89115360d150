//! Masked autoencoders: the pixels of patches that the encoder does not see; arXiv:2111.06377.

use std::sync::Arc;

use engine::Inputs;
use image::RgbImage;
use models::vit_mae::{Choice, MaeConfig};
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{About, Augment, CroppedOptions, Sample, Task, build_of_head, config, images, lower, normed, options};
use crate::draws::Draws;

pub(crate) const METRIC: MetricKind = lower("reconstruction_error", "squared error of hidden patches");

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &options::<CroppedOptions>(recipe)?.augment)
}

/// Of the patch at `place` of an image `[size, size, 3]` where its numbers lie, in the order in which masked autoencoders tell them.
pub(crate) fn of_patch(size: usize, patch: usize, place: usize) -> impl Fn(usize) -> usize {
    let across = size / patch;
    move |k| {
        let (within, channel) = (k / 3, k % 3);
        ((place / across * patch + within / patch) * size + place % across * patch + within % patch) * 3 + channel
    }
}

/// See the head of this file.
pub(super) struct Reconstruction {
    size: usize,
    patches: usize,
    seen: usize,
    augment: Augment,
}

impl Reconstruction {
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let (model, config): (_, MaeConfig) = config(recipe, &["vit_mae"])?;
        let shapes = model.shapes(1, 1);
        let count = |name| shapes.get(name).map(|array| array.shape().elements());
        Ok(Self {
            size: config.tower.size,
            patches: count("restore")?,
            seen: count("keep")?,
            augment: options::<CroppedOptions>(recipe)?.augment,
        })
    }
}

impl Task for Reconstruction {
    fn size(&self) -> usize {
        self.size
    }

    fn augment(&self) -> &Augment {
        &self.augment
    }

    fn sample(&self, pixels: &RgbImage, _about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError> {
        let order = (0..self.patches).map(|_| draws.uniform() as f32).collect();
        Ok(Sample { pixels: normed(pixels), order, ..Sample::default() })
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        let batch = samples.len();
        let order: Vec<f32> = samples.iter().flat_map(|sample| &sample.order).copied().collect();
        let inputs = Inputs::new().with_f32("images", &[batch, self.size, self.size, 3], images(&mut samples));
        Ok(Choice::of(&order, self.patches, self.seen).inputs(inputs, batch))
    }
}
