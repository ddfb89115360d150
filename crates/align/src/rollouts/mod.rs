//! Rollouts: what a policy in training writes, judged, as the feed of its next steps.
//!
//! ```text
//! iteration i, before its first step:
//!   prompts -> the policy writes -> reward; ln p and values of the policy, ln p of the reference -> advantages
//!   -> RUN/rollouts/000007.json
//! steps of iteration i: `inner_epochs` times over these rollouts, in keyed order
//! ```
//! A file is written whole or not at all, and holds all that the steps need: a run that is killed in the middle of an iteration goes on
//! to the same bits. The first rank writes; the others read.

mod advantages;
mod source;
mod writing;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use advantages::{Advantages, gae};
use data::{Content, Dataset, Sampler, Tokenizer};
use engine::{Inputs, ParamStore, Precision, mix};
use models::Model;
use parallel::Replicated;
use serde::{Deserialize, Serialize};
pub use source::{Group, Source, SourceOptions, options as source_options};
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    eval::{HeldOut, SampleLoss},
    feed::{Feed, InTraining, Pick, is_held_out},
    generate::Sampling,
    recipe::Recipe,
    run::Loaded,
};
pub use writing::{Kl, Writing, prompts_of};
use writing::{Original, read_originals, read_prompts};

use crate::{
    AlignError,
    objectives::{beginning, policy::ARRAYS},
    passes::{Asked, Said, Written},
    rows::{self, Encoder, Row},
};

/// One response with all that is learnt from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    pub prompt: String,
    pub response: String,
    pub tokens: Vec<u32>,
    /// The place of the response's first token.
    pub first: usize,
    /// As it was judged, with penalties.
    pub reward: f64,
    pub has_end: bool,
    /// At each token of the response.
    pub log_probs: Vec<f32>,
    pub reference: Vec<f32>,
    pub values: Vec<f32>,
    pub advantages: Vec<f32>,
    pub returns: Vec<f32>,
}

impl Rollout {
    fn row(&self) -> Row {
        Row { tokens: self.tokens.clone(), first: self.first }
    }

    /// `sum of ln p - ln p_ref`.
    #[must_use]
    pub fn kl(&self) -> f64 {
        self.log_probs.iter().zip(&self.reference).map(|(p, r)| f64::from(p - r)).sum()
    }
}

/// The rollouts between two of a run's steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// Of the recipe that they are part of.
    pub key: String,
    pub iteration: u64,
    /// The weight of the penalty that was in force.
    pub kl_coef: f64,
    /// Mean and deviation of the rewards of the first iteration, by the model that training began with.
    pub origin: [f64; 2],
    /// With `kl = "stored"`: mean `ln p_original - ln p` of stored responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_kl: Option<f64>,
    pub rollouts: Vec<Rollout>,
}

/// See the head of this file.
pub struct Rollouts {
    options: Writing,
    group: usize,
    advantages: Advantages,
    key: String,
    seed: u64,
    sequences: usize,
    context: usize,
    encoder: Encoder,
    prompts: Vec<String>,
    held_out: Vec<String>,
    source: Source,
    /// Of responses to held-out prompts, where that is somebody else.
    gold: Option<Source>,
    reference: Mutex<Loaded>,
    pretrain: Option<(Dataset, Sampler)>,
    /// For `kl = "stored"`, with the weight of their loss.
    originals: Option<(Vec<Original>, Sampler)>,
    stored_coef: f64,
    content: Content,
    now: Mutex<Option<Arc<Iteration>>>,
    notes: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rollouts {
    /// Open what a recipe names: prompts, judge, reference, pretraining data; `kl_coef` weighs the divergence.
    /// # Errors
    /// When one cannot be read, or there are too few prompts.
    pub fn open(recipe: &Recipe, options: Writing, group: usize, advantages: Advantages, kl_coef: f64) -> Result<Self, TrainError> {
        options.check(recipe, group)?;
        let from = beginning(recipe)?;
        let encoder = Encoder::new(&train::run::tokenizer_of(from)?, recipe.batch.context)?;
        let (all, mut notes) = read_prompts(&options, &encoder, recipe.batch.context)?;
        let by_prompt = |prompt: &String| is_held_out(recipe.seed, prompt, options.held_out_ratio);
        let (mut held_out, prompts): (Vec<String>, Vec<String>) = all.into_iter().partition(by_prompt);
        held_out.truncate(recipe.eval.windows as usize);
        if prompts.is_empty() || held_out.is_empty() {
            let problem =
                format!("`{}` gives {} prompts to train on and {} to judge by", options.prompts.display(), prompts.len(), held_out.len());
            let help = "give more prompts, or another `objective.held_out_ratio`".into();
            return Err(TrainError::Value { key: "objective.prompts", problem, help });
        }
        notes.push(format!("{} prompts to train on, {} to judge by", prompts.len(), held_out.len()));
        let pretrain = match &options.pretrain_data {
            Some(path) => {
                let data = Dataset::open(path)?;
                let windows = data.train().windows(recipe.batch.context, 1.0);
                if windows == 0 {
                    return Err(TrainError::SmallCorpus { have: 0, need: 1, context: recipe.batch.context, percent: 100.0 });
                }
                Some((data, Sampler::new(recipe.seed, windows)))
            }
            None => None,
        };
        let originals = match &options.originals {
            Some(path) => {
                let (all, told) = read_originals(path, from, &encoder)?;
                notes.extend(told);
                let count = all.len() as u64;
                Some((all, Sampler::new(recipe.seed, count)))
            }
            None => None,
        };
        let mut hasher = blake3::Hasher::new();
        prompts.iter().chain(&held_out).for_each(|prompt| {
            hasher.update(prompt.as_bytes());
            hasher.update(b"\0");
        });
        let content = encoder.content(&hasher)?;
        let decides =
            format!("{} {} {} {:?} {}", recipe.objective, recipe.seed, recipe.batch.sequences, recipe.from, content.tokens_blake3);
        Ok(Self {
            source: Source::open(&source::options(&options.reward)?, &content.tokenizer_blake3)?,
            gold: match &options.gold {
                Some(table) => Some(Source::open(&source::options(table)?, &content.tokenizer_blake3)?),
                None => None,
            },
            reference: Mutex::new(train::run::load(from)?),
            key: blake3::hash(decides.as_bytes()).to_hex().to_string(),
            group,
            advantages,
            seed: recipe.seed,
            sequences: recipe.batch.sequences,
            context: recipe.batch.context,
            encoder,
            prompts,
            held_out,
            pretrain,
            originals,
            stored_coef: kl_coef,
            content,
            now: Mutex::new(None),
            notes,
            options,
        })
    }

    /// Steps of an iteration.
    fn steps(&self) -> u64 {
        (self.options.rollouts * self.options.inner_epochs / self.sequences) as u64
    }

    fn iteration(&self, step: u64) -> u64 {
        (step - 1) / self.steps()
    }

    fn path(&self, folder: &Path, iteration: u64) -> PathBuf {
        folder.join("rollouts").join(format!("{iteration:06}.json"))
    }

    /// The iteration that is on disk, if it is of this recipe.
    fn read(&self, folder: &Path, iteration: u64) -> Option<Iteration> {
        let text = disk::read(&self.path(folder, iteration), 1 << 32).ok()?;
        serde_json::from_slice::<Iteration>(&text).ok().filter(|read| read.key == self.key && read.iteration == iteration)
    }

    /// Write, judge and keep the rollouts of `iteration`.
    fn make(
        &self,
        iteration: u64,
        model: &dyn Model,
        store: &mut Replicated,
        precision: Precision,
        folder: &Path,
    ) -> Result<Iteration, TrainError> {
        let before = match iteration {
            0 => None,
            _ => Some(self.read(folder, iteration - 1).ok_or_else(|| self.lost(folder, iteration - 1))?),
        };
        let kl_coef = self.advantages.kl_coef(before.as_ref());
        let count = self.options.rollouts / self.group;
        let sampler = Sampler::new(self.seed, self.prompts.len() as u64);
        let prompts: Vec<&String> = (0..count)
            .map(|i| &self.prompts[sampler.at(iteration * count as u64 + i as u64) as usize])
            .flat_map(|prompt| std::iter::repeat_n(prompt, self.group))
            .collect();
        let seed = mix(engine::key(self.seed, "rollouts") ^ mix(iteration));
        let mut policy = Asked { model, store, precision };
        let written = self.write(&mut policy, &prompts, seed)?;
        let rows: Vec<Row> = written.iter().map(|one| one.row.clone()).collect();
        let said = policy.say(&rows)?;
        let (reference, stored_kl) = match &self.originals {
            // No copy of the original is run.
            Some((all, sampler)) => (said.clone(), Some(stored_kl(&mut policy, all, sampler, iteration)?)),
            None => (Asked::of(&mut lock(&self.reference)).say(&rows)?, None),
        };
        let rewards = self.judge_all(&self.source, &written)?;
        let origin = match &before {
            Some(before) => before.origin,
            None => {
                let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
                let deviation = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rewards.len() as f64).sqrt();
                if self.source.is_relative() { [mean, deviation.max(1e-6)] } else { [0.0, 1.0] }
            }
        };
        let rollout = |((one, reward), (said, reference)): ((Written, f64), (Said, Said))| Rollout {
            prompt: one.prompt,
            response: one.response,
            tokens: one.row.tokens,
            first: one.row.first,
            reward: (reward - origin[0]) / origin[1],
            has_end: one.has_end,
            log_probs: said.log_probs,
            reference: reference.log_probs,
            values: said.values,
            advantages: Vec::new(),
            returns: Vec::new(),
        };
        let mut rollouts: Vec<Rollout> = written.into_iter().zip(rewards).zip(said.into_iter().zip(reference)).map(rollout).collect();
        self.advantages.fill(&mut rollouts, kl_coef, self.group);
        let made = Iteration { key: self.key.clone(), iteration, kl_coef, origin, stored_kl, rollouts };
        let path = self.path(folder, iteration);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(AlignError::io("create", parent))?;
        let text = serde_json::to_vec(&made).map_err(|e| AlignError::io("write", &path)(e.into()))?;
        disk::write(&path, text).map_err(AlignError::io("write", &path))?;
        Ok(made)
    }

    /// What the policy writes after each of `prompts`.
    fn write(&self, policy: &mut Asked<'_>, prompts: &[&String], seed: u64) -> Result<Vec<Written>, TrainError> {
        let asks: Vec<(&str, u64)> = prompts.iter().enumerate().map(|(i, prompt)| (prompt.as_str(), mix(seed ^ mix(i as u64)))).collect();
        let sampling = Sampling { temperature: self.options.temperature, top_k: 0, top_p: 1.0, seed: 0 };
        policy.write(&self.encoder, &asks, self.options.response_tokens, sampling)
    }

    /// Rewards by `source` with penalties, in its own units.
    fn judge_all(&self, source: &Source, written: &[Written]) -> Result<Vec<f64>, TrainError> {
        let texts: Vec<(&str, &str)> = written.iter().map(|one| (one.prompt.as_str(), one.response.as_str())).collect();
        let rows: Vec<Row> = written.iter().map(|one| one.row.clone()).collect();
        let scores = source.score(&texts, &rows)?;
        let with_penalties = |(one, score): (&Written, f64)| {
            let missing = if one.has_end { 0.0 } else { self.options.missing_end_penalty };
            score - missing - self.options.repetition_penalty * repeated_share(one.row.response())
        };
        Ok(written.iter().zip(scores).map(with_penalties).collect())
    }

    /// Rollouts that were written before, by weights that are no more, and cannot be read.
    fn lost(&self, folder: &Path, iteration: u64) -> TrainError {
        TrainError::Value {
            key: "objective",
            problem: format!("the rollouts in `{}` are missing, damaged or of another recipe", self.path(folder, iteration).display()),
            help: format!(
                "bring the file back from a copy, or remove the checkpoints after step {} and go on: it is made again",
                iteration * self.steps()
            ),
        }
    }

    fn current(&self, iteration: u64) -> Result<Arc<Iteration>, TrainError> {
        lock(&self.now).as_ref().filter(|now| now.iteration == iteration).cloned().ok_or_else(|| TrainError::Value {
            key: "objective",
            problem: format!("the rollouts of iteration {iteration} are not here"),
            help: "resume the run: they are made again".into(),
        })
    }
}

/// Stored responses that an iteration's divergence is taken over.
pub(crate) const STORED: usize = 128;

/// Mean `ln p_original - ln p` of stored responses, those of `iteration`.
fn stored_kl(policy: &mut Asked<'_>, all: &[Original], sampler: &Sampler, iteration: u64) -> Result<f64, TrainError> {
    let chosen: Vec<&Original> =
        (0..STORED.min(all.len()) as u64).map(|i| &all[sampler.at(iteration * STORED as u64 + i) as usize]).collect();
    let said = policy.say(&chosen.iter().map(|one| one.row.clone()).collect::<Vec<_>>())?;
    let apart = |(one, said): (&&Original, &Said)| one.log_prob - said.log_probs.iter().map(|p| f64::from(*p)).sum::<f64>();
    Ok(chosen.iter().zip(&said).map(apart).sum::<f64>() / chosen.len().max(1) as f64)
}

/// Put a rollout into the arrays of a batch ([`ARRAYS`]), whose row begins at place `at` of each; `mean_tokens` are those of a response.
pub(crate) fn put(one: &Rollout, at: usize, mean_tokens: f32, arrays: &mut [Vec<f32>]) -> Row {
    let row = one.row();
    let places = row.places();
    let counted = vec![1.0 / mean_tokens; places.len()];
    let values: [&[f32]; 6] = [&one.log_probs, &one.advantages, &one.returns, &one.values, &one.reference, &counted];
    for (array, values) in arrays.iter_mut().zip(values).filter(|(_, values)| !values.is_empty()) {
        array[at + places.start..at + places.end].copy_from_slice(values);
    }
    row
}

/// Let the losses at `places` of a batch count `weight` each, as plain text.
pub(crate) fn put_plain(places: Range<usize>, weight: f32, arrays: &mut [Vec<f32>]) {
    if let Some(plain) = arrays.last_mut() {
        plain[places].fill(weight);
    }
}

/// Share of the runs of four tokens that have been there before.
fn repeated_share(tokens: &[u32]) -> f64 {
    let mut seen = std::collections::HashSet::new();
    let runs = tokens.windows(4).len();
    let again = tokens.windows(4).filter(|run| !seen.insert(*run)).count();
    again as f64 / runs.max(1) as f64
}

impl Feed for Rollouts {
    fn picks(&self, positions: Range<u64>) -> Vec<Pick> {
        let of_iteration = self.steps() * self.sequences as u64;
        let rollouts = self.options.rollouts as u64;
        let pick = |position: u64| {
            let (iteration, within) = (position / of_iteration, position % of_iteration);
            let sampler = Sampler::new(mix(self.seed ^ mix(iteration)), rollouts);
            Pick { sample: iteration * rollouts + sampler.index(within / rollouts, within % rollouts), position }
        };
        positions.map(pick).collect()
    }

    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError> {
        let (rollouts, each) = (self.options.rollouts as u64, self.options.rows());
        let Some(first) = picks.first() else { return Ok(Inputs::new()) };
        let now = self.current(first.sample / rollouts)?;
        let chosen: Vec<&Rollout> = picks.iter().map(|pick| &now.rollouts[(pick.sample % rollouts) as usize]).collect();
        let stored = |pick: &Pick| self.originals.as_ref().map(|(originals, sampler)| &originals[sampler.at(pick.position) as usize].row);
        // Windows of plain text fill the context.
        let seq = match &self.pretrain {
            Some(_) => self.context,
            None => {
                let rows = chosen.iter().map(|one| one.row()).chain(picks.iter().filter_map(stored).cloned());
                rows::width(&rows.collect::<Vec<Row>>(), self.context)
            }
        };
        let mean_tokens =
            now.rollouts.iter().map(|one| one.log_probs.len()).sum::<usize>().max(1) as f32 / now.rollouts.len().max(1) as f32;
        let mut all: Vec<Row> = Vec::new();
        let mut arrays: Vec<Vec<f32>> = vec![vec![0.0; picks.len() * each * seq]; ARRAYS.len()];
        for (i, (pick, one)) in picks.iter().zip(chosen).enumerate() {
            let at = i * each * seq;
            all.push(put(one, at, mean_tokens, &mut arrays));
            if let Some((data, sampler)) = &self.pretrain {
                let count = self.options.windows();
                let weight = self.options.pretrain_coef as f32 / (count * seq) as f32;
                put_plain(at + seq..at + (1 + count) * seq, weight, &mut arrays);
                for place in 0..count as u64 {
                    let window = data.train().window(sampler.at(pick.position * count as u64 + place), seq)?;
                    all.push(Row { tokens: window, first: 1 });
                }
            }
            if let Some(row) = stored(pick).cloned() {
                let (at, places) = (at + (each - 1) * seq, row.places());
                put_plain(at + places.start..at + places.end, self.stored_coef as f32 / mean_tokens, &mut arrays);
                all.push(row);
            }
        }
        let dims = [all.len(), seq];
        let inputs = rows::inputs(&all.iter().collect::<Vec<_>>(), seq, self.encoder.tokenizer.end_of_text());
        Ok(ARRAYS.iter().zip(arrays).fold(inputs, |inputs, (name, array)| inputs.with_f32(name, &dims, array)))
    }

    fn weight(&self, picks: &[Pick]) -> u64 {
        picks.len() as u64
    }

    fn name(&self, sample: u64) -> Option<String> {
        let now = lock(&self.now).clone()?;
        now.rollouts.get((sample % self.options.rollouts as u64) as usize).map(|one| one.prompt.clone())
    }

    fn held_out(&self) -> u64 {
        self.held_out.len() as u64
    }

    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError> {
        let prompts = &self.held_out[samples.start as usize..samples.end as usize];
        let all = prompts.iter().map(|prompt| Ok(Row { tokens: self.encoder.prompt(prompt)?, first: 1 }));
        let all = all.collect::<Result<Vec<Row>, TrainError>>()?;
        // A prompt of one token has nothing to read before it.
        let padding = self.encoder.tokenizer.end_of_text();
        let all: Vec<Row> = all.into_iter().map(|row| Row { tokens: [&row.tokens[..], &[padding]].concat(), first: 1 }).collect();
        let width = rows::width(&all, self.context);
        Ok(rows::inputs(&all.iter().collect::<Vec<_>>(), width, padding))
    }

    fn held_out_weight(&self, _sample: u64) -> u64 {
        1
    }

    fn content(&self) -> &Content {
        &self.content
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles, TrainError> {
        Ok(self.encoder.tokenizer.files()?)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.encoder.tokenizer)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn refresh(&self, step: u64, trainer: &mut dyn InTraining, folder: &Path) -> Result<(), TrainError> {
        let iteration = self.iteration(step);
        let is_here = || lock(&self.now).as_ref().is_some_and(|now| now.iteration == iteration);
        let was_here = is_here();
        // Ranks that are threads share this feed: none may change it before all have looked.
        trainer.meet()?;
        if was_here {
            return Ok(());
        }
        let weights = trainer.weights()?;
        if let Some(mut store) = weights {
            let made = match self.read(folder, iteration) {
                Some(read) => read,
                // Later weights would write others.
                None if step != iteration * self.steps() + 1 => return Err(self.lost(folder, iteration)),
                None => self.make(iteration, trainer.model(), &mut store, trainer.precision(), folder)?,
            };
            *lock(&self.now) = Some(Arc::new(made));
        }
        trainer.meet()?;
        if !is_here() {
            // Another process, which reads what the first has written.
            *lock(&self.now) = self.read(folder, iteration).map(Arc::new);
        }
        self.current(iteration).map(|_| ())
    }

    fn figures(&self, step: u64) -> Vec<(&'static str, f64)> {
        let Ok(now) = self.current(self.iteration(step)) else { return Vec::new() };
        let count = now.rollouts.len().max(1) as f64;
        let mean = |of: &dyn Fn(&Rollout) -> f64| now.rollouts.iter().map(of).sum::<f64>() / count;
        vec![
            ("reward", mean(&|one| one.reward * now.origin[1] + now.origin[0])),
            ("kl", now.stored_kl.unwrap_or_else(|| mean(&Rollout::kl))),
            ("kl_coef", now.kl_coef),
            ("response_tokens", mean(&|one| one.log_probs.len() as f64)),
            ("ended", mean(&|one| f64::from(u8::from(one.has_end)))),
        ]
    }

    fn judge(&self, model: &dyn Model, store: &mut dyn ParamStore, precision: Precision) -> Result<Option<HeldOut>, TrainError> {
        let prompts: Vec<&String> = self.held_out.iter().collect();
        let written = self.write(&mut Asked { model, store, precision }, &prompts, mix(engine::key(self.seed, "held out")))?;
        let judge = self.gold.as_ref().unwrap_or(&self.source);
        let samples = self.judge_all(judge, &written)?.into_iter().map(|reward| SampleLoss { loss: reward, weight: 1 }).collect();
        Ok(Some(HeldOut::of(&crate::objectives::REWARD, samples)))
    }

    fn is_judge(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_come_again_are_counted() {
        assert_eq!(repeated_share(&[1, 2, 3, 4, 5]), 0.0);
        assert_eq!(repeated_share(&[7; 8]), 4.0 / 5.0);
        assert_eq!(repeated_share(&[1]), 0.0);
    }
}
