//! What is learnt from images: one file for each objective, named in the crate's list of objectives. A task says what it wants of an image, makes samples of it,
//! and puts those of a micro-batch together.

mod asked;
pub(crate) mod autoencoding;
pub(crate) mod classes;
mod denoising;
mod drawing;
pub(crate) mod mixing;
pub(crate) mod pairs;
pub(crate) mod reconstruction;

use std::sync::Arc;

pub use asked::{Asked, absent, asked};
pub use denoising::{Condition, Denoising, DenoisingOptions};
pub(crate) use drawing::Denoiser;
pub use drawing::{Drawing, in_turn};
use engine::{Inputs, ParamStore, Precision};
use image::RgbImage;
use models::Model;
pub use pairs::{PairsOptions, compared, log_losses};
pub(crate) use reconstruction::{Hidden, hidden, of_patch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    eval::HeldOut,
    feed::Feed,
    metric::{Better, MetricKind},
    objective::Objective,
    recipe::Recipe,
};

pub(crate) use crate::numbers::{normed, pixels_around_zero, pixels_back};
pub use crate::{
    captions::Captions,
    numbers::{DEVIATION, MEAN, pixels_of},
};
use crate::{draws::Draws, readers::Entry};

const fn lower(name: &'static str, unit: &'static str) -> MetricKind {
    MetricKind { name, unit, better: Better::Lower, divisor: 1.0 }
}

/// The loss of the model's own head, and what it is called.
struct OfHead(&'static MetricKind);

impl Objective for OfHead {
    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        self.0
    }
}

/// How an image that is learnt from differs from the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Half of the samples are seen in a mirror.
    pub flip: bool,
    /// The least share of an image's area that a sample shows; 1 shows all of it.
    pub least_area: f64,
}

impl Augment {
    const CROPPED: Self = Self { flip: true, least_area: 0.4 };

    fn check(&self) -> Result<(), TrainError> {
        if self.least_area > 0.0 && self.least_area <= 1.0 {
            return Ok(());
        }
        let problem = format!("{} is not above 0 and at most 1", self.least_area);
        Err(TrainError::Value { key: "objective.augment.least_area", problem, help: "1 shows all of an image".into() })
    }
}

/// The table `[objective]` of models that see crops, and nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CroppedOptions {
    augment: Augment,
}

impl Default for CroppedOptions {
    fn default() -> Self {
        Self { augment: Augment::CROPPED }
    }
}

/// A sample, of which each task fills in what it needs.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub pixels: Vec<f32>,
    pub target: Vec<f32>,
    pub order: Vec<f32>,
    pub noise: Vec<f32>,
    pub tokens: Vec<u32>,
    pub end: u32,
    pub class: u32,
    pub time: f32,
}

/// Images that a model does not learn from, when it is looked at.
pub(crate) struct HeldOutImages<'a> {
    pub feed: &'a dyn Feed,
    pub captions: Vec<&'a str>,
    pub classes: usize,
}

/// A line of pictures, and under which others it stands: none where they are drawn out of noise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    pub made: Vec<RgbImage>,
    pub originals: Vec<RgbImage>,
}

impl Line {
    /// Its pictures, at the most.
    pub const MOST: u64 = 8;
}

/// What is known of an image besides its pixels.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub class: u32,
    pub caption: Option<&'a str>,
    /// It is measured, not learnt from.
    pub is_measured: bool,
}

/// See the head of this file.
pub(crate) trait Task: Send + Sync {
    /// Whether it makes pictures: then [`Task::line`] gives some.
    fn makes_pictures(&self) -> bool {
        false
    }

    /// What a person can look at of a model in training: of the same held-out images or the same noise each time.
    /// # Errors
    /// When an image cannot be read, or memory is short.
    fn line(
        &self,
        _held_out: &HeldOutImages<'_>,
        _model: &dyn Model,
        _store: &mut dyn ParamStore,
        _precision: Precision,
    ) -> Result<Line, TrainError> {
        Ok(Line::default())
    }

    /// Side of the images that the model reads.
    fn size(&self) -> usize;

    fn augment(&self) -> &Augment;

    /// Why an image is not to be used, if it is not.
    fn wants(&self, _entry: &Entry) -> Result<(), String> {
        Ok(())
    }

    /// Look at all that will be learnt from: the names of its classes, and its captions. Notes for a person.
    /// # Errors
    /// When the model cannot learn from it.
    fn prepare(&mut self, _classes: &[String], _captions: &[&str]) -> Result<Vec<String>, TrainError> {
        Ok(Vec::new())
    }

    /// Look at images that will be learnt from, spread over all of them. Notes for a person.
    /// # Errors
    /// When one cannot be read, or the model cannot learn from them.
    fn look(&mut self, _images: &mut dyn Iterator<Item = Result<RgbImage, TrainError>>) -> Result<Vec<String>, TrainError> {
        Ok(Vec::new())
    }

    /// Hashes of the frozen models that it asks: a run goes on only with the same.
    fn frozen(&self) -> Vec<&str> {
        Vec::new()
    }

    /// What a checkpoint keeps of it besides the tokenizer.
    fn files(&self) -> TokenizerFiles {
        Vec::new()
    }

    /// One sample of an image of the model's size. Frozen models are not asked here, but in [`Task::stack`].
    /// # Errors
    /// When its caption cannot be encoded.
    fn sample(&self, pixels: &RgbImage, about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError>;

    /// What a model reads of samples.
    /// # Errors
    /// When a frozen model that it asks does not answer.
    fn stack(&self, samples: Vec<Sample>) -> Result<Inputs, TrainError>;

    /// The tokenizer and its files, where it has one.
    fn captions(&self) -> Option<&Captions> {
        None
    }

    /// Whether its metric is between all held-out samples.
    fn is_judge(&self) -> bool {
        false
    }

    /// That metric.
    /// # Errors
    /// Whatever befell it.
    fn judge(
        &self,
        _images: &dyn Feed,
        _model: &dyn Model,
        _store: &mut dyn ParamStore,
        _precision: Precision,
    ) -> Result<Option<HeldOut>, TrainError> {
        Ok(None)
    }
}

/// The task of a recipe.
pub(crate) fn of(recipe: &Recipe) -> Result<Box<dyn Task>, TrainError> {
    match train::objective::name(recipe) {
        "autoencoding" => Ok(Box::new(autoencoding::Autoencoding::new(recipe)?)),
        "classes" => Ok(Box::new(classes::Classes::new(recipe)?)),
        "contrastive" => Ok(Box::new(pairs::Pairs::new(recipe)?)),
        "denoising" => Ok(Box::new(Denoising::new(recipe)?)),
        _ => Ok(Box::new(reconstruction::Reconstruction::new(recipe)?)),
    }
}

/// The table `[objective]` of a recipe.
fn options<T: DeserializeOwned>(recipe: &Recipe) -> Result<T, TrainError> {
    let mut table = recipe.objective.clone();
    table.remove("kind");
    table.try_into().map_err(|e: toml::de::Error| TrainError::Value {
        key: "objective",
        problem: e.message().to_owned(),
        help: "docs/vision.md has a table of what each objective of images asks for".into(),
    })
}

/// Check that the model is of `kind`, and give its config.
fn config<T: DeserializeOwned>(recipe: &Recipe, kinds: &[&str]) -> Result<(Box<dyn Model>, T), TrainError> {
    let model = models::build(&recipe.model)?;
    let kind = models::kind(&recipe.model).name;
    if !kinds.contains(&kind) {
        let problem = format!("`{}` is learnt by a model of kind `{}`, not `{kind}`", train::objective::name(recipe), kinds.join("` or `"));
        return Err(TrainError::Value {
            key: "objective.kind",
            problem,
            help: "leave `[objective]` out for that of the model's kind".into(),
        });
    }
    let config = models::typed(&model.config())?;
    Ok((model, config))
}

/// Refuse encoders that no reader feeds.
fn no_encoders(model: &dyn Model) -> Result<(), TrainError> {
    if model.encoders().is_empty() {
        return Ok(());
    }
    let problem =
        "frozen encoders are priced by `hairpin plan`; what runs them is named by `objective.latents` and `objective.text`".to_owned();
    Err(TrainError::Value {
        key: "model.encoders",
        problem,
        help: "name both, or leave `encoders` out: the model then works on pixels and classes".into(),
    })
}

/// Images of samples, one after the other.
fn images(samples: &mut [Sample]) -> Vec<f32> {
    let all: Vec<Vec<f32>> = samples.iter_mut().map(|sample| std::mem::take(&mut sample.pixels)).collect();
    all.concat()
}

fn build_of_head(metric: &'static MetricKind, augment: &Augment) -> Result<Arc<dyn Objective>, TrainError> {
    augment.check()?;
    Ok(Arc::new(OfHead(metric)))
}

/// Refuse a model with fewer classes than there are.
fn enough_classes(names: &[String], room: usize, more: &str) -> Result<(), TrainError> {
    if names.len() <= room {
        return Ok(());
    }
    let problem = format!("{} classes are more than the model's {room}", names.len());
    Err(TrainError::Value { key: "model.classes", problem, help: format!("set `classes` to as many as there are folders{more}") })
}
