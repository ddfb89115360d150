//! A feed of samples that are each a few rows of tokens: demonstrations, pairs, rankings. Held-out samples are chosen by what they are about,
//! so that no prompt is in both.

use std::{ops::Range, path::Path};

use data::{Content, Sampler, Tokenizer};
use engine::Inputs;
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    feed::{Feed, Pick, is_held_out},
    recipe::Recipe,
};

use crate::rows::{Encoder, Row};

/// A sample: rows of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub rows: Vec<Row>,
    /// Of each row, as in a preference; empty of a demonstration.
    pub ranks: Vec<u32>,
    /// Of the whole ranking, 0 to 1.
    pub confidence: f32,
    /// Of text that the first row's response stands for.
    pub bytes: u64,
}

/// What an objective makes of samples.
pub trait Batch: Send + Sync {
    /// A model's inputs.
    /// # Errors
    /// Whatever befell it.
    fn inputs(&self, samples: &[&Sample], padding: u32) -> Result<Inputs, TrainError>;

    /// What a training sample counts in the mean loss.
    fn weight(&self, sample: &Sample) -> u64;

    /// What a held-out sample counts in the metric.
    fn held_out_weight(&self, _sample: &Sample) -> u64 {
        1
    }
}

/// See the head of this file.
pub struct Samples<B> {
    batch: B,
    tokenizer: Tokenizer,
    train: Vec<Sample>,
    held_out: Vec<Sample>,
    sampler: Sampler,
    content: Content,
    notes: Vec<String>,
}

impl<B: Batch> Samples<B> {
    /// Feed `samples`, beside which stands what they are about, of which about `held_out_ratio` are held out.
    /// # Errors
    /// When too few are left to train and to measure on.
    pub fn new(
        recipe: &Recipe,
        origin: &Path,
        encoder: Encoder,
        samples: Vec<(String, Sample)>,
        held_out_ratio: f64,
        batch: B,
        mut notes: Vec<String>,
    ) -> Result<Self, TrainError> {
        let mut hasher = blake3::Hasher::new();
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (prompt, sample) in samples {
            for (row, rank) in sample.rows.iter().zip(sample.ranks.iter().chain(std::iter::repeat(&0))) {
                hasher.update(&(row.first as u64).to_le_bytes());
                hasher.update(&rank.to_le_bytes());
                row.tokens.iter().for_each(|token| {
                    hasher.update(&token.to_le_bytes());
                });
            }
            if is_held_out(recipe.seed, &prompt, held_out_ratio) { held_out.push(sample) } else { train.push(sample) }
        }
        held_out.truncate(recipe.eval.windows as usize);
        let need = recipe.batch.sequences;
        if train.len() < need || held_out.is_empty() {
            let problem = format!(
                "`{}` gives {} samples to train on and {} to measure on; a batch takes {need}, and one has to be held out",
                origin.display(),
                train.len(),
                held_out.len()
            );
            let help = "give more prompts, a smaller `batch.sequences`, or another `objective.held_out_ratio`".into();
            return Err(TrainError::Value { key: "objective", problem, help });
        }
        let content = encoder.content(&hasher)?;
        notes.push(format!("{} samples to train on, {} held out by their prompts", train.len(), held_out.len()));
        let sampler = Sampler::new(recipe.seed, train.len() as u64);
        Ok(Self { batch, tokenizer: encoder.tokenizer, train, held_out, sampler, content, notes })
    }

    fn padding(&self) -> u32 {
        self.tokenizer.end_of_text()
    }
}

impl<B: Batch> Feed for Samples<B> {
    fn picks(&self, positions: Range<u64>) -> Vec<Pick> {
        positions.map(|position| Pick { sample: self.sampler.at(position), position }).collect()
    }

    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError> {
        self.batch.inputs(&picks.iter().map(|pick| &self.train[pick.sample as usize]).collect::<Vec<_>>(), self.padding())
    }

    fn weight(&self, picks: &[Pick]) -> u64 {
        picks.iter().map(|pick| self.batch.weight(&self.train[pick.sample as usize])).sum()
    }

    fn name(&self, sample: u64) -> Option<String> {
        self.train.get(sample as usize).map(|sample| sample.name.clone())
    }

    fn held_out(&self) -> u64 {
        self.held_out.len() as u64
    }

    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError> {
        self.batch.inputs(&self.held_out[samples.start as usize..samples.end as usize].iter().collect::<Vec<_>>(), self.padding())
    }

    fn held_out_weight(&self, sample: u64) -> u64 {
        self.batch.held_out_weight(&self.held_out[sample as usize])
    }

    fn content(&self) -> &Content {
        &self.content
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles, TrainError> {
        Ok(self.tokenizer.files()?)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.tokenizer)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Rows of a preference's responses, at most `most` of them: the best, the worst and those between by rank; `None` when the prompt
/// leaves no room for one.
/// # Errors
/// When the tokenizer cannot encode them.
pub(crate) fn of_preference(
    encoder: &Encoder,
    preference: &crate::preferences::Preference,
    most: usize,
    name: String,
) -> Result<Option<Sample>, TrainError> {
    let mut order: Vec<usize> = (0..preference.responses.len()).collect();
    order.sort_by_key(|i| preference.ranks[*i]);
    let count = order.len().min(most);
    let chosen = (0..count).map(|i| order[if count < 2 { 0 } else { i * (order.len() - 1) / (count - 1) }]);
    let (mut rows, mut ranks) = (Vec::new(), Vec::new());
    for i in chosen {
        let Some(row) = encoder.row(&preference.prompt, &preference.responses[i])? else { return Ok(None) };
        rows.push(row);
        ranks.push(preference.ranks[i]);
    }
    let bytes = preference.responses[order[0]].len() as u64;
    Ok(Some(Sample { name, rows, ranks, confidence: preference.confidence.unwrap_or(1.0) as f32, bytes }))
}

/// Samples of a file of preferences with what they are about, and what was left out of it.
/// # Errors
/// When it cannot be read, or holds no ranking.
pub(crate) fn of_file(encoder: &Encoder, path: &Path, most: usize) -> Result<(Vec<(String, Sample)>, Vec<String>), TrainError> {
    let read = crate::preferences::read(path, &crate::template::Chat::of(&encoder.tokenizer))?;
    let (mut samples, mut notes) = (Vec::new(), Vec::new());
    if read.left_out > 0 {
        notes.push(format!("`{}`: {} lines are no rankings and left out; {}", path.display(), read.left_out, read.reasons.join("; ")));
    }
    let (mut long, mut tied) = (0, 0);
    for (i, preference) in read.all.iter().enumerate() {
        if preference.pairs().next().is_none() {
            tied += 1;
            continue;
        }
        match of_preference(encoder, preference, most, format!("{}:{}", path.display(), i + 1))? {
            Some(sample) => samples.push((preference.subject(), sample)),
            None => long += 1,
        }
    }
    for (count, why) in [(long, "have a prompt as long as the context"), (tied, "are ties throughout")] {
        if count > 0 {
            notes.push(format!("`{}`: {count} rankings {why} and are left out", path.display()));
        }
    }
    Ok((samples, notes))
}
