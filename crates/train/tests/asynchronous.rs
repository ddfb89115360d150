//! Workers without a common step: the bound holds, the loss is that of the synchronous run within a margin, a slow worker
//! does less, one that has gone or hung is named, and checkpoints go from and to any other strategy.

mod text;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use comm::{Communicator, Patience, Threads};
use engine::{EngineError, Inputs};
use parallel::param_server::{Report, Turn};
use train::{
    TrainError,
    feed::inputs_of,
    metrics::{self, StepMetrics},
    recipe::Recipe,
    run::{self, Observer, Outcome, Quiet},
    step::{StepOptions, Trainer},
    timeline,
};

const CONTEXT: usize = 16;

fn trainer(comm: Threads, staleness: u64) -> Trainer {
    let ranks = comm.ranks();
    let text = format!(
        "[model]\ndepth = 2\nvocab = 97\ncontext = {CONTEXT}\n[batch]\nsequences = 8\nlanes = 8\nmicro_batch = 1\ncontext = {CONTEXT}\n\
         [train]\nprecision = \"f32\"\n[optim]\nkind = \"adamw\"\n\
         [parallel]\nranks = {ranks}\nstrategy = \"param_server\"\nstaleness = {staleness}\n"
    );
    let recipe = Recipe::parse(&text, "test", &[]).unwrap();
    Trainer::on_rank(models::build(&recipe.model).unwrap(), StepOptions::of(&recipe), Box::new(comm)).unwrap()
}

/// The lane of that place in a step: a sequence that counts upwards from a place drawn, so that there is something to learn.
fn lane(step: u64, place: usize) -> Vec<Inputs> {
    let from = engine::mix(step * 64 + place as u64);
    vec![inputs_of(&[(0..=CONTEXT as u64).map(|i| ((from + i) % 97) as u32).collect()])]
}

/// A part of `step`, on the lanes that the trainer was given.
fn part(trainer: &mut Trainer, step: u64) -> Result<f32, TrainError> {
    let lanes: Vec<_> = trainer.lanes().into_iter().map(|place| lane(step, place)).collect();
    let gradient = trainer.gradient(step, &lanes, 8 * CONTEXT as u64)?;
    trainer.update(step, 1.0, gradient.norm)?;
    trainer.done(Report { step, loss: gradient.loss, norm: gradient.norm, is_skipped: false })?;
    Ok(gradient.loss)
}

fn on_ranks<T: Send>(group: Vec<Threads>, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || work(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_slow_worker_does_less_and_no_part_begins_beyond_the_bound() {
    const STEPS: u64 = 40;
    for staleness in [0, 1, 3] {
        // Parts as they were begun, after the word for it, and as they ended, before: the order here is the real one or kinder.
        let begun = Mutex::new(Vec::new());
        let ended = Mutex::new(BTreeMap::<u64, usize>::new());
        let losses = on_ranks(Threads::group(4), |comm| {
            let rank = comm.rank();
            let mut trainer = trainer(comm, staleness);
            let mut ahead = 0;
            let mut parts = 0;
            loop {
                let turn = trainer.turn(0, STEPS, false).unwrap();
                let Turn::Part { step, part: number } = turn else { break };
                let whole = {
                    let ended = ended.lock().unwrap();
                    (1..).take_while(|step| ended.get(step) == Some(&4)).count() as u64
                };
                begun.lock().unwrap().push((step, number));
                assert!(step <= whole + 1 + staleness, "step {step} begins when {whole} are done: the bound is {staleness}");
                ahead = ahead.max(step - 1 - whole);
                if rank == 0 {
                    // On whom the others would wait for ever, were they to wait.
                    std::thread::sleep(Duration::from_millis(15));
                }
                parts += 1;
                let lanes: Vec<_> = trainer.lanes().into_iter().map(|place| lane(step, place)).collect();
                let gradient = trainer.gradient(step, &lanes, 8 * CONTEXT as u64).unwrap();
                trainer.update(step, 1.0, gradient.norm).unwrap();
                *ended.lock().unwrap().entry(step).or_default() += 1;
                trainer.done(Report { step, loss: gradient.loss, norm: gradient.norm, is_skipped: false }).unwrap();
            }
            // A server serves until its rank goes.
            trainer.sum(&mut [0.0]).unwrap();
            let finished = trainer.finished();
            assert_eq!(finished.len() as u64, if rank == 0 { STEPS } else { 0 }, "the first rank hears of all steps");
            (parts, ahead, finished)
        });
        let mut begun = begun.into_inner().unwrap();
        begun.sort_unstable();
        let all: Vec<_> = (1..=STEPS).flat_map(|step| (0..4).map(move |part| (step, part))).collect();
        assert_eq!(begun, all, "each part is done once");
        assert!(staleness == 0 || losses[0].0 < STEPS, "the slow one does less than its share: {}", losses[0].0);
        let most = losses.iter().map(|(_, ahead, _)| *ahead).max().unwrap();
        assert!(staleness == 0 || most > 0, "asynchronous in name only: nobody was ever ahead");
        let loss = |steps: &[Report]| steps.iter().map(|step| step.loss).sum::<f32>() / steps.len() as f32;
        let (first, last) = (loss(&losses[0].2[..2]), loss(&losses[0].2[30..]));
        assert!(last < 0.8 * first, "staleness {staleness}: loss {first} to {last}");
    }
}

#[test]
fn a_worker_that_asks_for_nothing_stops_nobody_and_takes_part_again_when_it_asks() {
    const STEPS: u64 = 30;
    let at = AtomicU64::new(0);
    let parts = on_ranks(Threads::group(4), |comm| {
        let rank = comm.rank();
        let mut trainer = trainer(comm, 1);
        let (mut parts, mut has_rested) = (0, rank != 2);
        while let Turn::Part { step, .. } = trainer.turn(0, STEPS, false).unwrap() {
            part(&mut trainer, step).unwrap();
            parts += 1;
            at.fetch_max(step, SeqCst);
            if !has_rested {
                has_rested = true;
                while at.load(SeqCst) < 20 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        trainer.sum(&mut [0.0]).unwrap();
        parts
    });
    assert_eq!(parts.iter().sum::<u64>(), 4 * STEPS);
    assert!(parts[2] > 1, "it took part again: {parts:?}");
}

/// The rank that an error names.
fn named(error: &TrainError) -> usize {
    let TrainError::Engine(EngineError::Rank(source)) = error else { panic!("{error}") };
    source.downcast_ref::<comm::CommError>().unwrap().rank
}

#[test]
fn a_worker_that_has_gone_or_hung_is_named_by_all_others() {
    let patience = Patience { beat: Duration::from_millis(400), silent: Duration::from_mins(1) };
    for hangs in [false, true] {
        let since = Instant::now();
        let found = on_ranks(Threads::patient(4, patience), |comm| {
            let (rank, pulse) = (comm.rank(), comm.pulse());
            let mut trainer = trainer(comm, 2);
            loop {
                let turn = trainer.turn(0, 1000, false);
                let step = match turn {
                    Ok(Turn::Part { step, .. }) => step,
                    Ok(Turn::Meet(_)) => return None,
                    Err(error) => return Some((named(&error), since.elapsed())),
                };
                if rank == 1 && step >= 3 {
                    if hangs {
                        let _held = pulse.hold();
                        std::thread::sleep(Duration::from_secs(2));
                    }
                    return None;
                }
                if let Err(error) = part(&mut trainer, step) {
                    return Some((named(&error), since.elapsed()));
                }
            }
        });
        for rank in [0, 2, 3] {
            let (named, after) = found[rank].unwrap_or_else(|| panic!("rank {rank} noticed nothing"));
            assert_eq!(named, 1, "rank {rank}");
            assert!(!hangs || after < Duration::from_millis(1900), "rank {rank} knew after {after:?}");
        }
    }
}

fn recipe(folder: &Path, more: &[&str]) -> Recipe {
    let text = format!(
        "[model]\ndepth = 1\n[data]\npath = {:?}\n[batch]\nsequences = 8\nlanes = 4\nmicro_batch = 2\ncontext = 32\n[train]\nsteps = 120\nprecision = \"f32\"\nthreads = 4\n\
         [optim]\nkind = \"adamw\"\nlr = 0.01\n[schedule]\nwarmup_steps = 5\n[eval]\nwindows = 8\nevery_steps = 40\n[checkpoint]\nevery_steps = 60\nkeep_last = 10\n",
        folder.join("data").display().to_string()
    );
    Recipe::parse(&text, "test", &more.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn train(recipe: &Recipe, out: &Path, resume: bool) -> Outcome {
    run::train(recipe, out, resume, &AtomicBool::new(false), &mut Quiet).unwrap()
}

fn ranks(n: usize) -> String {
    format!("parallel.ranks={n}")
}

/// Bits per byte above the synchronous run, of the 8 of a model that has learnt nothing: twice the worst of 60 runs.
const MARGIN: f64 = 0.3;
const SERVERS: &str = "parallel.strategy=param_server";

#[test]
fn a_run_reaches_the_loss_of_the_synchronous_one_and_one_worker_its_bits() {
    let folder = tempfile::tempdir().unwrap();
    text::prepare(folder.path());
    let at = |name: &str| folder.path().join(name);
    let end = |name: &str| std::fs::read(at(name).join("step-00000120/tensors-00000.safetensors")).unwrap();
    let synchronous = train(&recipe(folder.path(), &[]), &at("sync"), false);
    train(&recipe(folder.path(), &[SERVERS, "parallel.staleness=2"]), &at("one"), false);
    assert!(end("sync") == end("one"), "a single worker makes the same steps in the same order");
    for n in [2, 4] {
        for staleness in ["parallel.staleness=0", "parallel.staleness=4"] {
            let out = at(&format!("{n}{staleness}"));
            let outcome = train(&recipe(folder.path(), &[SERVERS, staleness, &ranks(n)]), &out, false);
            let lines = metrics::read(&out.join("metrics.jsonl")).0;
            assert_eq!(lines.iter().map(|line| line.step).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>(), "every step has its line");
            let measured: Vec<u64> = lines.iter().filter(|line| line.held_out.is_some()).map(|line| line.step).collect();
            assert_eq!(measured, [40, 80, 120]);
            let reports = timeline::read_ranks(&out);
            assert_eq!(reports.len(), n);
            assert_eq!(reports.iter().map(|report| report.steps).sum::<u64>(), 120 * n as u64, "parts of all ranks");
            let (want, got) = (synchronous.held_out.unwrap().value, outcome.held_out.unwrap().value);
            assert!(got < want + MARGIN, "{n} ranks, {staleness}: {got} bits per byte, and {want} with a common step");
        }
    }
}

#[test]
fn checkpoints_go_from_and_to_every_other_strategy() {
    let folder = tempfile::tempdir().unwrap();
    text::prepare(folder.path());
    let at = |name: &str| folder.path().join(name);
    let whole = train(&recipe(folder.path(), &[]), &at("whole"), false).held_out.unwrap().value;
    let (four, two) = (ranks(4), ranks(2));
    let asynchronous: &[&str] = &[SERVERS, "parallel.staleness=2", &four];
    for (from, to) in [
        (&[][..], asynchronous),
        (asynchronous, &[][..]),
        (asynchronous, &["parallel.strategy=zero3", &two]),
        (asynchronous, &[SERVERS, "parallel.staleness=1", &two]),
    ] {
        let out = at(&format!("{}", engine::key(1, &format!("{from:?}{to:?}"))));
        train(&recipe(folder.path(), from), &out, false);
        std::fs::remove_dir_all(out.join("step-00000120")).unwrap();
        let outcome = train(&recipe(folder.path(), to), &out, true);
        assert_eq!((outcome.step, outcome.tokens), (120, 60 * 8 * 32));
        let got = outcome.held_out.unwrap().value;
        assert!(got < whole + MARGIN, "{from:?} to {to:?}: {got} bits per byte, and {whole} without a stop");
    }
}

/// Asks the run to stop after a step.
struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn step(&mut self, metrics: &StepMetrics, _steps: u64) {
        self.1.fetch_or(metrics.step >= self.0, SeqCst);
    }
    fn note(&mut self, _text: &str) {}
}

#[test]
fn a_run_that_is_asked_to_stop_ends_at_a_whole_step_and_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    text::prepare(folder.path());
    let (out, stop) = (folder.path().join("run"), AtomicBool::new(false));
    let recipe = recipe(folder.path(), &[SERVERS, "parallel.staleness=3", &ranks(4)]);
    let stopped = run::train(&recipe, &out, false, &stop, &mut StopAfter(7, &stop)).unwrap();
    assert!(stopped.is_stopped && (7..40).contains(&stopped.step), "{stopped:?}");
    assert!(out.join(format!("step-{:08}", stopped.step)).is_dir());
    let ended = train(&recipe, &out, true);
    assert_eq!((ended.step, ended.tokens), (120, (120 - stopped.step) * 8 * 32), "what was done is not done again");
    let steps: Vec<u64> = metrics::read(&out.join("metrics.jsonl")).0.iter().map(|line| line.step).collect();
    assert_eq!(steps, (1..=120).collect::<Vec<_>>());
}

#[test]
fn what_needs_a_common_step_says_that_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), &[SERVERS, "parallel.staleness=2", "model.vocab=97", "model.context=32"]);
    let sim = comm::sim::Topology {
        nodes: 1,
        devices: 1,
        inside: comm::sim::Link::nvlink(1e9),
        across: comm::sim::Link::nvlink(1e9),
        switch_share: 0.0,
    };
    let comm = comm::sim::Sim::new(sim, comm::sim::Settings::default(), |_| 0).rank(0);
    let model = models::build(&recipe.model).unwrap();
    let priced = Trainer::on_meta(model, StepOptions::of(&recipe), Box::new(comm), Box::new(|_| {})).err().unwrap();
    let measured = train::measure::step_times(&recipe, Box::new(comm::Solo), 1).unwrap_err();
    for error in [priced, measured] {
        assert!(error.to_string().starts_with("parallel.staleness: workers that may be 2 steps apart"), "{error}");
    }
}
