//! The loop: samples to batches, step after step, with metrics, held-out loss, checkpoints and the spike guard; stopped
//! and resumed without a trace in the bits.

mod course;
mod from;
mod going_on;
mod loaded;
mod resolve;
mod resume;
mod rows;
mod spike;
mod state;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use comm::Communicator;
pub use course::Course;
use engine::Inputs;
pub use from::{is_same_tokenizer, with_its_model};
pub use loaded::{Loaded, load, load_averaged, recipe_of, tokenizer_of};
use models::Model;
use parallel::param_server::{Report, Turn};
pub use resolve::resolve;
pub use resume::{Standing, decisive, standing};
use serde::Serialize;
use state::State;
pub use state::is_over;
use store::StoreError;

use crate::{
    TrainError,
    checkpoint::{self, CheckpointError, Keep, KernelSpan, NamedTensor, Place, RunLock, Snapshot, TokenizerFiles, Writer},
    clock::Clock,
    eval::Evaluator,
    feed::{Feed, Pick},
    metric::Metric,
    metrics::{Metrics, StepMetrics},
    objective,
    ranks::{self, Comm},
    recipe::Recipe,
    schedule,
    step::{StepCost, StepOptions, Trainer},
    timeline,
};

/// Told what happens.
pub trait Observer: Send {
    fn step(&mut self, metrics: &StepMetrics, steps: u64);
    /// Something that a person should read.
    fn note(&mut self, text: &str);
    /// A phase of a ladder is about to begin.
    fn phase(&mut self, _title: &str) {}
}

/// Says nothing.
pub struct Quiet;

impl Observer for Quiet {
    fn step(&mut self, _metrics: &StepMetrics, _steps: u64) {}
    fn note(&mut self, _text: &str) {}
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// True when it was asked to stop before its last step; it goes on with `resume`.
    pub is_stopped: bool,
    pub step: u64,
    pub loss: f32,
    /// Of held-out samples, at the last step that measured it.
    #[serde(flatten)]
    pub held_out: Option<Metric>,
    /// Of a run that ended by itself, since its held-out metric had turned (`eval.patience`): the best, and its step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turned: Option<Course>,
    /// Seconds of this process, and tokens that it learnt from.
    pub secs: f64,
    pub tokens: u64,
    pub skipped_steps: u64,
    pub cost: StepCost,
    /// Bytes that the step really used.
    pub used_bytes: u64,
}

/// Train `recipe` into `out`, a folder or a URL: checkpoints, `recipe.toml`, `metrics.jsonl`, event files. With `resume`, go on
/// from the newest whole checkpoint, or start if there is none.
/// # Errors
/// A recipe that cannot be, too little data, a full disk, a folder in use, a loss that is lost, a store that takes nothing.
pub fn train(recipe: &Recipe, out: &Path, resume: bool, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let place = &Place::of(out)?;
    let mut note = |text: &str| {
        if ranks::is_first() {
            observer.note(text);
        }
    };
    place.prepare(resume, recipe.train.steps, &mut note)?;
    let out = place.folder();
    let recipe = &from::with_its_model(recipe, out)?;
    // A model that cannot be is told before any data is opened; how many tokens that has does not matter yet.
    if !recipe.model.is_empty() {
        resolve(recipe, Some(1))?;
    }
    // Ranks that are threads read the same data, whose hashes are checked once.
    let feed = objective::feed(recipe)?;
    let on_rank = |comm: Comm, observer: &mut dyn Observer| {
        let (recipe, model) = resolve(recipe, feed.tokenizer().map(data::Tokenizer::vocab))?;
        let mut run = Run::new(&recipe, model, &*feed, place, comm)?;
        run.begin(resume, observer)?;
        run.steps(stop, observer)
    };
    let first = |comm: Comm| {
        let _lock = RunLock::acquire(out)?;
        on_rank(comm, observer)
    };
    ranks::run(recipe, first, |comm| on_rank(comm, &mut Quiet))
}

struct Run<'a> {
    recipe: &'a Recipe,
    feed: &'a dyn Feed,
    place: &'a Place,
    /// Its folder.
    out: &'a Path,
    trainer: Trainer,
    evaluator: Evaluator,
    /// The first rank's, which alone writes.
    writer: Option<Writer>,
    state: State,
    step: u64,
    saved_step: Option<u64>,
    /// Of these weights, if it was measured on them.
    held_out: Option<Metric>,
    tokenizer: Arc<TokenizerFiles>,
    kernels: Vec<KernelSpan>,
    /// The last step before the learning rate comes down.
    stable_step: Option<u64>,
}

/// What this process has done of the run.
struct Here {
    /// The step that it began after.
    first: u64,
    metrics: Option<Metrics>,
    /// Of steps that are finished and not told yet; the last waits for what its meeting measures.
    lines: Vec<StepMetrics>,
    steps: u64,
    /// Since all met, and since a step was finished.
    round: Clock,
    line: Clock,
    secs: f64,
    tokens: u64,
    /// Steps, or parts of them, that this rank has done.
    parts: u64,
    skipped_in_a_row: usize,
    has_timeline: bool,
}

impl Here {
    fn begin(run: &Run<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            first: run.step,
            metrics: run.metrics()?,
            lines: Vec::new(),
            steps: run.recipe.train.steps,
            round: Clock::start(),
            line: Clock::start(),
            secs: 0.0,
            tokens: 0,
            parts: 0,
            skipped_in_a_row: 0,
            has_timeline: false,
        })
    }

    /// Tell of the steps before `until`.
    fn tell(&mut self, until: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let count = self.lines.partition_point(|line| line.step < until);
        for line in self.lines.drain(..count) {
            if let Some(metrics) = &mut self.metrics {
                metrics.write(&line)?;
            }
            observer.step(&line, self.steps);
        }
        Ok(())
    }
}

impl<'a> Run<'a> {
    fn new(
        recipe: &'a Recipe,
        model: Box<dyn Model>,
        feed: &'a dyn Feed,
        place: &'a Place,
        comm: Box<dyn Communicator>,
    ) -> Result<Self, TrainError> {
        let options = StepOptions::of(recipe);
        let evaluator = Evaluator::new(&*model, &*options.objective, options.micro_batch.min(8), recipe.batch.context, options.precision)?;
        let stable_step = resume::stable_step(recipe);
        let is_first = comm.rank() == 0;
        let (out, keep) = (place.folder(), Keep { last: recipe.checkpoint.keep_last, stable_step });
        let writer = is_first.then(|| Writer::new(out, keep, place.uploader(keep)));
        let tokenizer = if is_first { feed.tokenizer_files()? } else { Vec::new() };
        let trainer = Trainer::on_rank(model, options, comm)?;
        Ok(Self {
            recipe,
            feed,
            place,
            out,
            trainer,
            evaluator,
            writer,
            state: State::default(),
            step: 0,
            saved_step: None,
            held_out: None,
            tokenizer: Arc::new(tokenizer),
            kernels: Vec::new(),
            stable_step,
        })
    }

    /// Take up the newest whole checkpoint, or make sure that there is none.
    fn begin(&mut self, resume: bool, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if !resume && let Some((step, _)) = checkpoint::list(self.out).pop() {
            return Err(TrainError::Exists { folder: self.out.to_owned(), step });
        }
        let standing = standing(self.out, self.recipe, Some(self.feed.content()))?;
        standing.notes.iter().for_each(|note| observer.note(note));
        let mut damaged = Vec::new();
        for path in &standing.checkpoints {
            match checkpoint::read(path) {
                Ok(snapshot) => {
                    let step = snapshot.step;
                    observer.note(&format!("resuming from step {step}"));
                    self.restore(path, snapshot)?;
                    if !standing.is_newest {
                        self.set_aside(step, observer)?;
                    }
                    break;
                }
                Err(error) => {
                    observer.note(&format!("{}; going back to an earlier one", error.with_cause()));
                    damaged.push(error);
                }
            }
        }
        if !damaged.is_empty() && damaged.len() == standing.checkpoints.len() {
            return Err(checkpoint::all_damaged(self.out, &damaged).into());
        }
        // A run that was killed before its first checkpoint begins anew as it began.
        if standing.checkpoints.is_empty()
            && let Ok(before) = Recipe::read(&self.out.join("recipe.toml"), &[])
            && resume
        {
            resume::refuse_other_beginning(self.out, &before, self.recipe)?;
        }
        if let Some(from) = &self.recipe.from
            && standing.checkpoints.is_empty()
        {
            let mut from = from::weights(&from.path, self.recipe, self.trainer.model(), self.feed)?;
            from.notes.iter().for_each(|note| observer.note(note));
            let missing = |name| CheckpointError::OtherModel { path: self.out.to_owned(), problem: format!("`{name}` is missing") };
            if let Some(updates) = from.updates {
                self.state.updates_before = updates;
                self.trainer.restore(0, |name| from.values.remove(name)).map_err(missing)?;
                self.trainer.go_on_after(updates);
            } else {
                self.trainer.restore_values(|name| from.values.remove(name)).map_err(missing)?;
            }
        }
        self.note_kernels(observer);
        self.feed.notes().iter().for_each(|note| observer.note(note));
        self.agree()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let (path, text) = (self.out.join("recipe.toml"), self.recipe.to_toml());
        self.place.begin(&text)?;
        disk::write(&path, text).map_err(TrainError::io("write", &path))?;
        if let Some(ahead) = self.place.ahead()? {
            observer.note(&format!("`{}` is not in `{}` yet and is uploaded", ahead.display(), self.place.url().unwrap_or_default()));
            writer.upload(&ahead)?;
        }
        Ok(())
    }

    /// Kernels of another level may give other bits.
    fn note_kernels(&mut self, observer: &mut dyn Observer) {
        let level = kernels::level().to_string();
        match self.kernels.last() {
            Some(last) if last.level == level => return,
            Some(last) => observer.note(&format!(
                "this CPU takes the kernels `{level}`, and the steps before took `{}`: from here on the bits may not be those of a run \
                 that stayed; `HAIRPIN_KERNELS={}` keeps them, where the CPU has it",
                last.level, last.level
            )),
            None => {}
        }
        self.kernels.push(KernelSpan { from_step: self.step + 1, level });
    }

    fn restore(&mut self, path: &Path, snapshot: Snapshot) -> Result<(), TrainError> {
        let other = |problem: String| CheckpointError::OtherModel { path: path.to_owned(), problem };
        let is_only_weights = snapshot.is_only_weights();
        let mut tensors: std::collections::HashMap<String, Vec<f32>> = snapshot.tensors.into_iter().map(|t| (t.name, t.values)).collect();
        if is_only_weights {
            return self
                .trainer
                .restore_values(|name| tensors.remove(name))
                .map_err(|name| TrainError::from(other(format!("`{name}` is missing or of another size"))));
        }
        self.trainer
            .restore(snapshot.step, |name| tensors.remove(name))
            .map_err(|name| other(format!("`{name}` is missing or of another size")))?;
        self.state = serde_json::from_value(snapshot.state).map_err(|e| other(e.to_string()))?;
        self.trainer.go_on_after(self.state.updates_before);
        (self.step, self.saved_step, self.held_out) = (snapshot.step, Some(snapshot.step), snapshot.held_out);
        self.kernels = snapshot.kernels;
        Ok(())
    }

    /// All steps that are left; where a rank does not answer, the error tells in which.
    fn steps(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let ended = self.steps_left(stop, observer);
        if let Err(TrainError::Diverged { .. }) = ended
            && self.saved_step.is_none()
            && self.trainer.has_common_step()
        {
            // All ranks are here: what was learnt before the loss was lost can be looked at.
            self.save(stop)?;
            if let Some(Err(error)) = self.writer.as_mut().map(|writer| writer.close(stop.load(Ordering::Relaxed))) {
                observer.note(&error.with_cause());
            }
        }
        ended.map_err(|error| match error {
            TrainError::Engine(engine::EngineError::Rank(source)) => TrainError::Rank { step: self.step + 1, source },
            other => other,
        })
    }

    fn steps_left(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let clock = Clock::start();
        let mut here = Here::begin(self)?;
        if let Some(Metrics { damaged: damaged @ 1.., .. }) = here.metrics {
            observer.note(&format!("{damaged} damaged lines of `{}` are left out", self.out.join("metrics.jsonl").display()));
        }
        // All ranks are here together, and again whenever they meet: after every step, where they have a common one.
        'meetings: while self.step < self.recipe.train.steps && self.turned().is_none() && !self.is_stopped(stop, observer)? {
            let (began, until) = (self.step, self.next_meeting());
            (here.round, here.line) = (Clock::start(), Clock::start());
            loop {
                match self.trainer.turn(self.step, until, stop.load(Ordering::Relaxed))? {
                    Turn::Part { step, .. } => {
                        self.step = step - 1;
                        self.work(step, &mut here, observer)?;
                        if self.step < step {
                            // Rolled back: begin again from there.
                            here.metrics = self.metrics()?;
                            continue 'meetings;
                        }
                        self.note_finished(&mut here);
                        here.tell(until, observer)?;
                    }
                    Turn::Meet(step) => {
                        self.step = step;
                        break;
                    }
                }
            }
            self.note_finished(&mut here);
            self.held_out = None;
            here.secs += here.round.secs();
            here.tokens += (self.step - began) * self.recipe.step_tokens();
            self.meet(&mut here, stop, observer)?;
        }
        if self.step == self.recipe.train.steps && self.held_out.is_none() {
            self.held_out = Some(self.evaluate()?);
        }
        if self.saved_step != Some(self.step) {
            self.save(stop)?;
        }
        let reports = self.trainer.reports(here.parts, here.secs)?;
        if let Some(writer) = &mut self.writer {
            let is_going = stop.load(Ordering::Relaxed);
            writer.finish()?;
            if let (count @ 1.., Some(url)) = (writer.behind(), self.place.url()) {
                observer.note(&format!("waiting until `{url}` has {count} more checkpoints"));
            }
            let closed = writer.close(is_going);
            writer.notes().iter().for_each(|note| observer.note(note));
            closed?;
            timeline::write(&self.out.join("ranks.json"), &reports)?;
        }
        let turned = self.turned();
        if let Some(Course { best_step, best, without_better }) = turned {
            let folder = self.out.join(checkpoint::folder_name(best_step));
            observer.note(&format!(
                "ended by itself after step {}: {without_better} measurements in a row were no better than {best}; the best checkpoint is `{}`",
                self.step,
                folder.display()
            ));
        }
        Ok(Outcome {
            is_stopped: self.step < self.recipe.train.steps && turned.is_none(),
            turned,
            step: self.step,
            loss: self.state.loss,
            held_out: self.held_out,
            secs: clock.secs(),
            tokens: here.tokens,
            skipped_steps: self.state.skipped_steps,
            cost: self.trainer.cost(),
            used_bytes: self.trainer.used_bytes(),
        })
    }

    /// The course of a metric that has turned, where the recipe ends a run by that.
    fn turned(&self) -> Option<Course> {
        self.state.course.filter(|course| course.has_turned(self.recipe.eval.patience))
    }

    /// The step after which all ranks meet next.
    fn next_meeting(&self) -> u64 {
        if self.trainer.has_common_step() {
            return self.step + 1;
        }
        let after = |every: u64| (self.step / every + 1) * every;
        after(self.recipe.eval.every_steps).min(after(self.recipe.checkpoint.every_steps)).min(self.recipe.train.steps)
    }

    /// This rank's part of a step, from its windows to its update.
    fn work(&mut self, step: u64, here: &mut Here, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.feed.refresh(step, &mut self.trainer, self.out)?;
        let picks = self.picks(step);
        let lanes = self.batch(&picks)?;
        // The third of this process has everything warm.
        let is_recorded = here.parts == 2;
        if is_recorded {
            self.trainer.record();
        }
        let gradient = self.trainer.gradient(step, &lanes, self.feed.weight(&picks))?;
        // A loss can be a number where its gradient is none.
        let judged = if gradient.norm.is_finite() { gradient.loss } else { f32::NAN };
        let is_skipped = self.state.guard.left_out.contains(&step) || self.state.guard.is_spike(&self.recipe.guard, judged);
        if is_skipped {
            here.skipped_in_a_row += 1;
            let before = self.step;
            self.spike(step, judged, here.skipped_in_a_row, observer)?;
            if self.step != before {
                return Ok(());
            }
        } else if !judged.is_finite() {
            return Err(self.diverged(step, judged)?);
        } else {
            here.skipped_in_a_row = 0;
            self.trainer.update(step, self.lr_share(step), gradient.norm)?;
        }
        self.trainer.done(Report { step, loss: gradient.loss, norm: gradient.norm, is_skipped })?;
        if is_recorded {
            self.trainer.end_record();
        }
        here.parts += 1;
        self.step = step;
        Ok(())
    }

    /// What all ranks do together, none of them being at work.
    fn meet(&mut self, here: &mut Here, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.step;
        if !here.has_timeline && step >= here.first + 3 {
            here.has_timeline = true;
            let ranks = self.trainer.recorded()?;
            if self.writer.is_some() {
                timeline::write_timeline(&self.out.join("timeline.json"), &ranks)?;
            }
        }
        let is_last = step == self.recipe.train.steps;
        let mut is_best = false;
        if step.is_multiple_of(self.recipe.eval.every_steps) || is_last {
            let metric = self.evaluate()?;
            self.held_out = Some(metric);
            if is_last || (step / self.recipe.eval.every_steps).is_power_of_two() {
                self.feed.look(step, &mut self.trainer, self.out)?.iter().for_each(|note| observer.note(note));
            }
            if self.recipe.eval.patience.is_some() {
                let course = Course::with(self.state.course, step, metric);
                (self.state.course, is_best) = (Some(course), course.best_step == step);
            }
            if let Some(line) = here.lines.last_mut() {
                line.held_out = self.held_out;
            }
        }
        here.tell(u64::MAX, observer)?;
        // Whoever ends by its best has it.
        let is_kept = is_last || is_best || self.stable_step == Some(step);
        if step.is_multiple_of(self.recipe.checkpoint.every_steps) || is_kept {
            self.save(stop)?;
        }
        Ok(())
    }

    /// A line for each step that was finished since the last time.
    fn note_finished(&mut self, here: &mut Here) {
        let finished = self.trainer.finished();
        if finished.is_empty() {
            return;
        }
        let secs = std::mem::replace(&mut here.line, Clock::start()).secs();
        let tokens_per_sec = finished.len() as f64 * self.recipe.step_tokens() as f64 / secs;
        for Report { step, loss, norm, is_skipped } in finished {
            if is_skipped {
                self.state.skipped_steps += 1;
            } else {
                self.state.loss = loss;
            }
            let lr = self.recipe.optim.lr * self.lr_share(step);
            let figures = self.feed.figures(step).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            here.lines.push(StepMetrics { step, loss, grad_norm: norm, lr, tokens_per_sec, figures, held_out: None, is_skipped });
        }
    }

    /// Of the peak learning rate.
    fn lr_share(&self, step: u64) -> f32 {
        schedule::share(&self.recipe.schedule, step, self.recipe.train.steps)
    }

    fn metrics(&self) -> Result<Option<Metrics>, TrainError> {
        self.writer.as_ref().map(|_| Metrics::open(self.out, self.step)).transpose()
    }

    /// Whether any rank was asked to stop: all must end at the same step. Where a checkpoint could not be written, all learn of it
    /// here and try once more with what was learnt since.
    fn is_stopped(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        if let Some(writer) = &mut self.writer {
            writer.notes().iter().for_each(|note| observer.note(note));
        }
        let failed = self.writer.as_mut().and_then(|writer| writer.look().err());
        let mut asked = [f32::from(stop.load(Ordering::Relaxed)), f32::from(failed.is_some())];
        self.trainer.sum(&mut asked)?;
        if asked[1] > 0.0 {
            if let Some(error) = failed {
                if let CheckpointError::NotFinite { .. }
                | CheckpointError::NotUploaded { .. }
                | CheckpointError::Store(StoreError::Taken { .. }) = error
                {
                    return Err(error.into());
                }
                observer.note(&format!("{}; trying once more at step {}", error.with_cause(), self.step));
            }
            self.save(stop)?;
            if let Some(writer) = &mut self.writer {
                writer.finish()?;
            }
        }
        Ok(asked[0] > 0.0)
    }

    /// The samples of one step, of all ranks.
    fn picks(&self, step: u64) -> Vec<Pick> {
        let count = self.recipe.batch.sequences as u64;
        self.feed.picks((step - 1) * count..step * count)
    }

    /// This rank's share of a step's samples, cut into lanes and micro-batches.
    fn batch(&self, picks: &[Pick]) -> Result<Vec<Vec<Inputs>>, TrainError> {
        let b = &self.recipe.batch;
        let each = b.sequences / b.lanes;
        let cut = |lane: &[Pick]| lane.chunks(b.micro_batch.min(each)).map(|part| self.feed.inputs(part)).collect();
        self.trainer.lanes().into_iter().map(|lane| cut(&picks[lane * each..][..each])).collect()
    }

    fn evaluate(&mut self) -> Result<Metric, TrainError> {
        self.evaluator.of_trainer(&mut self.trainer, self.feed)
    }

    fn save(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        self.saved_step = Some(self.step);
        let tensors = self.trainer.tensors()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let named = |(name, shape, values): (String, engine::Shape, Vec<f32>)| NamedTensor { name, shape: shape.dims().to_vec(), values };
        let tensors = tensors.into_iter().map(named).collect();
        let state = serde_json::to_value(&self.state).map_err(|e| TrainError::io("write the state of", self.out)(e.into()))?;
        let snapshot = Snapshot {
            step: self.step,
            recipe: self.recipe.to_toml(),
            held_out: self.held_out,
            state,
            data: Some(self.feed.content().clone()),
            tokenizer: Arc::clone(&self.tokenizer),
            kernels: self.kernels.clone(),
            tensors,
        };
        writer.submit(snapshot, stop)?;
        Ok(())
    }
}
