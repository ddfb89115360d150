//! An autoencoder's sizes, and what its latents are multiplied by for others to learn from.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Every size. `factors` has one entry for each level, the finest first; each level has half the side of the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Side of the images, in pixels.
    pub size: usize,
    /// Numbers of a latent pixel.
    pub channels: usize,
    /// Channels of the finest level, and of each level over them.
    pub width: usize,
    pub factors: Vec<usize>,
    pub res_blocks: usize,
    /// Of each group norm.
    pub groups: usize,
    /// Whether the pixels of the coarsest level see one another.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub attention: bool,
    /// Whether a convolution of one pixel stands on either side of the latents.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub pixel_convs: bool,
    /// What the divergence of latents from the standard normal distribution counts for, in squared error per nat of a latent number; 0: a
    /// plain autoencoder, whose latents are the means.
    #[serde(default = "usual_kl_weight")]
    pub kl_weight: f32,
    /// What another model learns from is `(latent - shift) scale`. Absent: measured on the images that it learns from, so that they have
    /// variance 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shift: f32,
}

fn yes() -> bool {
    true
}

fn is_yes(is: &bool) -> bool {
    *is
}

fn is_zero(number: &f32) -> bool {
    *number == 0.0
}

/// Little enough that images stay sharp: near what arXiv:2112.10752, appendix G, uses, whose errors and nats are sums.
fn usual_kl_weight() -> f32 {
    1e-4
}

/// Published models by name.
pub const PRESETS: &[&str] = &["sd-autoencoder"];

pub(super) fn preset(name: &str) -> Option<AutoencoderConfig> {
    (name == PRESETS[0]).then(AutoencoderConfig::stable_diffusion)
}

impl AutoencoderConfig {
    /// The autoencoder of Stable Diffusion 1 and 2, for 256 pixels: arXiv:2112.10752 and its code's `autoencoder_kl_32x32x4.yaml`.
    #[must_use]
    pub fn stable_diffusion() -> Self {
        Self {
            size: 256,
            channels: 4,
            width: 128,
            factors: vec![1, 2, 4, 4],
            res_blocks: 2,
            groups: 32,
            attention: true,
            pixel_convs: true,
            kl_weight: 1e-6,
            scale: Some(0.18215),
            shift: 0.0,
        }
    }

    /// Side of the latents.
    #[must_use]
    pub fn latent_size(&self) -> usize {
        self.size >> self.halvings()
    }

    /// How often a side is halved.
    #[must_use]
    pub fn halvings(&self) -> usize {
        self.factors.len().saturating_sub(1)
    }

    pub(super) fn check(&self) -> Result<(), ModelError> {
        crate::in_range(&[
            ("size", self.size, 1 << 14),
            ("channels", self.channels, 1 << 12),
            ("width", self.width, 1 << 14),
            ("factors", self.factors.len(), 8),
            ("res_blocks", self.res_blocks, 64),
            ("groups", self.groups, 1 << 12),
        ])?;
        let step = 1 << self.halvings();
        if !self.size.is_multiple_of(step) {
            let problem = format!("a side of {} cannot be halved {} times", self.size, self.halvings());
            return Err(ModelError::key("size", problem, format!("use a multiple of {step}")));
        }
        for (level, factor) in self.factors.iter().enumerate() {
            let width = factor.saturating_mul(self.width);
            if !(1..=1 << 16).contains(&width) || !width.is_multiple_of(self.groups) {
                let problem = format!("{width} channels of level {level} are no {} equal groups", self.groups);
                return Err(ModelError::key("factors", problem, "choose `width` and `factors` that `groups` divides"));
            }
        }
        if !(self.kl_weight >= 0.0 && self.kl_weight.is_finite()) {
            return Err(ModelError::key("kl_weight", format!("{} is no weight", self.kl_weight), "use 1e-4, or 0 for a plain autoencoder"));
        }
        if self.scale.is_some_and(|scale| !(scale > 0.0 && scale.is_finite())) || !self.shift.is_finite() {
            let problem = format!("latents cannot be scaled by {:?} after {}", self.scale, self.shift);
            return Err(ModelError::key("scale", problem, "leave `scale` out to have it measured"));
        }
        Ok(())
    }
}
