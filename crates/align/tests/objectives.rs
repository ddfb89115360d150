//! Every objective from a base that was trained here: it learns, it gives the same bits on any number of ranks, and a run that stops in
//! the middle of an iteration goes on to the bits of one that did not.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use align::{
    preferences::{self, Preference, Ranker},
    rollouts::Iteration,
};
use data::{CleanOptions, CorpusOptions, DedupOptions, PrepareOptions, Rule, TokenizerOptions};
use train::{
    checkpoint,
    metrics::{self, StepMetrics},
    recipe::Recipe,
    run::{self, Observer, Quiet},
};

/// A base that writes one of four letters after each prompt, and all that the objectives learn from.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        align::register();
        let room = Self { folder: tempfile::tempdir().unwrap() };
        let letters = ["a", "b", "c", "d"];
        let lines: String = (0..600).map(|i| format!("{{\"text\": \"{} is {}\"}}\n", i % 30, letters[(i * 7 + i / 30) % 4])).collect();
        std::fs::write(room.at("corpus.jsonl"), lines).unwrap();
        let options = PrepareOptions {
            corpus: CorpusOptions { paths: vec![room.at("corpus.jsonl").display().to_string()], ..CorpusOptions::default() },
            clean: CleanOptions { min_bytes: 1, off: Rule::ALL.to_vec() },
            dedup: DedupOptions { exact: false, near: false },
            tokenizer: TokenizerOptions::Bytes,
            held_out_ratio: 0.2,
            ..PrepareOptions::default()
        };
        data::prepare(&options, &room.at("data"), &data::Quiet).unwrap();
        let base = format!(
            "[model]\ndepth = 2\n[data]\npath = {:?}\n[batch]\nsequences = 8\ncontext = 32\n[train]\nsteps = 60\nprecision = \"f32\"\n",
            room.at("data")
        );
        room.train("base", &base, &[]);
        let prompts: String = (0..30).map(|i| format!("{{\"prompt\": \"{i} is\"}}\n")).collect();
        std::fs::write(room.at("prompts.jsonl"), prompts).unwrap();
        let ranked: Vec<Preference> = (0..30)
            .map(|i| {
                let responses = [" a", " b", " c"].map(str::to_owned).to_vec();
                Preference::of_scores(format!("{i} is"), responses, &[2.0, 1.0, 0.0], Some(Ranker::signal("letters")))
            })
            .collect();
        preferences::write(&room.at("preferences.jsonl"), &ranked).unwrap();
        room
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, name: &str, text: &str, set: &[&str]) -> Vec<StepMetrics> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let recipe = Recipe::parse(text, name, &set).unwrap();
        run::train(&recipe, &self.at(name), true, &AtomicBool::new(false), &mut Quiet).unwrap();
        metrics::read(&self.at(name).join("metrics.jsonl")).0
    }

    /// A recipe of an objective over the base.
    fn recipe(&self, objective: &str, steps: u64) -> String {
        format!(
            "[model]\n[from]\npath = {:?}\n[objective]\n{objective}\n[batch]\nsequences = 8\nlanes = 2\ncontext = 32\n\
             [train]\nsteps = {steps}\nprecision = \"f32\"\n[optim]\nkind = \"adamw\"\nlr = 1e-3\n[schedule]\nwarmup_steps = 1\n[eval]\nevery_steps = 10\nwindows = 8\n\
             [checkpoint]\nevery_steps = 3\n[guard]\naction = \"off\"\n",
            self.at("base")
        )
    }

    fn weights(&self, name: &str) -> Vec<(String, Vec<u32>)> {
        let (_, snapshot, _) = checkpoint::latest_whole(&self.at(name)).unwrap().unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        snapshot.tensors.into_iter().map(|tensor| (tensor.name, bits(tensor.values))).collect()
    }

    fn ppo(&self) -> String {
        format!(
            "kind = \"ppo\"\nprompts = {:?}\nresponse_tokens = 4\nrollouts = 16\nreward = {{ kind = \"signal\", name = \"regex\", pattern = \"^ a\" }}\n\
             pretrain_data = {:?}\npretrain_coef = 0.1",
            self.at("prompts.jsonl"),
            self.at("data")
        )
    }

    fn objectives(&self) -> [(&'static str, String); 5] {
        let (preferences, prompts) = (self.at("preferences.jsonl"), self.at("prompts.jsonl"));
        [
            ("sft", format!("kind = \"sft\"\ndemonstrations = {preferences:?}\nheld_out_ratio = 0.3")),
            ("reward", format!("kind = \"reward\"\npreferences = {preferences:?}\nk = 3\nheld_out_ratio = 0.3")),
            ("dpo", format!("kind = \"dpo\"\npreferences = {preferences:?}\nheld_out_ratio = 0.3")),
            ("ppo", self.ppo()),
            (
                "grpo",
                format!(
                    "kind = \"grpo\"\nprompts = {prompts:?}\nresponse_tokens = 4\nrollouts = 16\ngroup = 4\nreward = {{ kind = \"signal\", name = \"regex\", pattern = \"^ a\" }}"
                ),
            ),
        ]
    }
}

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
        for strategy in ["replicated", "zero3"] {
            let two = format!("{name}-{strategy}");
            room.train(&two, &recipe, &["parallel.ranks=2", &format!("parallel.strategy={strategy}"), "train.steps=24"]);
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
    assert!(train(&dpo, "from.path=/nowhere").contains("no checkpoint"));
}
