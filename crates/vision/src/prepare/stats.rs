//! What is to be known of prepared images: how many, of what sizes, and what was left out by which rule, with examples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Kept, PrepareOptions};

/// Examples that are named of each rule.
const NAMED: usize = 8;

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
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |quarter: usize| all.get(quarter * all.len().saturating_sub(1) / 4).copied().unwrap_or(0.0);
        Self { least: at(0), lower: at(1), median: at(2), upper: at(3), most: at(4) }
    }
}

/// Counts as they are made.
pub(super) struct Stats {
    found: u64,
    left_out: BTreeMap<&'static str, LeftOut>,
    notes: Vec<String>,
}

impl Stats {
    pub fn new(found: usize, mut notes: Vec<String>, faults: Option<String>) -> Self {
        notes.extend(faults);
        Self { found: found as u64, left_out: BTreeMap::new(), notes }
    }

    pub fn add(&mut self, rule: &'static str, name: &str, problem: &str) {
        let of = self.left_out.entry(rule).or_insert_with(|| LeftOut { rule: rule.into(), count: 0, examples: Vec::new() });
        of.count += 1;
        if of.examples.len() < NAMED {
            of.examples.push(format!("`{}` {}", disk::printable_line(name), disk::printable_line(problem)));
        }
    }

    pub fn in_words(&self) -> String {
        self.left_out.values().map(|of| format!("{} by the rule `{}`", of.count, of.rule)).collect::<Vec<_>>().join(", ")
    }

    pub fn finish(
        self,
        made_of: String,
        options: &PrepareOptions,
        [train, held_out]: [&[Kept]; 2],
        shards: Vec<Shard>,
        samples: Vec<Sample>,
    ) -> Manifest {
        let all = || train.iter().chain(held_out);
        let mut classes = BTreeMap::new();
        all().for_each(|kept| *classes.entry(kept.entry.class.clone()).or_default() += 1);
        let sides = |kept: &Kept| (f64::from(kept.seen.width.min(kept.seen.height)), f64::from(kept.seen.width.max(kept.seen.height)));
        let captions: Vec<f64> =
            all().filter_map(|kept| kept.entry.caption.as_ref()).map(|caption| caption.chars().count() as f64).collect();
        Manifest {
            made_of,
            options: options.clone(),
            found: self.found,
            train: train.len() as u64,
            held_out: held_out.len() as u64,
            left_out: self.left_out.into_values().collect(),
            notes: self.notes,
            classes,
            captions: captions.len() as u64,
            short_side_px: Quartiles::of(all().map(|kept| sides(kept).0).collect()),
            aspect: Quartiles::of(all().map(|kept| sides(kept).1 / sides(kept).0).collect()),
            caption_chars: Quartiles::of(captions),
            samples,
            shards,
            is_reused: false,
        }
    }
}
