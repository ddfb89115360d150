//! Every objective from a base that was trained here: it learns, it gives the same bits on any number of ranks, and a run that stops in
//! the middle of an iteration goes on to the bits of one that did not.

mod room;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use align::rollouts::Iteration;
use room::Room;
use train::{
    checkpoint,
    metrics::StepMetrics,
    recipe::Recipe,
    run::{self, Observer, Quiet},
};

#[test]
fn every_objective_learns_and_ranks_change_no_bit_of_it() {
    let room = Room::new();
    for (name, objective) in room.objectives() {
        let recipe = room.recipe(&objective, 24);
        let lines = room.train(name, &recipe, &[]);
        let held_out: Vec<f64> = lines.iter().filter_map(|line| Some(line.held_out?.value)).collect();
        let (first, last) = (held_out[0], held_out[held_out.len() - 1]);
        match name {
            "sft" => assert!(last < first, "{name}: {held_out:?}"),
            "reward" | "dpo" => assert!(last > 0.9, "{name}: {held_out:?}"),
            _ => assert!(last > first || last > 0.9, "{name}: {held_out:?}"),
        }
        for cut in ["strategy=replicated", "strategy=zero3", "mesh.pipeline=2"] {
            let two = format!("{name}-{cut}");
            room.train(&two, &recipe, &["parallel.ranks=2", &format!("parallel.{cut}"), "train.steps=24"]);
            assert!(room.weights(&two) == room.weights(name), "{two}");
        }
    }
}

/// Asks to stop after a step.
struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn step(&mut self, metrics: &StepMetrics, _steps: u64) {
        if metrics.step >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, _text: &str) {}
}

#[test]
fn a_run_that_stops_in_the_middle_of_its_rollouts_goes_on_to_the_same_bits() {
    let room = Room::new();
    let text = room.recipe(&room.ppo(), 10);
    room.train("whole", &text, &[]);
    for at in [1, 3, 5, 8] {
        let name = format!("stopped-{at}");
        let (stop, recipe) = (AtomicBool::new(false), Recipe::parse(&text, "stopped", &[]).unwrap());
        let outcome = run::train(&recipe, &room.at(&name), true, &stop, &mut StopAfter(at, &stop)).unwrap();
        assert!(outcome.is_stopped && outcome.step < 10, "{at}");
        room.train(&name, &text, &[]);
        assert!(room.weights(&name) == room.weights("whole"), "stopped after {at}");
    }
    let iteration: Iteration = serde_json::from_slice(&std::fs::read(room.at("whole").join("rollouts/000002.json")).unwrap()).unwrap();
    for one in &iteration.rollouts {
        assert_eq!((one.log_probs.len(), one.values.len()), (one.tokens.len() - one.first, one.tokens.len() - one.first));
        assert!(one.log_probs.iter().zip(&one.reference).all(|(a, b)| *a <= 0.0 && *b <= 0.0));
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Notes(Vec<String>);

impl Observer for Notes {
    fn step(&mut self, _metrics: &StepMetrics, _steps: u64) {}
    fn note(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

#[test]
fn a_run_whose_gold_reward_has_turned_ends_by_itself_and_names_its_best_checkpoint() {
    let room = Room::new();
    // What is learnt is the letter a, and what is wished the letter b.
    let objective = format!("{}\ngold = {{ kind = \"signal\", name = \"regex\", pattern = \"^ b\" }}", room.ppo());
    let text = room.recipe(&objective, 200);
    let recipe = |patience: u64| {
        let set = ["eval.every_steps=4".to_owned(), format!("eval.patience={patience}"), "checkpoint.every_steps=100".to_owned()];
        Recipe::parse(&text, "turned", &set).unwrap()
    };
    let mut notes = Notes::default();
    let train = |name: &str, patience: u64, stop: &AtomicBool, observer: &mut dyn Observer| {
        run::train(&recipe(patience), &room.at(name), true, stop, observer).unwrap()
    };
    let outcome = train("turned", 3, &AtomicBool::new(false), &mut notes);
    let turned = outcome.turned.unwrap();
    assert!(!outcome.is_stopped && outcome.step < 200 && outcome.step == turned.best_step + 3 * 4, "{outcome:?}");
    let best = room.at("turned").join(format!("step-{:08}", turned.best_step));
    assert_eq!(checkpoint::manifest(&best).unwrap().held_out, Some(turned.best));
    assert!(notes.0.iter().any(|note| note.contains("ended by itself") && note.contains(&best.display().to_string())), "{:?}", notes.0);
    // Asked again it is over, and with more patience it goes on.
    let again = train("turned", 3, &AtomicBool::new(false), &mut Quiet);
    assert_eq!((again.step, again.turned), (outcome.step, outcome.turned));
    // Stopped on the way it counts on.
    let stop = AtomicBool::new(false);
    train("killed", 3, &stop, &mut StopAfter(turned.best_step + 5, &stop));
    let on = train("killed", 3, &AtomicBool::new(false), &mut Quiet);
    assert_eq!((on.step, on.turned), (outcome.step, outcome.turned));
    assert!(room.weights("killed") == room.weights("turned"));
    assert!(train("turned", 6, &AtomicBool::new(false), &mut Quiet).step > outcome.step);
}

#[test]
fn rollouts_that_are_lost_in_the_middle_of_their_iteration_are_named_and_not_written_anew_by_later_weights() {
    let room = Room::new();
    let text = room.recipe(&room.ppo(), 10);
    room.train("whole", &text, &[]);
    let recipe = Recipe::parse(&text, "torn", &[]).unwrap();
    let stop = AtomicBool::new(false);
    run::train(&recipe, &room.at("torn"), true, &stop, &mut StopAfter(5, &stop)).unwrap();
    // Four steps are an iteration, so that the fifth is one of the second.
    let path = room.at("torn").join("rollouts/000001.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = run::train(&recipe, &room.at("torn"), true, &AtomicBool::new(false), &mut Quiet).unwrap_err();
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(error.to_string().contains("000001.json") && help.contains("after step 4"), "{error} {help}");
    // What the help says does it.
    std::fs::remove_dir_all(room.at("torn").join("step-00000005")).unwrap();
    room.train("torn", &text, &[]);
    assert!(room.weights("torn") == room.weights("whole"));
}

#[test]
fn before_the_first_step_the_policy_is_its_reference_and_writes_with_the_probabilities_of_training() {
    let room = Room::new();
    room.train("first", &room.recipe(&room.ppo(), 1), &[]);
    let read = |path: &Path| -> Iteration { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let first = read(&room.at("first").join("rollouts/000000.json"));
    for one in &first.rollouts {
        let apart = one.log_probs.iter().zip(&one.reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart}");
    }
    let mut loaded = run::load(&room.at("base")).unwrap();
    let language = loaded.model.language().unwrap();
    for one in first.rollouts.iter().take(4) {
        let request = train::generate::Request {
            prompt: one.tokens[..one.first].to_vec(),
            count: one.tokens.len() - one.first,
            stops: vec![],
            sampling: train::generate::Sampling { temperature: 0.0, ..Default::default() },
        };
        let (table, precision) = (loaded.model.params(), loaded.precision);
        let drawn = train::generate::Writer { language, table, store: &mut loaded.store, precision }.write_one(&request, |_| {}).unwrap();
        let row =
            align::rows::Row { tokens: request.prompt.iter().copied().chain(drawn.iter().map(|d| d.token)).collect(), first: one.first };
        let mut asked = align::passes::Asked { model: &*loaded.model, store: &mut loaded.store, precision };
        let said = asked.say(&[row]).unwrap();
        let apart = said[0].log_probs.iter().zip(&drawn).map(|(a, b)| (a - b.log_prob).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{apart}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let room = Room::new();
    for (objective, want) in [
        ("kind = \"ppo2\"", "there is no objective `ppo2`"),
        ("kind = 3", "3 is not a string"),
        ("beta = 1.0", "it is not set"),
        ("kind = \"dpo\"\npreferences = \"p\"\nbeta = 0.0", "beta 0"),
        ("kind = \"dpo\"\npreferences = \"p\"\nspeed = 1", "unknown field `speed`"),
        ("kind = \"reward\"\npreferences = \"p\"\nk = 1", "1 is not in 2..=64"),
        ("kind = \"ppo\"\nprompts = \"p\"\nreward = { kind = \"model\" }", "missing field `path`"),
        ("kind = \"ppo\"\nprompts = \"p\"\nreward = { kind = \"taste\" }", "\"taste\" is neither"),
        ("kind = \"ppo\"\nprompts = \"p\"\nrollouts = 12\nreward = { kind = \"signal\", name = \"json\" }", "12 are no whole number"),
        ("kind = \"ppo\"\nprompts = \"p\"\nresponse_tokens = 32\nreward = { kind = \"signal\", name = \"json\" }", "no room for a prompt"),
    ] {
        let error = Recipe::parse(&room.recipe(objective, 4), "x", &[]).unwrap_err().to_string();
        assert!(error.contains(want), "{objective}: {error}");
    }
    let train = |objective: &str, set: &str| {
        let recipe = Recipe::parse(&room.recipe(objective, 4), "x", &[set.to_owned()]).unwrap();
        run::train(&recipe, &room.at("refused"), false, &AtomicBool::new(false), &mut Quiet).unwrap_err().to_string()
    };
    let dpo = format!("kind = \"dpo\"\npreferences = {:?}", room.at("preferences.jsonl"));
    assert!(train(&dpo, "batch.sequences=4096").contains("samples to train on"));
    assert!(train(&dpo.replace("preferences.jsonl", "nowhere.jsonl"), "seed=1").contains("cannot read"));
    assert!(train(&dpo.replace("preferences.jsonl", "corpus.jsonl"), "seed=1").contains("no ranking"));
    let said = train(&dpo, "from.path=/nowhere");
    assert!(said.contains("no checkpoint"), "{said}");
}
