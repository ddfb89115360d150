//! Masked autoencoders: the pixels of patches that the encoder does not see; arXiv:2111.06377.

use std::sync::Arc;

use engine::Inputs;
use image::RgbImage;
use models::vit_mae::{Choice, MaeConfig};
use serde::{Deserialize, Serialize};
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{About, Augment, Sample, Task, build_of_head, config, images, lower, normed, options};
use crate::draws::Draws;

pub(super) const METRIC: MetricKind = lower("reconstruction_error", "squared error of hidden patches");

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    augment: Augment,
}

impl Default for Options {
    fn default() -> Self {
        Self { augment: Augment::CROPPED }
    }
}

pub(super) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &options::<Options>(recipe)?.augment)
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
        Ok(Self { size: config.tower.size, patches: count("restore")?, seen: count("keep")?, augment: options::<Options>(recipe)?.augment })
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

    fn stack(&self, mut samples: Vec<Sample>) -> Inputs {
        let batch = samples.len();
        let order: Vec<f32> = samples.iter().flat_map(|sample| &sample.order).copied().collect();
        let inputs = Inputs::new().with_f32("images", &[batch, self.size, self.size, 3], images(&mut samples));
        Choice::of(&order, self.patches, self.seen).inputs(inputs, batch)
    }
}
