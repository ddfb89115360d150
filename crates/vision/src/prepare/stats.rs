//! What is to be known of prepared images: how many, of what sizes, and what was left out by which rule, with examples.

use std::collections::BTreeMap;

use super::{Kept, LeftOut, Manifest, PrepareOptions, Quartiles, Sample, Shard};

/// Examples that are named of each rule.
const NAMED: usize = 8;

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
