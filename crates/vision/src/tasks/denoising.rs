//! Diffusion, on pixels or on the latents of a frozen autoencoder: what was mixed into an image, for its class, for its caption or, in a
//! share of the samples, for none (arXiv:2207.12598).

use std::path::PathBuf;

use engine::Inputs;
use image::RgbImage;
use models::{dit::DitConfig, unet::UnetConfig};
use serde::{Deserialize, Serialize};
use train::{TrainError, recipe::Recipe};

use super::{Augment, config, no_encoders, options, pixels_around_zero};
use crate::{
    diffusion::{Diffusion, Schedule, Target},
    latents::Latents,
    texts::{self, Texts},
};

/// The table `[objective]` of diffusion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenoisingOptions {
    /// What the model is asked for.
    pub target: Target,
    /// How much noise there is; of `flow` none may be named.
    pub schedule: Option<Schedule>,
    /// Share of the samples whose class or caption is left out.
    pub no_class: f64,
    /// A run of an `autoencoder`, or a folder of one, whose latents are learnt from in place of pixels.
    pub latents: Option<PathBuf>,
    /// What latents are multiplied by; absent: what the autoencoder says, or what makes their variance 1.
    pub latent_scale: Option<f64>,
    /// A run of a `clip`, or a folder of one, by which captions are told in place of classes.
    pub text: Option<PathBuf>,
    pub(super) augment: Augment,
}

impl Default for DenoisingOptions {
    fn default() -> Self {
        let augment = Augment { flip: true, least_area: 1.0 };
        Self { target: Target::Noise, schedule: None, no_class: 0.1, latents: None, latent_scale: None, text: None, augment }
    }
}

impl DenoisingOptions {
    /// Those of a recipe.
    /// # Errors
    /// Unknown keys, and values that cannot be.
    pub fn of(recipe: &Recipe) -> Result<Self, TrainError> {
        let mut own: Self = options(recipe)?;
        let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        if own.target == Target::Flow && own.schedule.is_some() {
            return wrong("objective.schedule", "`flow` goes along a straight line and has no schedule".into(), "leave `schedule` out");
        }
        if !(0.0..1.0).contains(&own.no_class) {
            return wrong("objective.no_class", format!("{} is not in 0..1", own.no_class), "leave it out for 0.1");
        }
        if own.latent_scale.is_some_and(|scale| !(scale > 0.0 && scale.is_finite())) {
            return wrong("objective.latent_scale", "it is not above 0".into(), "leave it out to have it measured");
        }
        if own.latent_scale.is_some() && own.latents.is_none() {
            return wrong("objective.latent_scale", "there are no latents to multiply".into(), "name an autoencoder as `latents`");
        }
        // Captions may speak of left and right.
        if own.text.is_some() && !recipe.objective.contains_key("augment") {
            own.augment.flip = false;
        }
        Ok(own)
    }
}

/// What an image is drawn for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    None,
    Class(u32),
    /// Tokens, and where they end.
    Caption(Vec<u32>, u32),
}

/// How a model is told the condition.
pub(super) enum Told {
    /// A class by its number, the last of which is none.
    Number { none: u32 },
    /// A class by one text token `[width]` of zeros and a one, or of zeros alone.
    OneHot { tokens: usize, width: usize },
    /// A caption as a frozen encoder says it; `classes` where the model has a table of them too, of which it is told the last.
    Caption { texts: Box<Texts>, classes: Option<u32> },
}

/// See the head of this file.
pub struct Denoising {
    pub diffusion: Diffusion,
    size: usize,
    channels: usize,
    pub(super) told: Told,
    pub(super) latents: Option<Box<Latents>>,
    pub(super) options: DenoisingOptions,
}

impl Denoising {
    /// That of a recipe, with the frozen models that it names.
    /// # Errors
    /// When they cannot be read, or the model does not fit to them.
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let options = DenoisingOptions::of(recipe)?;
        let texts = |told| options.text.as_ref().map(|path| Texts::open(path, told).map(Box::new)).transpose();
        let (size, channels, told) = if models::kind(&recipe.model).name == "unet" {
            let (model, c): (_, UnetConfig) = config(recipe, &["unet"])?;
            if options.latents.is_none() || options.text.is_none() {
                no_encoders(&*model)?;
            }
            let told = match texts(texts::Told::States)? {
                Some(texts) => told_by(texts, &[c.text_tokens, c.text_width], ["model.text_tokens", "model.text_width"], None)?,
                None => Told::OneHot { tokens: c.text_tokens, width: c.text_width },
            };
            (c.size, c.channels, told)
        } else {
            let (_, c): (_, DitConfig) = config(recipe, &["dit", "unet"])?;
            let none = c.classes as u32 - 1;
            let told = match texts(texts::Told::Pooled)? {
                Some(texts) => told_by(texts, &[c.text_width], ["model.text_width"; 2], Some(none))?,
                None if c.text_width > 0 => {
                    let problem = format!("the model reads captions of {} numbers, and nothing says any", c.text_width);
                    let help = "name the run of a `clip` as `objective.text`, or leave `text_width` out".into();
                    return Err(TrainError::Value { key: "model.text_width", problem, help });
                }
                None => Told::Number { none },
            };
            (c.size, c.channels, told)
        };
        // Images that are cropped anew each time do not come again.
        let is_kept = options.augment.least_area >= 1.0;
        let latents = options.latents.as_ref().map(|path| Latents::open(path, options.latent_scale, is_kept).map(Box::new)).transpose()?;
        let (wanted, whose) = latents.as_ref().map_or((3, "pixels"), |latents| (latents.config.channels, "latents"));
        if channels != wanted {
            let problem = format!("the model denoises {channels} channels, and {whose} have {wanted}");
            let help = format!("set `channels = {wanted}` and `out_channels = {wanted}`, or {}", 2 * wanted);
            return Err(TrainError::Value { key: "model.channels", problem, help });
        }
        let diffusion = Diffusion::new(options.target, options.schedule.unwrap_or_default());
        Ok(Self { diffusion, size, channels, told, latents, options })
    }

    /// Classes that it can be told.
    #[must_use]
    pub fn classes(&self) -> usize {
        match self.told {
            Told::Number { none } => none as usize,
            Told::OneHot { width, .. } => width,
            Told::Caption { .. } => 0,
        }
    }

    /// Whether it is told captions.
    #[must_use]
    pub fn reads_captions(&self) -> bool {
        matches!(self.told, Told::Caption { .. })
    }

    /// What it denoises: side and channels.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.size, self.channels]
    }

    /// The most that a number of an image can be: of pixels 1.
    #[must_use]
    pub fn bound(&self) -> f64 {
        if self.latents.is_some() { f64::INFINITY } else { 1.0 }
    }

    /// Side of its images.
    #[must_use]
    pub fn side(&self) -> usize {
        self.latents.as_ref().map_or(self.size, |latents| self.size << latents.config.halvings())
    }

    /// A caption as a condition.
    /// # Errors
    /// When it is told none, or the tokenizer cannot take it.
    pub fn caption(&self, caption: &str) -> Result<Condition, TrainError> {
        let Told::Caption { texts, .. } = &self.told else {
            let help = "name a class instead: `--class`".into();
            return Err(TrainError::Value { key: "--caption", problem: "the model was trained without captions".into(), help });
        };
        texts.encode(Some(caption)).map(|(tokens, end)| Condition::Caption(tokens, end))
    }

    /// The numbers of an image that it denoises, without noise: pixels in -1..1, or the means of latents.
    /// # Errors
    /// When the autoencoder does not take it.
    pub fn clean(&self, image: &RgbImage) -> Result<Vec<f32>, TrainError> {
        let pixels = pixels_around_zero(image);
        match &self.latents {
            Some(latents) => latents.of(&pixels, &vec![0.0; self.each()]),
            None => Ok(pixels),
        }
    }

    /// Images of such numbers.
    /// # Errors
    /// When memory is short.
    pub fn images(&self, x: &[f32]) -> Result<Vec<RgbImage>, TrainError> {
        match &self.latents {
            Some(latents) => latents.decode(x, self.size),
            None => Ok(x.chunks_exact(self.each()).map(|image| super::pixels_back(image, self.size)).collect()),
        }
    }

    /// Numbers of one sample.
    pub(super) fn each(&self) -> usize {
        self.size * self.size * self.channels
    }

    /// What a model reads of mixed numbers at `times`, under conditions.
    /// # Errors
    /// When a caption cannot be said.
    pub fn inputs(&self, mixed: Vec<f32>, times: Vec<f32>, conditions: &[Condition]) -> Result<Inputs, TrainError> {
        let batch = times.len();
        let dims = [batch, self.size, self.size, self.channels];
        let inputs = Inputs::new().with_f32("latents", &dims, mixed).with_f32("timesteps", &[batch], times);
        let class = |condition: &Condition| if let Condition::Class(class) = condition { Some(*class) } else { None };
        Ok(match &self.told {
            Told::Number { none } => inputs.with_u32("classes", &[batch], conditions.iter().map(|c| class(c).unwrap_or(*none)).collect()),
            Told::OneHot { tokens, width } => {
                let row = |condition: &Condition| {
                    let at = class(condition).map(|class| class as usize);
                    (0..tokens * width).map(move |i| f32::from(at == Some(i)))
                };
                inputs.with_f32("text", &[batch, *tokens, *width], conditions.iter().flat_map(row).collect())
            }
            Told::Caption { texts, classes } => {
                let mut text = Vec::new();
                for condition in conditions {
                    match condition {
                        Condition::Caption(tokens, end) => text.extend_from_slice(&texts.of(tokens, *end)?),
                        _ => {
                            let (tokens, end) = texts.encode(None)?;
                            text.extend_from_slice(&texts.of(&tokens, end)?);
                        }
                    }
                }
                let inputs = inputs.with_f32("text", &[&[batch], &texts.dims()[..]].concat(), text);
                match classes {
                    Some(none) => inputs.with_u32("classes", &[batch], vec![*none; batch]),
                    None => inputs,
                }
            }
        })
    }
}

/// Captions of such a shape, if the model reads that.
fn told_by(texts: Box<Texts>, reads: &[usize], keys: [&'static str; 2], classes: Option<u32>) -> Result<Told, TrainError> {
    let said = texts.dims();
    match said.iter().zip(reads).position(|(said, reads)| said != reads) {
        None => Ok(Told::Caption { texts, classes }),
        Some(at) => {
            let problem = format!("the model reads captions of {reads:?} numbers, and `objective.text` says {said:?}");
            let name = keys[at].trim_start_matches("model.");
            Err(TrainError::Value { key: keys[at], problem, help: format!("set `{name} = {}`", said[at]) })
        }
    }
}
