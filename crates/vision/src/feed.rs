//! Samples of images for each kind of model: which patches are hidden, which noise is added, which class it is. All draws are by (seed,
//! position), so that bits depend on neither threads nor ranks; of held-out images they are by the image's number.

use std::{ops::Range, sync::Arc};

use data::{Content, Sampler};
use engine::{Inputs, mix};
use image::{RgbImage, imageops};
use models::{Model, vit_mae::Choice};
use train::{
    TrainError,
    feed::{Feed, Pick, is_held_out},
    metric::{Better, MetricKind},
    objective::{Kind, Objective},
    recipe::Recipe,
};

use crate::pictures::Pictures;

/// What each objective's held-out samples are judged by.
pub(crate) const METRICS: &[MetricKind] = &[
    lower("reconstruction_error", "squared error of hidden patches"),
    lower("class_loss", "nats per image"),
    lower("denoising_error", "squared error of the noise"),
];

const fn lower(name: &'static str, unit: &'static str) -> MetricKind {
    MetricKind { name, unit, better: Better::Lower, divisor: 1.0 }
}

/// Every objective of images.
pub(crate) const KINDS: &[Kind] = &[
    Kind { name: "reconstruction", build: |_| Ok(Arc::new(OfHead(&METRICS[0]))), feed: |recipe| open(recipe, Task::Reconstruction) },
    Kind { name: "classes", build: |_| Ok(Arc::new(OfHead(&METRICS[1]))), feed: |recipe| open(recipe, Task::Classes) },
    Kind { name: "denoising", build: |_| Ok(Arc::new(OfHead(&METRICS[2]))), feed: |recipe| open(recipe, Task::Denoising) },
];

/// The loss of the model's own head.
struct OfHead(&'static MetricKind);

impl Objective for OfHead {
    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        self.0
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Reconstruction,
    Classes,
    Denoising,
}

/// Share of the images that are held out.
const HELD_OUT: f64 = 0.1;
/// How much more of an image is kept than a crop shows, in parts of its side.
const ROOM: f64 = 1.25;
/// The least share of a kept image's area that a crop shows.
const LEAST_CROP: f64 = 0.4;
/// Share of the samples whose class is left out, for guidance (arXiv:2207.12598).
const NO_CLASS: f64 = 0.1;
/// Steps of the noise, and the first and last of its linear schedule (arXiv:2006.11239, section 4).
const STEPS: usize = 1000;
const BETAS: [f64; 2] = [1e-4, 0.02];
/// Mean and deviation of the colours of photographs.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

struct Images {
    task: Task,
    size: usize,
    /// Patches in all and those that are seen, of a masked autoencoder.
    patches: [usize; 2],
    /// The number that stands for no class, of diffusion.
    no_class: u32,
    pictures: Pictures,
    classes: Vec<u32>,
    train: Vec<usize>,
    held_out: Vec<usize>,
    sampler: Sampler,
    /// `prod (1 - beta)` up to each step.
    kept: Vec<f64>,
    content: Content,
    notes: Vec<String>,
    seed: u64,
}

fn open(recipe: &Recipe, task: Task) -> Result<Arc<dyn Feed>, TrainError> {
    let model = models::build(&recipe.model)?;
    let (config, shapes) = (model.config(), model.shapes(1, 1));
    let dims = |name| shapes.get(name).map(|array| array.shape().dims().to_vec());
    let wrong = |key, problem: String, help: &str| TrainError::Value { key, problem, help: help.into() };
    let size = match task {
        Task::Denoising => {
            let dims = dims("latents")?;
            if dims[3] != 3 {
                let problem = format!("the model denoises {} channels, and pixels have 3", dims[3]);
                return Err(wrong("model.channels", problem, "set `channels = 3` and `out_channels = 3`, or 6"));
            }
            dims[1]
        }
        _ => dims("images")?[1],
    };
    let patches = if task == Task::Reconstruction { [dims("restore")?[1], dims("keep")?[1]] } else { [0, 0] };
    let most_classes = config.get("classes").and_then(|v| v.as_integer()).unwrap_or(1) as usize;
    let pictures = Pictures::read(&recipe.data.path, (size as f64 * ROOM) as u32)?;
    let names = pictures.classes();
    let room = if task == Task::Denoising { most_classes.saturating_sub(1) } else { most_classes };
    if task != Task::Reconstruction && names.len() > room {
        let problem = format!("{} classes are more than the model's {room}", names.len());
        return Err(wrong("model.classes", problem, "set `classes` to as many as there are folders, and one more for diffusion"));
    }
    let class = |name: &String| names.binary_search(name).unwrap_or(0) as u32;
    let classes: Vec<u32> = pictures.all.iter().map(|picture| class(&picture.class)).collect();
    let of_name = |i: &usize| is_held_out(recipe.seed, &pictures.all[*i].name, HELD_OUT);
    let (mut held_out, train): (Vec<usize>, Vec<usize>) = (0..pictures.all.len()).partition(of_name);
    held_out.truncate(recipe.eval.windows as usize);
    if train.len() < recipe.batch.sequences || held_out.is_empty() {
        let problem = format!(
            "`{}` gives {} images to train on and {} to measure on; a batch takes {}, and one has to be held out",
            recipe.data.path.display(),
            train.len(),
            held_out.len(),
            recipe.batch.sequences
        );
        return Err(wrong("data.path", problem, "give more images, or a smaller `batch.sequences`"));
    }
    let mut hasher = blake3::Hasher::new();
    for (picture, class) in pictures.all.iter().zip(&classes) {
        hasher.update(&class.to_le_bytes());
        hasher.update(picture.pixels.as_raw());
    }
    let content = Content { tokens_blake3: hasher.finalize().to_hex().to_string(), tokenizer_blake3: String::new() };
    let mut notes = pictures.notes.clone();
    notes.push(format!("{} images to train on, {} held out, {} classes", train.len(), held_out.len(), names.len()));
    let beta = |step: usize| BETAS[0] + (BETAS[1] - BETAS[0]) * step as f64 / (STEPS - 1) as f64;
    let kept = (0..STEPS).scan(1.0, |product, step| {
        *product *= 1.0 - beta(step);
        Some(*product)
    });
    Ok(Arc::new(Images {
        task,
        size,
        patches,
        no_class: most_classes as u32 - 1,
        sampler: Sampler::new(recipe.seed, train.len() as u64),
        kept: kept.collect(),
        classes,
        train,
        held_out,
        pictures,
        content,
        notes,
        seed: recipe.seed,
    }))
}

/// Draws from one key, one after the other.
struct Draws(u64);

impl Draws {
    /// In 0..1.
    fn next(&mut self) -> f64 {
        self.0 = mix(self.0.wrapping_add(0x9E37_79B9_7F4A_7C15));
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of a normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.next()).ln()).sqrt(), 2.0 * std::f64::consts::PI * self.next());
        radius * angle.cos()
    }
}

impl Images {
    /// Pixels `[size, size, 3]` of a picture, whole or as a crop that is drawn.
    fn pixels(&self, picture: usize, draws: Option<&mut Draws>) -> RgbImage {
        let (whole, size) = (&self.pictures.all[picture].pixels, self.size as u32);
        let Some(draws) = draws else { return imageops::resize(whole, size, size, imageops::FilterType::Triangle) };
        let side = f64::from(whole.width());
        let least = if self.task == Task::Denoising { side } else { side * LEAST_CROP.sqrt() };
        let crop = (least + draws.next() * (side - least)).round().min(side);
        let mut place = || (draws.next() * (side - crop)).round() as u32;
        let (x, y) = (place(), place());
        let part = imageops::crop_imm(whole, x, y, crop as u32, crop as u32).to_image();
        let mut pixels = imageops::resize(&part, size, size, imageops::FilterType::Triangle);
        if draws.next() < 0.5 {
            imageops::flip_horizontal_in_place(&mut pixels);
        }
        pixels
    }

    /// What a model reads of pictures, each with the key of its draws; `is_whole` shows all of each.
    fn of(&self, pictures: &[(usize, u64)], is_whole: bool) -> Inputs {
        let (batch, size) = (pictures.len(), self.size);
        let mut draws: Vec<Draws> = pictures.iter().map(|(_, key)| Draws(*key)).collect();
        let images: Vec<RgbImage> =
            pictures.iter().zip(&mut draws).map(|((picture, _), draws)| self.pixels(*picture, (!is_whole).then_some(draws))).collect();
        let classes: Vec<u32> = pictures.iter().map(|(picture, _)| self.classes[*picture]).collect();
        let dims = [batch, size, size, 3];
        let normed = |image: &RgbImage| -> Vec<f32> {
            let of = |(i, byte): (usize, &u8)| (f32::from(*byte) / 255.0 - MEAN[i % 3]) / DEVIATION[i % 3];
            image.as_raw().iter().enumerate().map(of).collect()
        };
        match self.task {
            Task::Classes => {
                Inputs::new().with_f32("images", &dims, images.iter().flat_map(normed).collect()).with_u32("classes", &[batch], classes)
            }
            Task::Reconstruction => {
                let [all, seen] = self.patches;
                let order: Vec<f32> =
                    draws.iter_mut().flat_map(|draws| (0..all).map(|_| draws.next() as f32).collect::<Vec<_>>()).collect();
                let inputs = Inputs::new().with_f32("images", &dims, images.iter().flat_map(normed).collect());
                Choice::of(&order, all, seen).inputs(inputs, batch)
            }
            Task::Denoising => {
                let (mut noisy, mut noise, mut steps, mut told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                for ((image, draws), class) in images.iter().zip(&mut draws).zip(classes) {
                    let step = (draws.next() * STEPS as f64) as usize;
                    let [signal, rest] = [self.kept[step].sqrt(), (1.0 - self.kept[step]).sqrt()];
                    told.push(if draws.next() < NO_CLASS { self.no_class } else { class });
                    steps.push(step as f32);
                    for byte in image.as_raw() {
                        let (pixel, drawn) = (f64::from(*byte) / 127.5 - 1.0, draws.normal());
                        noisy.push((signal * pixel + rest * drawn) as f32);
                        noise.push(drawn as f32);
                    }
                }
                Inputs::new()
                    .with_f32("latents", &dims, noisy)
                    .with_f32("timesteps", &[batch], steps)
                    .with_u32("classes", &[batch], told)
                    .with_f32("target", &dims, noise)
            }
        }
    }
}

impl Feed for Images {
    fn picks(&self, positions: Range<u64>) -> Vec<Pick> {
        positions.map(|position| Pick { sample: self.sampler.at(position), position }).collect()
    }

    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError> {
        let key = |position: u64| mix(engine::key(self.seed, "images") ^ mix(position));
        let pictures: Vec<(usize, u64)> = picks.iter().map(|pick| (self.train[pick.sample as usize], key(pick.position))).collect();
        Ok(self.of(&pictures, false))
    }

    fn weight(&self, picks: &[Pick]) -> u64 {
        picks.len() as u64
    }

    fn name(&self, sample: u64) -> Option<String> {
        self.train.get(sample as usize).map(|picture| self.pictures.all[*picture].name.clone())
    }

    fn held_out(&self) -> u64 {
        self.held_out.len() as u64
    }

    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError> {
        let key = |sample: u64| mix(engine::key(self.seed, "held out") ^ mix(sample));
        let pictures: Vec<(usize, u64)> = samples.map(|sample| (self.held_out[sample as usize], key(sample))).collect();
        Ok(self.of(&pictures, true))
    }

    fn held_out_weight(&self, _sample: u64) -> u64 {
        1
    }

    fn content(&self) -> &Content {
        &self.content
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_mean_0_and_variance_1() {
        let mut draws = Draws(7);
        let all: Vec<f64> = (0..20_000).map(|_| draws.normal()).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
