//! The ladder: phase after phase, each priced, trained, gated and written into the ledger; a failed gate stops the climb,
//! and climbing again goes on from there.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use data::Progress;
use engine::{ParamKind, ParamSpec};
use serde::Serialize;
use train::{
    TrainError, checkpoint,
    clock::unix_secs,
    eval::HeldOut,
    gate::{self, Expected, Subject},
    ledger::{self, Entry, Figures},
    metric::Metric,
    metrics, objective,
    recipe::Recipe,
    run::{self, Observer},
};

use crate::{
    PlanError,
    ladder::ground::{Ground, is_of_feedback},
    ladder::here::{self as machine, Price},
    ladder::phase_law::{Point, Size},
    ladder::project::Project,
    ladder::stand,
};

/// How far the climb came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// One entry per phase that has one, the newest.
    pub entries: Vec<Entry>,
    pub is_stopped: bool,
    pub passed: bool,
}

/// Trains a recipe into a folder on other machines, of which the files come back: whether it came to its end, or goes on there.
pub type Elsewhere<'a> = &'a dyn Fn(&Recipe, &Path, &mut dyn Observer) -> Result<bool, PlanError>;

/// Prices of all phases; the data has to be there.
/// # Errors
/// When a phase's recipe cannot be.
pub fn price(project: &Project, folder: &Path) -> Result<Vec<Price>, PlanError> {
    let ground = Ground::open(project, folder)?;
    (0..project.phases.len()).map(|i| Ok(machine::price(&project.recipe(i, folder)?, ground.vocab())?)).collect()
}

/// Climb: prepare the data, then every phase that has not passed yet. The phases named in `anew` begin again, and what they were is
/// kept beside them; no other run is ever given up. Phases train here, or `elsewhere`; gates are judged here.
/// # Errors
/// What befell data, training or a checkpoint; a phase whose run is no longer that of its recipe or data, or a ledger that cannot be
/// written, before any phase trains. A gate that fails is no error: see [`Outcome::passed`].
pub fn climb(
    project: &Project,
    folder: &Path,
    anew: &[String],
    elsewhere: Option<Elsewhere<'_>>,
    stop: &AtomicBool,
    progress: &dyn Progress,
    observer: &mut dyn Observer,
) -> Result<Outcome, PlanError> {
    if let Some(other) = anew.iter().find(|name| project.phases.iter().all(|phase| phase.name != **name)) {
        let names = project.phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>().join("`, `");
        return Err(PlanError::NoPhase { name: other.clone(), names });
    }
    let path = folder.join("ledger.jsonl");
    ledger::check(&path)?;
    let ground = Ground::prepare(project, folder, progress, observer)?;
    let (written, torn) = ledger::read(&path);
    if torn > 0 {
        observer.note(&format!("{torn} torn lines of `{}` are passed over", path.display()));
    }
    let folders: Vec<(String, String)> = project
        .phases
        .iter()
        .enumerate()
        .map(|(index, phase)| (phase.name.clone(), project.phase_folder(index, folder).display().to_string()))
        .collect();
    let mut rungs = Vec::new();
    for (index, phase) in project.phases.iter().enumerate() {
        let recipe = project.recipe(index, folder)?;
        let (resolved, _) = run::resolve(&recipe, ground.vocab())?;
        let rung = Rung {
            project,
            folder,
            ground: &ground,
            index,
            recipe,
            resolved,
            before: &folders[..index],
            is_anew: anew.contains(&phase.name),
        };
        let before = written.iter().rfind(|entry| entry.phase == index + 1);
        let passed = if rung.is_anew { None } else { rung.passed_before(before)? };
        rungs.push((rung, passed));
    }
    let mut entries: Vec<Entry> = Vec::new();
    for at in 0..rungs.len() {
        refuse_stale(&rungs, at)?;
        let (rung, passed) = &rungs[at];
        if let Some(entry) = passed.clone() {
            observer.note(&format!("phase {} `{}` has passed before", entry.phase, entry.name));
            entries.push(entry);
            continue;
        }
        let Some(entry) = rung.climb(&entries, elsewhere, stop, observer)? else {
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

/// Refuse to go on from `rungs[at]` where that or a later one has begun from a phase that is another by now, or is about to begin anew.
fn refuse_stale(rungs: &[(Rung<'_>, Option<Entry>)], at: usize) -> Result<(), PlanError> {
    let mut stale: Vec<&str> = Vec::new();
    let mut first = None;
    for (rung, _) in &rungs[at..] {
        let (name, out, on) = (rung.name(), rung.out(), rung.stands_on());
        if rung.is_anew || checkpoint::list(&out).is_empty() {
            continue;
        }
        let is_to_come = |name: &&str| rungs[at..].iter().any(|(other, _)| other.is_anew && other.name() == *name);
        let is_stale = |name: &&str| stale.contains(name);
        let ground = if let Some(ground) = stand::changed(&out, &on).first() {
            Some((*ground, "has other weights now"))
        } else {
            let mut names = on.iter().map(|(name, _)| name.as_str());
            names.find(|name| is_to_come(name) || is_stale(name)).map(|ground| (ground, "is to begin anew"))
        };
        if let Some(ground) = ground {
            first.get_or_insert(ground);
            stale.push(name);
        }
    }
    let Some((ground, how)) = first else { return Ok(()) };
    let anew: Vec<&str> =
        rungs[at..].iter().filter(|(rung, _)| rung.is_anew).map(|(rung, _)| rung.name()).chain(stale.iter().copied()).collect();
    let help =
        format!("`hairpin climb --anew {}` trains all of it from its beginning, and keeps the old runs beside it", anew.join(" --anew "));
    let phases = stale.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Err(PlanError::Stale { phases, ground: ground.to_owned(), how, help })
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
    ground: &'a Ground,
    index: usize,
    recipe: Recipe,
    /// The same, completed by the data.
    resolved: Recipe,
    /// Names and folders of the phases before it.
    before: &'a [(String, String)],
    /// Whether it is to begin again, whatever is there.
    is_anew: bool,
}

/// Whether the run in `folder` is one of `recipe`, over `data` where they are here; `None` when there is no run. How paths are
/// spelt is no part of it.
pub(crate) fn is_of(folder: &Path, recipe: &Recipe, data: Option<&data::Content>) -> Option<bool> {
    match run::standing(folder, recipe, data) {
        Ok(standing) if standing.checkpoints.is_empty() => None,
        Ok(standing) => Some(standing.has_same_steps),
        // What cannot be read is no other run: nothing of it is set aside.
        Err(TrainError::OtherRecipe { .. } | TrainError::OtherData { .. }) => Some(false),
        Err(_) => None,
    }
}

impl Rung<'_> {
    fn is_of_feedback(&self) -> bool {
        !self.project.is_of_images() && is_of_feedback(&self.resolved)
    }

    fn name(&self) -> &str {
        &self.project.phases[self.index].name
    }

    /// The phases whose folders its recipe names.
    fn stands_on(&self) -> Vec<&(String, String)> {
        stand::named(&self.recipe, self.before)
    }

    fn out(&self) -> PathBuf {
        self.project.phase_folder(self.index, self.folder)
    }

    /// `entry`, the newest of this phase, if it passed and is of the run that is there, whole.
    fn passed_before(&self, entry: Option<&Entry>) -> Result<Option<Entry>, PlanError> {
        let (out, steps) = (self.out(), self.resolved.train.steps);
        let standing = match run::standing(&out, &self.resolved, self.ground.content().filter(|_| !self.is_of_feedback())) {
            Err(error @ TrainError::OtherRecipe { .. }) => {
                return Err(self.is_another(error.to_string(), "set what differs as it was in the project file"));
            }
            Err(error @ TrainError::OtherData { .. }) => {
                return Err(self.is_another(error.to_string(), "give the same text and `[data]` options as before"));
            }
            other => other?,
        };
        let Some(entry) = entry.filter(|entry| entry.passed) else { return Ok(None) };
        let Some(newest) = standing.checkpoints.first() else {
            // One that was asked to begin again, and ended before its first checkpoint, has begun and not ended.
            let (lines, _) = metrics::read(&out.join("metrics.jsonl"));
            if out.join("recipe.toml").is_file() && lines.last().is_none_or(|line| line.step < steps) {
                return Ok(None);
            }
            let problem = format!("it has passed before as `{}`, and `{}` holds no checkpoint", entry.name, out.display());
            return Err(self.is_another(problem, "put its folder back, or give the phase its old name"));
        };
        let newest = checkpoint::manifest(newest).map_err(TrainError::from)?;
        let is_whole = standing.is_newest && standing.has_same_steps && run::is_over(&newest, &self.resolved);
        let is_measured = newest.held_out.is_none() || newest.held_out == entry.actual.held_out;
        Ok((is_whole && is_measured).then(|| entry.clone()))
    }

    fn is_another(&self, problem: String, restore: &str) -> PlanError {
        let name = self.project.phases[self.index].name.clone();
        PlanError::Phase { phase: self.index + 1, name, problem, restore: restore.into() }
    }

    /// Keep what is there under another name.
    fn set_aside(&self, observer: &mut dyn Observer) -> Result<(), PlanError> {
        let out = self.out();
        if out.symlink_metadata().is_err() {
            return Ok(());
        }
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:.0}.old", unix_secs()));
        let aside = out.with_file_name(name);
        std::fs::rename(&out, &aside).map_err(|source| TrainError::Io { action: "set aside", path: out, source })?;
        observer.note(&format!("phase {} begins anew; what it was is kept in `{}`", self.index + 1, aside.display()));
        Ok(())
    }

    /// Train and gate one phase; `None` when asked to stop.
    fn climb(
        &self,
        before: &[Entry],
        elsewhere: Option<Elsewhere<'_>>,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Option<Entry>, PlanError> {
        let (index, name) = (self.index, &self.project.phases[self.index].name);
        let price = machine::price(&self.recipe, self.ground.vocab())?;
        self.check_budget(before, price.secs)?;
        let mut points = Vec::new();
        let is_alike = |entry: &&Entry| {
            let theirs = self.project.recipe(entry.phase - 1, self.folder);
            theirs.is_ok_and(|theirs| objective::name(&theirs) == objective::name(&self.recipe))
        };
        let before_alike: Vec<&Entry> = before.iter().filter(is_alike).collect();
        for entry in &before_alike {
            if let Some(metric) = entry.actual.held_out {
                points.push(Point { size: self.size(entry.phase - 1)?, loss: metric.value });
            }
        }
        // Of feedback no law is known.
        let law = if self.is_of_feedback() { None } else { self.ground.predict(&points, self.size(index)?) };
        let kind = objective::of(&self.resolved).metric(&*models::build(&self.resolved.model).map_err(TrainError::from)?);
        let predicted = Figures {
            held_out: law.map(|l| Metric { kind, value: l.loss }),
            held_out_interval: law.map(|l| l.interval),
            secs: price.secs,
            memory_bytes: price.cost.total_bytes(),
            tokens: price.tokens,
            flops: price.flops,
        };
        observer.phase(&format!(
            "phase {} `{name}`: {:.2}M parameters, {} {}, about {:.0} s",
            index + 1,
            price.cost.params as f64 / 1e6,
            price.tokens,
            price.unit,
            price.secs
        ));

        let out = self.out();
        let (untrained, model) = run::resolve(&self.recipe, self.ground.vocab())?;
        let sample_before = self.ground.sample_untrained(&untrained, model)?;
        if self.is_anew {
            self.set_aside(observer)?;
        }
        if checkpoint::list(&out).is_empty() {
            stand::keep(&out, &self.stands_on())?;
        }
        if let Some(elsewhere) = elsewhere
            && !elsewhere(&self.recipe, &out, observer)?
        {
            return Ok(None);
        }
        // What was trained elsewhere is whole, and is only read.
        let outcome = run::train(&self.recipe, &out, true, stop, observer)?;
        if outcome.is_stopped {
            return Ok(None);
        }
        let metric = outcome.held_out.unwrap_or(Metric { kind, value: f64::NAN });
        let (baseline, whose) = self.ground.baseline(&self.resolved)?;
        let baseline_value = baseline.metric.value;
        let of = |entry: &Entry| Some(HeldOut { metric: entry.actual.held_out?, samples: entry.samples.clone() });
        // What learns from feedback is held against what it began as.
        let before = before_alike.last().copied().filter(|_| !self.is_of_feedback()).and_then(of);
        let expected = Expected { interval: law.map(|l| l.interval), before, baseline: Some((baseline, whose)) };
        let feed = self.ground.feed(&self.resolved)?;
        let held_out = HeldOut { metric, samples: Vec::new() };
        let mut subject = Subject { folder: &out, loaded: run::load(&out)?, feed: &*feed, held_out, expected };
        let gates = gate::pass(&mut subject);
        let sample_after = self.ground.sample(&mut subject.loaded, &out)?;
        let (passed, samples) = (gates.iter().all(|gate| gate.passed), subject.held_out.samples);
        let actual = Figures {
            held_out: Some(metric),
            held_out_interval: None,
            secs: outcome.secs + self.secs_before(&out, &outcome),
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
            unit: price.unit.to_owned(),
            baseline: baseline_value,
            baseline_of: whose.trim_start_matches("of ").to_owned(),
            samples,
            gates,
            passed,
            sample_before,
            sample_after,
        }))
    }

    /// Of the steps that earlier processes made, as their metrics tell.
    fn secs_before(&self, out: &Path, outcome: &run::Outcome) -> f64 {
        let step_tokens = self.recipe.step_tokens();
        let begun = outcome.step.saturating_sub(outcome.tokens / step_tokens);
        let (lines, _) = metrics::read(&out.join("metrics.jsonl"));
        let before = lines.iter().filter(|line| line.step <= begun && line.tokens_per_sec > 0.0);
        before.map(|line| step_tokens as f64 / line.tokens_per_sec).sum()
    }

    fn size(&self, index: usize) -> Result<Size, PlanError> {
        let (recipe, model) = run::resolve(&self.project.recipe(index, self.folder)?, self.ground.vocab())?;
        Ok(size(&recipe, &*model, self.ground.tokens()))
    }

    fn check_budget(&self, before: &[Entry], needed_secs: f64) -> Result<(), PlanError> {
        let Some(budget_secs) = self.project.budget_secs else { return Ok(()) };
        let left_secs = budget_secs - before.iter().map(|e| e.actual.secs).sum::<f64>();
        if needed_secs > left_secs {
            return Err(PlanError::Budget { phase: self.index + 1, needed_secs, left_secs, budget_secs });
        }
        Ok(())
    }
}
