//! Classifiers: the class of an image, which is the folder that it lies in or what a list or shard says of it.

use std::sync::Arc;

use engine::Inputs;
use image::RgbImage;
use models::vit::VitConfig;
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{
    About, Augment, CroppedOptions, Sample, Task, build_of_head, config, enough_classes, images, lower, no_encoders, normed, options,
};
use crate::draws::Draws;

pub(crate) const METRIC: MetricKind = lower("class_loss", "nats per image");

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &options::<CroppedOptions>(recipe)?.augment)
}

/// See the head of this file.
pub(super) struct Classes {
    size: usize,
    classes: usize,
    augment: Augment,
}

impl Classes {
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let (model, config): (_, VitConfig) = config(recipe, &["vit"])?;
        no_encoders(&*model)?;
        Ok(Self { size: config.tower.size, classes: config.classes, augment: options::<CroppedOptions>(recipe)?.augment })
    }
}

impl Task for Classes {
    fn size(&self) -> usize {
        self.size
    }

    fn augment(&self) -> &Augment {
        &self.augment
    }

    fn prepare(&mut self, classes: &[String], _captions: &[&str]) -> Result<Vec<String>, TrainError> {
        enough_classes(classes, self.classes, "")?;
        Ok(Vec::new())
    }

    fn sample(&self, pixels: &RgbImage, about: About<'_>, _draws: &mut Draws) -> Result<Sample, TrainError> {
        Ok(Sample { pixels: normed(pixels), class: about.class, ..Sample::default() })
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        let batch = samples.len();
        let classes = samples.iter().map(|sample| sample.class).collect();
        let inputs = Inputs::new().with_f32("images", &[batch, self.size, self.size, 3], images(&mut samples));
        Ok(inputs.with_u32("classes", &[batch], classes))
    }
}
