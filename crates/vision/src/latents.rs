//! Images as the latents of a frozen autoencoder, and back: what latent diffusion works on (arXiv:2112.10752). What a model learns from is
//! `(latent - shift) scale`, with the scale of the autoencoder or one that is measured on the images, so that latents have variance 1; a
//! checkpoint keeps it.

use std::path::Path;

use engine::Inputs;
use image::RgbImage;
use models::autoencoder::{Autoencoder, AutoencoderConfig};
use serde::{Deserialize, Serialize};
use train::{
    TrainError,
    checkpoint::{self, TokenizerFiles},
};

use crate::{
    frozen::{Cache, Frozen},
    numbers::{pixels_around_zero, pixels_back},
};

/// Of a checkpoint.
const FILE: &str = "latents.json";
const LARGEST_BYTES: u64 = 1 << 20;
/// Images that the scale is measured on, at the most.
pub(crate) const MEASURED: usize = 256;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    scale: f64,
}

/// The scale that a run learnt with, as its newest checkpoint, or the checkpoint that it is, keeps it.
#[must_use]
pub fn scale_of(folder: &Path) -> Option<f64> {
    let checkpoints = std::iter::once(folder.to_owned()).chain(checkpoint::list(folder).into_iter().rev().map(|(_, path)| path));
    let texts = checkpoints.filter_map(|path| disk::read_text(&path.join(FILE), LARGEST_BYTES).ok());
    texts.filter_map(|text| serde_json::from_str::<Kept>(&text).ok()).map(|kept| kept.scale).next()
}

/// See the head of this file.
pub(crate) struct Latents {
    pub config: AutoencoderConfig,
    /// Absent until it is measured.
    pub scale: Option<f64>,
    pub frozen: Frozen,
    autoencoder: Autoencoder,
    cache: Cache<[u8; 32]>,
}

impl Latents {
    /// Those of a run or a folder; `scale` in the place of its own. With `is_kept` what it says of an image is kept, for images that come
    /// again as they are.
    /// # Errors
    /// When there is no autoencoder.
    pub fn open(path: &Path, scale: Option<f64>, is_kept: bool) -> Result<Self, TrainError> {
        let frozen = Frozen::open(path, "autoencoder", "objective.latents")?;
        let config: AutoencoderConfig = models::typed(&frozen.table)?;
        let scale = scale.or(config.scale.map(f64::from));
        Ok(Self { autoencoder: Autoencoder::new(config.clone())?, scale, config, frozen, cache: Cache::new(is_kept) })
    }

    /// Moments of the latents of an image: `pixels` `[size, size, 3]` in -1..1 to `[latent size, latent size, 2 channels]`.
    fn moments(&self, pixels: &[f32]) -> Result<std::sync::Arc<[f32]>, TrainError> {
        let side = ((pixels.len() / 3) as f64).sqrt().round() as usize;
        let inputs = |_| Ok(Inputs::new().with_f32("images", &[1, side, side, 3], pixels.to_vec()));
        let key = *blake3::hash(bytemuck::cast_slice(pixels)).as_bytes();
        self.cache.get(key, || self.frozen.say(&self.autoencoder, 1, inputs, Autoencoder::moments))
    }

    /// What is learnt from of an image in -1..1: drawn by `noise` `[latent size, latent size, channels]`, of a plain autoencoder the means.
    /// # Errors
    /// When shapes do not fit, or memory is short.
    pub fn of(&self, pixels: &[f32], noise: &[f32]) -> Result<Vec<f32>, TrainError> {
        let (moments, channels) = (self.moments(pixels)?, self.config.channels);
        let scale = self.scale.unwrap_or(1.0) as f32;
        let draws = if self.config.kl_weight == 0.0 { 0.0 } else { 1.0 };
        let of = |(i, noise): (usize, &f32)| {
            let at = i / channels * 2 * channels + i % channels;
            let deviation = draws * (0.5 * bounded(moments[at + channels])).exp();
            (moments[at] + deviation * noise - self.config.shift) * scale
        };
        Ok(noise.iter().enumerate().map(of).collect())
    }

    /// Measure the scale on images, unless there is one: one over the deviation of their latents. What a person should know of it.
    /// # Errors
    /// When an image cannot be read, or all latents are alike.
    pub fn measure(&mut self, images: &mut dyn Iterator<Item = Result<RgbImage, TrainError>>) -> Result<String, TrainError> {
        if let Some(scale) = self.scale {
            return Ok(format!("latents are multiplied by {scale}"));
        }
        let (mut count, mut sum, mut squares) = (0.0_f64, 0.0, 0.0);
        for image in images.take(MEASURED) {
            let moments = self.moments(&pixels_around_zero(&image?))?;
            for pixel in moments.chunks_exact(2 * self.config.channels) {
                let (means, log_variances) = pixel.split_at(self.config.channels);
                for (mean, l) in means.iter().zip(log_variances) {
                    let variance = if self.config.kl_weight == 0.0 { 0.0 } else { f64::from(bounded(*l)).exp() };
                    count += 1.0;
                    sum += f64::from(*mean);
                    squares += f64::from(*mean).powi(2) + variance;
                }
            }
        }
        let variance = squares / count - (sum / count).powi(2);
        if !(variance.is_finite() && variance > 0.0) {
            let problem = format!("the latents of the images have variance {variance}");
            let help = "train the autoencoder on such images first".into();
            return Err(TrainError::Value { key: "objective.latents", problem, help });
        }
        // As few digits as a person would write.
        let scale = format!("{:.4e}", variance.sqrt().recip()).parse().unwrap_or(1.0);
        self.scale = Some(scale);
        Ok(format!("latents are multiplied by {scale}, which was measured on training images"))
    }

    /// Images of what was learnt from, of `side` latent pixels a side.
    /// # Errors
    /// When shapes do not fit, or memory is short.
    pub fn decode(&self, latents: &[f32], side: usize) -> Result<Vec<RgbImage>, TrainError> {
        let (each, scale) = (side * side * self.config.channels, self.scale.unwrap_or(1.0) as f32);
        let raw: Vec<f32> = latents.iter().map(|v| v / scale + self.config.shift).collect();
        let inputs = |samples: std::ops::Range<u64>| {
            let (first, end) = (samples.start as usize, samples.end as usize);
            let dims = [end - first, side, side, self.config.channels];
            Ok(Inputs::new().with_f32("latents", &dims, raw[first * each..end * each].to_vec()))
        };
        let images = self.frozen.say(&self.autoencoder, raw.len() / each, inputs, Autoencoder::decode)?;
        let size = side << self.config.halvings();
        Ok(images.chunks_exact(3 * size * size).map(|image| pixels_back(image, size)).collect())
    }

    /// What a checkpoint keeps of it.
    pub fn files(&self) -> TokenizerFiles {
        let Some(scale) = self.scale else { return Vec::new() };
        vec![(FILE.to_owned(), serde_json::to_vec(&Kept { scale }).unwrap_or_default())]
    }
}

/// A log variance as the autoencoder has it.
fn bounded(log_variance: f32) -> f32 {
    let [least, most] = engine::ops::LOG_VARIANCES;
    log_variance.clamp(least, most)
}
