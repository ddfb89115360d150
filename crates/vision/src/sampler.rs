//! Images drawn by a run of diffusion, with the frozen models that it learnt with. Of a run that keeps a running average of its weights, with
//! that.

use std::path::Path;

use engine::Precision;
use image::RgbImage;
use train::{TrainError, recipe::Recipe, run};

pub use crate::tasks::{Drawing, in_turn};
use crate::{
    latents,
    tasks::{Condition, Denoiser, Denoising},
};

/// A model of diffusion that can be drawn with.
pub struct Sampler {
    denoiser: Denoiser,
    store: parallel::Replicated,
    precision: Precision,
    denoising: Denoising,
    /// Whether its weights are a running average.
    pub is_averaged: bool,
    pub recipe: Recipe,
    pub step: u64,
}

impl Sampler {
    /// Read a run.
    /// # Errors
    /// When it is none, its model is no denoiser, or the frozen models that it learnt with are not where they were.
    pub fn load(folder: &Path) -> Result<Self, TrainError> {
        let (loaded, is_averaged) = run::load_averaged(folder)?;
        let denoising = Denoising::new(&as_learnt(folder, &loaded.recipe))?;
        let denoiser = Denoiser::of(&loaded.model.config())?;
        let (store, precision, step, recipe) = (loaded.store, loaded.precision, loaded.step, loaded.recipe);
        Ok(Self { denoiser, store, precision, denoising, is_averaged, recipe, step })
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
    pub fn draw(&mut self, drawing: &Drawing, progress: impl FnMut(usize, usize)) -> Result<Vec<RgbImage>, TrainError> {
        self.denoiser.draw(&self.denoising, &mut self.store, self.precision, drawing, progress)
    }
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
