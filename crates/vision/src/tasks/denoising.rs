//! Diffusion on pixels: what was mixed into an image, for its class or, in a share of the samples, for none (arXiv:2207.12598).

use std::sync::Arc;

use engine::Inputs;
use image::RgbImage;
use models::{dit::DitConfig, unet::UnetConfig};
use serde::{Deserialize, Serialize};
use train::{TrainError, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{About, Augment, Sample, Task, build_of_head, config, enough_classes, lower, no_encoders, options};
use crate::{
    diffusion::{Diffusion, Schedule, Target},
    draws::Draws,
};

pub(crate) const METRIC: MetricKind = lower("denoising_error", "squared error of what is asked for");

/// The table `[objective]` of diffusion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenoisingOptions {
    /// What the model is asked for.
    pub target: Target,
    /// How much noise there is; of `flow` none may be named.
    pub schedule: Option<Schedule>,
    /// Share of the samples whose class is left out.
    pub no_class: f64,
    augment: Augment,
}

impl Default for DenoisingOptions {
    fn default() -> Self {
        let augment = Augment { flip: true, least_area: 1.0 };
        Self { target: Target::Noise, schedule: None, no_class: 0.1, augment }
    }
}

impl DenoisingOptions {
    /// Those of a recipe.
    /// # Errors
    /// Unknown keys, and values that cannot be.
    pub fn of(recipe: &Recipe) -> Result<Self, TrainError> {
        let own: Self = options(recipe)?;
        let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        if own.target == Target::Flow && own.schedule.is_some() {
            return wrong("objective.schedule", "`flow` goes along a straight line and has no schedule".into(), "leave `schedule` out");
        }
        if !(0.0..1.0).contains(&own.no_class) {
            return wrong("objective.no_class", format!("{} is not in 0..1", own.no_class), "leave it out for 0.1");
        }
        Ok(own)
    }
}

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &DenoisingOptions::of(recipe)?.augment)
}

/// How a model is told the class.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// By its number, the last of which is none.
    Number { none: u32 },
    /// By one text token `[width]` of zeros and a one, or of zeros alone.
    Text { tokens: usize, width: usize },
}

/// See the head of this file.
pub struct Denoising {
    pub diffusion: Diffusion,
    size: usize,
    told: Told,
    options: DenoisingOptions,
}

impl Denoising {
    /// That of a recipe.
    /// # Errors
    /// When its model works on something else than pixels.
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let options = DenoisingOptions::of(recipe)?;
        let (size, channels, told) = if models::kind(&recipe.model).name == "unet" {
            let (model, config): (_, UnetConfig) = config(recipe, &["unet"])?;
            no_encoders(&*model)?;
            (config.size, config.channels, Told::Text { tokens: config.text_tokens, width: config.text_width })
        } else {
            let (_, config): (_, DitConfig) = config(recipe, &["dit", "unet"])?;
            (config.size, config.channels, Told::Number { none: config.classes as u32 - 1 })
        };
        if channels != 3 {
            let problem = format!("the model denoises {channels} channels, and pixels have 3");
            let help = "set `channels = 3` and `out_channels = 3`, or 6".into();
            return Err(TrainError::Value { key: "model.channels", problem, help });
        }
        let diffusion = Diffusion::new(options.target, options.schedule.unwrap_or_default());
        Ok(Self { diffusion, size, told, options })
    }

    /// Classes that it can be told.
    #[must_use]
    pub fn classes(&self) -> usize {
        match self.told {
            Told::Number { none } => none as usize,
            Told::Text { width, .. } => width,
        }
    }

    /// Side of its images.
    #[must_use]
    pub fn side(&self) -> usize {
        self.size
    }

    /// What a model reads of mixed pixels at `times`, of classes or of none.
    #[must_use]
    pub fn inputs(&self, mixed: Vec<f32>, times: Vec<f32>, classes: &[Option<u32>]) -> Inputs {
        let batch = times.len();
        let inputs = Inputs::new().with_f32("latents", &[batch, self.size, self.size, 3], mixed).with_f32("timesteps", &[batch], times);
        match self.told {
            Told::Number { none } => inputs.with_u32("classes", &[batch], classes.iter().map(|class| class.unwrap_or(none)).collect()),
            Told::Text { tokens, width } => {
                let row = |class: &Option<u32>| {
                    let at = class.map(|class| class as usize);
                    (0..tokens * width).map(move |i| f32::from(at == Some(i)))
                };
                inputs.with_f32("text", &[batch, tokens, width], classes.iter().flat_map(row).collect())
            }
        }
    }
}

impl Task for Denoising {
    fn size(&self) -> usize {
        self.size
    }

    fn augment(&self) -> &Augment {
        &self.options.augment
    }

    fn prepare(&mut self, classes: &[String], _captions: &[&str]) -> Result<Vec<String>, TrainError> {
        enough_classes(classes, self.classes(), ", and one more for diffusion")?;
        Ok(Vec::new())
    }

    fn sample(&self, pixels: &RgbImage, about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError> {
        let time = self.diffusion.time(draws.uniform());
        let class = if draws.uniform() < self.options.no_class { u32::MAX } else { about.class };
        let mut sample = Sample { class, time: time as f32, ..Sample::default() };
        let [image, rest] = self.diffusion.shares(time);
        for byte in pixels.as_raw() {
            let (pixel, noise) = (f64::from(*byte) / 127.5 - 1.0, draws.normal());
            sample.pixels.push((image * pixel + rest * noise) as f32);
            sample.target.push(self.diffusion.wanted(time, pixel, noise) as f32);
        }
        Ok(sample)
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Inputs {
        let classes: Vec<Option<u32>> = samples.iter().map(|sample| (sample.class != u32::MAX).then_some(sample.class)).collect();
        let times = samples.iter().map(|sample| sample.time).collect();
        let mixed = super::images(&mut samples);
        let target = samples.into_iter().flat_map(|sample| sample.target).collect();
        self.inputs(mixed, times, &classes).with_f32("target", &[classes.len(), self.size, self.size, 3], target)
    }
}
