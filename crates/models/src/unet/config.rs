//! A U-Net's sizes: those of a preset, and whatever a recipe writes differently.

use serde::{Deserialize, Serialize};

use crate::{ModelError, clip::TextConfig, decoder::Mlp, encoders::EncoderConfig};

/// Every size. `factors`, `attention`: one entry for each level, the finest first; each level has half the side of the one
/// before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Side of the latents: an eighth of the image's.
    pub size: usize,
    pub channels: usize,
    pub out_channels: usize,
    /// Channels of the finest level, and of each level over them.
    pub width: usize,
    pub factors: Vec<usize>,
    pub res_blocks: usize,
    /// Whether pixels of a level see one another and the text.
    pub attention: Vec<bool>,
    /// Attention layers at each such place.
    pub depth: usize,
    /// One of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Of the text encoder's states.
    pub text_width: usize,
    pub text_tokens: usize,
    /// Of each group norm.
    pub groups: usize,
    /// What makes its inputs while it is trained, and is not trained: none where latents and states were stored before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<EncoderConfig>,
}

/// Published models by name.
pub const PRESETS: &[&str] = &["sd1-unet", "sd2-unet"];

pub(super) fn preset(name: &str) -> Option<UnetConfig> {
    let sd1 = UnetConfig {
        size: 64,
        channels: 4,
        out_channels: 4,
        width: 320,
        factors: vec![1, 2, 4, 4],
        res_blocks: 2,
        attention: vec![true, true, true, false],
        depth: 1,
        head_dim: None,
        heads: Some(8),
        text_width: 768,
        text_tokens: 77,
        groups: 32,
        encoders: encoders(TextConfig::of(12, 768, 12, Mlp::QuickGelu)),
    };
    match name {
        "sd1-unet" => Some(sd1),
        // The states of the last but one of OpenCLIP's 24 layers: the last does not run.
        "sd2-unet" => Some(UnetConfig {
            head_dim: Some(64),
            heads: None,
            text_width: 1024,
            encoders: encoders(TextConfig::of(23, 1024, 16, Mlp::Gelu)),
            ..sd1
        }),
        _ => None,
    }
}

/// As both were trained: images and texts encoded anew in each step.
fn encoders(text: TextConfig) -> Vec<EncoderConfig> {
    vec![EncoderConfig::Autoencoder, EncoderConfig::Text(text)]
}

impl UnetConfig {
    /// That sizes are above zero and go into one another.
    /// # Errors
    /// Names the first key that does not fit.
    pub fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("size", self.size, 1 << 12),
            ("channels", self.channels, 1 << 12),
            ("out_channels", self.out_channels, 1 << 12),
            ("width", self.width, 1 << 14),
            ("factors", self.factors.len(), 8),
            ("res_blocks", self.res_blocks, 64),
            ("depth", self.depth, 64),
            ("head_dim", self.head_dim.unwrap_or(1), 1 << 12),
            ("heads", self.heads.unwrap_or(1), 1 << 12),
            ("text_width", self.text_width, 1 << 16),
            ("text_tokens", self.text_tokens, 1 << 16),
            ("groups", self.groups, 1 << 12),
        ];
        crate::in_range(&sizes)?;
        if self.attention.len() != self.factors.len() {
            let problem = format!("{} levels of attention for {} of `factors`", self.attention.len(), self.factors.len());
            return Err(ModelError::key("attention", problem, "write one `true` or `false` for each level"));
        }
        if self.head_dim.is_some() == self.heads.is_some() {
            return Err(ModelError::key("heads", "`heads` and `head_dim` are both written, or neither", "keep one of them"));
        }
        let halvings = self.factors.len() - 1;
        if !self.size.is_multiple_of(1 << halvings) {
            let problem = format!("a side of {} cannot be halved {halvings} times", self.size);
            return Err(ModelError::key("size", problem, format!("use a multiple of {}", 1 << halvings)));
        }
        if !self.width.is_multiple_of(2) {
            return Err(ModelError::key("width", format!("{} is odd, and the time is pairs of waves", self.width), "use an even `width`"));
        }
        for (level, factor) in self.factors.iter().enumerate() {
            let width = factor.saturating_mul(self.width);
            if !(1..=1 << 16).contains(&width) || !width.is_multiple_of(self.groups) {
                let problem = format!("{width} channels of level {level} are no {} equal groups", self.groups);
                return Err(ModelError::key("factors", problem, "choose `width` and `factors` that `groups` divides"));
            }
            let is_attended = self.attention[level] || level + 1 == self.factors.len();
            let unit = self.head_dim.or(self.heads).unwrap_or(1);
            if is_attended && !width.is_multiple_of(unit) {
                let problem = format!("{width} channels of level {level} are no whole heads: {unit} does not divide them");
                return Err(ModelError::key("heads", problem, "choose `heads` or `head_dim` that divides the channels"));
            }
        }
        Ok(())
    }
}
