//! Images drawn by a model of diffusion: out of noise, step by step, for a class, a caption or for none, the louder the higher the guidance
//! (arXiv:2207.12598); latents are decoded at the end. Of a run that keeps a running average of its weights, with that.

use std::path::Path;

use engine::{EngineError, Inputs, ParamStore, Precision, Tape, Tensor};
use image::RgbImage;
use models::{
    dit::{Dit, DitConfig},
    unet::Unet,
};
use train::{TrainError, recipe::Recipe, run};

use crate::{
    draws::Draws,
    latents, passes,
    tasks::{Condition, Denoising},
};

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// Of each image what it is drawn for.
    pub conditions: Vec<Condition>,
    /// Of the sampler.
    pub steps: usize,
    /// `none + guidance (condition - none)` of what the model says; 1 is the condition as it was learnt.
    pub guidance: f64,
    pub seed: u64,
}

/// A model of diffusion that can be drawn with.
pub struct Sampler {
    model: Kind,
    store: parallel::Replicated,
    precision: Precision,
    denoising: Denoising,
    /// Whether its weights are a running average.
    pub is_averaged: bool,
    pub recipe: Recipe,
    pub step: u64,
}

enum Kind {
    Dit(Box<Dit>, DitConfig),
    Unet(Box<Unet>),
}

impl Sampler {
    /// Read a run.
    /// # Errors
    /// When it is none, its model is no denoiser, or the frozen models that it learnt with are not where they were.
    pub fn load(folder: &Path) -> Result<Self, TrainError> {
        let (loaded, is_averaged) = run::load_averaged(folder)?;
        let denoising = Denoising::new(&as_learnt(folder, &loaded.recipe))?;
        let table = loaded.model.config();
        let model = if models::kind(&loaded.recipe.model).name == "unet" {
            Kind::Unet(Box::new(Unet::new(models::typed(&table)?)?))
        } else {
            let config: DitConfig = models::typed(&table)?;
            Kind::Dit(Box::new(Dit::new(config.clone())?), config)
        };
        let (store, precision, step, recipe) = (loaded.store, loaded.precision, loaded.step, loaded.recipe);
        Ok(Self { model, store, precision, denoising, is_averaged, recipe, step })
    }

    /// Side of its images.
    #[must_use]
    pub fn side(&self) -> usize {
        self.denoising.side()
    }

    /// Classes that it can be told.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.denoising.classes()
    }

    /// Whether it is told captions.
    #[must_use]
    pub fn reads_captions(&self) -> bool {
        self.denoising.reads_captions()
    }

    /// A caption to draw for.
    /// # Errors
    /// When it is told none.
    pub fn caption(&self, caption: &str) -> Result<Condition, TrainError> {
        self.denoising.caption(caption)
    }

    /// Draw; `progress` is told how many steps are done.
    /// # Errors
    /// When memory is short.
    pub fn draw(&mut self, drawing: &Drawing, mut progress: impl FnMut(usize, usize)) -> Result<Vec<RgbImage>, TrainError> {
        let ([side, channels], count) = (self.denoising.shape(), drawing.conditions.len());
        let each = channels * side * side;
        let noise = |n: usize| {
            let mut draws = Draws::new(engine::mix(engine::key(drawing.seed, "drawing") ^ engine::mix(n as u64)));
            (0..each).map(|_| draws.normal() as f32).collect::<Vec<_>>()
        };
        let mut x: Vec<f32> = (0..count).flat_map(noise).collect();
        let times = self.denoising.diffusion.times(drawing.steps);
        let is_guided = drawing.guidance != 1.0 && drawing.conditions.iter().any(|condition| *condition != Condition::None);
        for (i, time) in times.iter().enumerate() {
            let mut said = self.says(&x, *time, &drawing.conditions)?;
            if is_guided {
                let without = self.says(&x, *time, &vec![Condition::None; count])?;
                for (said, without) in said.iter_mut().zip(without) {
                    *said = without + drawing.guidance as f32 * (*said - without);
                }
            }
            self.denoising.diffusion.step(*time, times.get(i + 1).copied(), &mut x, &said, self.denoising.bound());
            progress(i + 1, times.len());
        }
        self.denoising.images(&x)
    }

    /// What the model says of mixed numbers, pixel by pixel.
    fn says(&mut self, x: &[f32], time: f64, conditions: &[Condition]) -> Result<Vec<f32>, TrainError> {
        let Self { model, store, precision, denoising, .. } = self;
        let (each, [_, channels]) = (x.len() / conditions.len().max(1), denoising.shape());
        let inputs = |samples: std::ops::Range<u64>| {
            let samples = samples.start as usize..samples.end as usize;
            let mixed = x[samples.start * each..samples.end * each].to_vec();
            denoising.inputs(mixed, vec![time as f32; samples.len()], &conditions[samples])
        };
        let count = conditions.len() as u64;
        Ok(match model {
            Kind::Unet(unet) => {
                let said = passes::run(&**unet, store, *precision, count, inputs, Unet::noise)?;
                of_channels(&said, [channels, said.len() / (x.len() / channels)])
            }
            Kind::Dit(dit, c) => {
                let said = passes::run(&**dit, store as &mut dyn ParamStore, *precision, count, inputs, dit_says)?;
                of_channels(&unpatched(&said, c), [channels, c.out_channels])
            }
        })
    }
}

fn dit_says<'m>(dit: &'m Dit, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
    dit.patches(tape, inputs)
}

/// The first `channels` of as many as are said of each pixel: others say variances.
fn of_channels(said: &[f32], [channels, of]: [usize; 2]) -> Vec<f32> {
    said.chunks_exact(of.max(channels)).flat_map(|pixel| &pixel[..channels]).copied().collect()
}

/// Patches `[.., side / patch, side / patch, patch, patch, channels]` as lines of pixels.
fn unpatched(said: &[f32], c: &DitConfig) -> Vec<f32> {
    let (across, patch, channels) = (c.size / c.patch, c.patch, c.out_channels);
    let each = c.size * c.size * channels;
    let mut out = vec![0.0; said.len()];
    for (image, out) in said.chunks_exact(each).zip(out.chunks_exact_mut(each)) {
        for (at, pixel) in image.chunks_exact(channels).enumerate() {
            let (place, within) = (at / (patch * patch), at % (patch * patch));
            let line = place / across * patch + within / patch;
            let column = place % across * patch + within % patch;
            out[(line * c.size + column) * channels..][..channels].copy_from_slice(pixel);
        }
    }
    out
}

/// The recipe of the run in `folder`, with the scale of latents that it learnt with, on whatever images it is looked at.
#[must_use]
pub fn as_learnt(folder: &Path, recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    if recipe.objective.contains_key("latents")
        && let Some(scale) = latents::scale_of(folder)
    {
        recipe.objective.insert("latent_scale".into(), scale.into());
    }
    recipe
}

/// Classes for `count` images: each of `classes` in turn, or none.
#[must_use]
pub fn in_turn(count: usize, classes: usize) -> Vec<Condition> {
    (0..count).map(|i| if classes > 0 { Condition::Class((i % classes) as u32) } else { Condition::None }).collect()
}
