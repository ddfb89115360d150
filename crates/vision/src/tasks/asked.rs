//! The frozen models that a recipe of diffusion names, without their weights: what the planner prices.

use std::path::PathBuf;

use models::{autoencoder::AutoencoderConfig, clip::ClipConfig, encoders::Encoder};
use train::{TrainError, objective, recipe::Recipe};

use super::denoising::DenoisingOptions;
use crate::frozen;

/// One of them.
pub struct Asked {
    /// The part of it that is asked.
    pub encoder: Encoder,
    /// Of all of it: models are held whole.
    pub params: u64,
    /// What is kept of what it says of one sample.
    pub said_bytes: u64,
    /// Whether it is kept for samples that come again.
    pub is_kept: bool,
}

/// Those of `recipe` that are there; of other objectives, and of those that are not there yet, none.
/// # Errors
/// When what is there is no such model.
pub fn asked(recipe: &Recipe) -> Result<Vec<Asked>, TrainError> {
    let mut all = Vec::new();
    if objective::name(recipe) != "denoising" {
        return Ok(all);
    }
    let options = DenoisingOptions::of(recipe)?;
    if let Some(path) = options.latents.filter(|path| path.exists()) {
        let table = frozen::table(&path, "autoencoder", "objective.latents")?;
        let config: AutoencoderConfig = models::typed(&table)?;
        all.push(Asked {
            encoder: Encoder::autoencoder(&config),
            params: models::build(&table)?.params().elements(),
            said_bytes: (4 * 2 * config.channels * config.latent_size().pow(2)) as u64,
            is_kept: options.augment.least_area >= 1.0,
        });
    }
    if let Some(path) = options.text.filter(|path| path.exists()) {
        let table = frozen::table(&path, "clip", "objective.text")?;
        let config: ClipConfig = models::typed(&table)?;
        let said = if models::kind(&recipe.model).name == "unet" { config.text.tokens * config.text.width } else { config.embed };
        all.push(Asked {
            encoder: Encoder::text(&config.text)?,
            params: models::build(&table)?.params().elements(),
            said_bytes: 4 * said as u64,
            is_kept: true,
        });
    }
    Ok(all)
}

/// Those that `recipe` names and that are not there, by their keys.
#[must_use]
pub fn absent(recipe: &Recipe) -> Vec<(&'static str, PathBuf)> {
    let Ok(options) = DenoisingOptions::of(recipe) else { return Vec::new() };
    let named = [("objective.latents", options.latents), ("objective.text", options.text)];
    named.into_iter().filter_map(|(key, path)| Some((key, path?))).filter(|(_, path)| !path.exists()).collect()
}
