//! What a folder of prepared images is known by, and what its manifest says.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

/// What is kept of images, and how they are cut into shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareOptions {
    /// The least shorter side, in pixels.
    pub least_side_px: u32,
    /// The most that the longer side may be of the shorter.
    pub most_aspect: f64,
    /// Of two images whose hashes differ in at most so many of 128 bits, and of which one small copy is the other after another brightness or
    /// contrast, a slight shift or crop, the smaller one is left out. 0: only such that have the same hash. At most 16.
    pub near_bits: u32,
    /// Look for near duplicates at all.
    pub is_deduplicated: bool,
    /// What is kept of captions.
    pub captions: CaptionOptions,
    /// The share that is never learnt from.
    pub held_out: f64,
    /// A shard is closed once it has so many bytes.
    pub shard_bytes: u64,
    /// Of which images are held out, and of their order.
    pub seed: u64,
}

/// What is kept of captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionOptions {
    /// Leave out images without a caption, or whose caption breaks a rule; otherwise such images stay without one.
    pub are_required: bool,
    /// In characters.
    pub least_chars: usize,
    /// In characters.
    pub most_chars: usize,
    /// The least share of letters and spaces.
    pub least_letters: f64,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            least_side_px: 16,
            most_aspect: 4.0,
            near_bits: 12,
            is_deduplicated: true,
            captions: CaptionOptions::default(),
            held_out: 0.1,
            shard_bytes: 256 << 20,
            seed: 1,
        }
    }
}

impl Default for CaptionOptions {
    fn default() -> Self {
        Self { are_required: false, least_chars: 3, most_chars: 1000, least_letters: 0.5 }
    }
}

/// Shares of the images that are learnt from, in percent, each of which holds those before it.
pub const PERCENTS: [u32; 4] = [1, 5, 50, 100];
/// What a prepared folder is known by, and what is to be looked at of it.
pub const MANIFEST: &str = "images.json";
pub const CONTACT: &str = "contact.png";
/// What the names of its shards begin with.
pub(crate) const HELD_OUT: &str = "held-out-";
pub(crate) const TRAIN: &str = "train-";
/// Of the manifest.
const LARGEST_BYTES: u64 = 64 << 20;
/// The manifest of a folder that [`crate::prepare::prepare`] wrote; none of another.
#[must_use]
pub fn manifest(folder: &Path) -> Option<Manifest> {
    serde_json::from_str(&disk::read_text(&folder.join(MANIFEST), LARGEST_BYTES).ok()?).ok()
}

/// `images.json` of a prepared folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// A hash of the files that it was made of and of the options.
    pub made_of: String,
    pub options: PrepareOptions,
    /// Images that were found, and of those what is learnt from and what is held out.
    pub found: u64,
    pub train: u64,
    pub held_out: u64,
    /// Images or captions that were left out, by rule.
    pub left_out: Vec<LeftOut>,
    pub notes: Vec<String>,
    /// Images of each class.
    pub classes: BTreeMap<String, u64>,
    /// Images with a caption.
    pub captions: u64,
    pub short_side_px: Quartiles,
    pub aspect: Quartiles,
    pub caption_chars: Quartiles,
    /// Shares of what is learnt from, each of which holds those before it.
    pub samples: Vec<Sample>,
    pub shards: Vec<Shard>,
    /// It stood there already.
    #[serde(skip)]
    pub is_reused: bool,
}

/// What broke one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub rule: String,
    pub count: u64,
    pub examples: Vec<String>,
}

/// Least, quartiles and most of some numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    pub least: f64,
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
    pub most: f64,
}

/// A share of the images that are learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub percent: u32,
    pub images: u64,
    /// Of its shards.
    pub bytes: u64,
}

/// One file of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    pub file: String,
    pub images: u64,
    pub bytes: u64,
    pub blake3: String,
}

impl Quartiles {
    pub(crate) fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |quarter: usize| all.get(quarter * all.len().saturating_sub(1) / 4).copied().unwrap_or(0.0);
        Self { least: at(0), lower: at(1), median: at(2), upper: at(3), most: at(4) }
    }
}

/// Names of the shards that a share of the training images is in.
#[must_use]
pub fn shards_of(manifest: &Manifest, percent: u32) -> Vec<&str> {
    let is_in = |shard: &&Shard| {
        shard.file.strip_prefix(TRAIN).and_then(|rest| rest.split('-').next()?.parse().ok()).is_some_and(|of: u32| of <= percent)
    };
    manifest.shards.iter().filter(is_in).map(|shard| shard.file.as_str()).collect()
}
