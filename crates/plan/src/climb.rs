//! The ladder: phase after phase, each priced, trained, gated and written into the ledger; a failed gate stops the climb,
//! and climbing again goes on from there.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use data::{Dataset, Ngram, Progress};
use engine::{ParamKind, ParamSpec};
use serde::Serialize;
use train::{
    clock::unix_secs,
    eval,
    gate::{self, Expected, Subject},
    generate::{Sampling, generate},
    ledger::{self, Entry, Figures},
    recipe::Recipe,
    run::{self, Loaded, Observer},
};

use crate::{
    PlanError,
    law::{self, Point, Size},
    machine::{self, Price},
    project::Project,
};

/// How far the climb came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// One entry per phase that has one, the newest.
    pub entries: Vec<Entry>,
    pub is_stopped: bool,
    pub passed: bool,
}

/// Tokens from which the n-gram baseline counts, at most.
const BASELINE_TOKENS: u64 = 4 << 20;

/// Prices of all phases; the data has to be there.
/// # Errors
/// When a phase's recipe cannot be.
pub fn price(project: &Project, folder: &Path) -> Result<Vec<Price>, PlanError> {
    let data = Dataset::open(&folder.join("data"))?;
    (0..project.phases.len()).map(|i| Ok(machine::price(&project.recipe(i, folder)?, Some(data.vocab()))?)).collect()
}

/// Climb: prepare the data, then every phase that has not passed yet.
/// # Errors
/// What befell data, training or a checkpoint. A gate that fails is no error: see [`Outcome::passed`].
pub fn climb(
    project: &Project,
    folder: &Path,
    stop: &AtomicBool,
    progress: &dyn Progress,
    observer: &mut dyn Observer,
) -> Result<Outcome, PlanError> {
    let stats = data::prepare(&project.data, &folder.join("data"), progress)?;
    if stats.is_reused {
        observer.note("the data was prepared before from the same text and options, and is used again");
    }
    let data = Dataset::open(&folder.join("data"))?;
    let path = folder.join("ledger.jsonl");
    let mut entries: Vec<Entry> = Vec::new();
    for index in 0..project.phases.len() {
        let recipe = project.recipe(index, folder)?;
        let before = ledger::read(&path).0.into_iter().rfind(|e| e.phase == index + 1);
        let (resolved, _) = run::resolve(&recipe, Some(data.vocab()))?;
        if let Some(entry) = before.filter(|entry| entry.passed && is_of(&project.phase_folder(index, folder), &resolved, Some(data.content())) == Some(true)) {
            observer.note(&format!("phase {} `{}` has passed before", entry.phase, entry.name));
            entries.push(entry);
            continue;
        }
        let phase = Rung { project, folder, data: &data, index, recipe, resolved };
        let Some(entry) = phase.climb(&entries, stop, observer)? else {
            return Ok(Outcome { entries, is_stopped: true, passed: false });
        };
        ledger::append(&path, &entry)?;
        let passed = entry.passed;
        entries.push(entry);
        if !passed {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome { entries, is_stopped: true, passed: false });
        }
    }
    let passed = entries.len() == project.phases.len() && entries.iter().all(|e| e.passed);
    Ok(Outcome { entries, is_stopped: false, passed })
}

/// What decides the loss of `recipe` on a corpus of so many tokens.
pub(crate) fn size(recipe: &Recipe, model: &dyn models::Model, corpus_tokens: f64) -> Size {
    let is_of_a_block = |spec: &&ParamSpec| !matches!(spec.kind, ParamKind::Embedding | ParamKind::Head);
    Size {
        params: model.params().specs().iter().filter(is_of_a_block).map(|spec| spec.active_elements() as f64).sum(),
        tokens: (recipe.train.steps * recipe.step_tokens()) as f64,
        unique_tokens: corpus_tokens * recipe.data.fraction,
    }
}

struct Rung<'a> {
    project: &'a Project,
    folder: &'a Path,
    data: &'a Dataset,
    index: usize,
    recipe: Recipe,
    /// The same, completed by the data.
    resolved: Recipe,
}

/// Whether the run in `folder` is one of `recipe`, over `data` where they are here; `None` when there is no run. How paths are
/// spelt is no part of it.
pub(crate) fn is_of(folder: &Path, recipe: &Recipe, data: Option<&data::Content>) -> Option<bool> {
    match run::standing(folder, recipe, data) {
        Ok(standing) if standing.checkpoints.is_empty() => None,
        Ok(standing) => Some(standing.has_same_steps),
        // What cannot be read is no other run: nothing of it is set aside.
        Err(train::TrainError::OtherRecipe { .. } | train::TrainError::OtherData { .. }) => Some(false),
        Err(_) => None,
    }
}

impl Rung<'_> {
    /// Train and gate one phase; `None` when asked to stop.
    fn climb(&self, before: &[Entry], stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Option<Entry>, PlanError> {
        let (index, name) = (self.index, &self.project.phases[self.index].name);
        let price = machine::price(&self.recipe, Some(self.data.vocab()))?;
        self.check_budget(before, price.secs)?;
        let mut points = Vec::new();
        for entry in before {
            if let Some(loss) = entry.actual.bits_per_byte {
                points.push(Point { size: self.size(entry.phase - 1)?, loss });
            }
        }
        let law = law::predict(&points, self.size(index)?);
        let predicted = Figures {
            bits_per_byte: law.map(|l| l.loss),
            bits_per_byte_interval: law.map(|l| l.interval),
            secs: price.secs,
            memory_bytes: price.cost.total_bytes(),
            tokens: price.tokens,
            flops: price.flops,
        };
        observer.phase(&format!(
            "phase {} `{name}`: {:.2}M parameters, {} tokens, about {:.0} s",
            index + 1,
            price.cost.params as f64 / 1e6,
            price.tokens,
            price.secs
        ));

        let out = self.project.phase_folder(index, self.folder);
        let sample_before = self.sample_untrained()?;
        // A phase that was begun under another recipe begins anew; of other steps it may go on.
        if let Err(error @ (train::TrainError::OtherRecipe { .. } | train::TrainError::OtherData { .. })) =
            run::standing(&out, &self.resolved, Some(self.data.content()))
        {
            observer.note(&format!("{error}; phase {} begins anew, and that run is set aside", index + 1));
            let aside = out.with_extension(format!("{:.0}.old", unix_secs()));
            std::fs::rename(&out, &aside).map_err(|source| train::TrainError::Io { action: "set aside", path: out.clone(), source })?;
        }
        let outcome = run::train(&self.recipe, &out, true, stop, observer)?;
        if outcome.is_stopped {
            return Ok(None);
        }
        let bits_per_byte = outcome.bits_per_byte.unwrap_or(f64::NAN);
        let baseline = self.baseline()?;
        let expected =
            Expected { bits_per_byte: law.map(|l| l.interval), before: before.last().and_then(|e| e.actual.bits_per_byte), baseline };
        let mut subject = Subject { folder: &out, loaded: run::load(&out)?, data: self.data, bits_per_byte, expected };
        let gates = gate::pass(&mut subject);
        let sample_after = self.sample(&mut subject.loaded)?;
        let passed = gates.iter().all(|gate| gate.passed);
        let actual = Figures {
            bits_per_byte: Some(bits_per_byte),
            bits_per_byte_interval: None,
            // A resumed phase reports the time that all of its steps would have taken at this rate.
            secs: if outcome.tokens == 0 { 0.0 } else { outcome.secs * price.tokens as f64 / outcome.tokens as f64 },
            memory_bytes: outcome.used_bytes,
            tokens: outcome.step * self.recipe.step_tokens(),
            flops: price.flops,
        };
        Ok(Some(Entry {
            phase: index + 1,
            name: name.clone(),
            folder: out,
            params: price.cost.params,
            unix_secs: unix_secs(),
            predicted,
            actual,
            baseline_bits_per_byte: baseline,
            gates,
            passed,
            sample_before,
            sample_after,
        }))
    }

    fn size(&self, index: usize) -> Result<Size, PlanError> {
        let (recipe, model) = run::resolve(&self.project.recipe(index, self.folder)?, Some(self.data.vocab()))?;
        Ok(size(&recipe, &*model, self.data.train().tokens() as f64))
    }

    fn check_budget(&self, before: &[Entry], needed_secs: f64) -> Result<(), PlanError> {
        let Some(budget_secs) = self.project.budget_secs else { return Ok(()) };
        let left_secs = budget_secs - before.iter().map(|e| e.actual.secs).sum::<f64>();
        if needed_secs > left_secs {
            return Err(PlanError::Budget { phase: self.index + 1, needed_secs, left_secs, budget_secs });
        }
        Ok(())
    }

    /// Bits per byte of a trigram that saw as many tokens of the phase's share as the model was trained on.
    fn baseline(&self) -> Result<f64, PlanError> {
        let train = self.data.train();
        let share = (train.tokens() as f64 * self.recipe.data.fraction) as u64;
        let share = share.min(self.recipe.train.steps * self.recipe.step_tokens());
        let read = train.read(0, share.min(BASELINE_TOKENS) as usize)?;
        let ngram = Ngram::train(&read, self.data.vocab());
        let windows = eval::held_out_windows(self.data, self.recipe.batch.context, self.recipe.eval.windows);
        let windows = windows?;
        let bits: f64 = windows.iter().map(|w| ngram.window_bits(w)).sum();
        Ok(bits / windows.iter().map(|w| self.data.target_bytes(w)).sum::<u64>().max(1) as f64)
    }

    fn sample_untrained(&self) -> Result<String, PlanError> {
        let (recipe, model) = run::resolve(&self.recipe, Some(self.data.vocab()))?;
        let store = parallel::Replicated::solo(model.params(), |id| model.params().initial(id, recipe.seed));
        let precision = recipe.train.precision.resolve();
        self.sample(&mut Loaded { recipe, model, store, precision, step: 0, tokenizer_path: self.data.tokenizer_path(), passed_over: Vec::new() })
    }

    /// What the model writes after the beginning of a held-out document.
    fn sample(&self, loaded: &mut Loaded) -> Result<String, PlanError> {
        let language = loaded.model.language().ok_or(train::TrainError::NotLanguage)?;
        let held_out = self.data.held_out();
        let prompt = held_out.read(0, 24.min(held_out.tokens() as usize).min(language.context() / 2).max(1))?;
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let count = 96.min(language.context() - prompt.len());
        let end = Some(self.data.tokenizer().end_of_text());
        let drawn = generate(language, loaded.model.params(), &mut loaded.store, loaded.precision, &prompt, count, end, &sampling, |_| {})?;
        let tokens: Vec<u32> = prompt.into_iter().chain(drawn.iter().map(|d| d.token)).collect();
        Ok(self.data.tokenizer().decode(&tokens))
    }
}
