//! What the tests of this crate learn from: a base that was trained here, prompts, and rankings.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{path::PathBuf, sync::atomic::AtomicBool};

use align::preferences::{self, Preference, Ranker};
use data::{CleanOptions, CorpusOptions, DedupOptions, PrepareOptions, Rule, TokenizerOptions};
use train::{
    checkpoint,
    metrics::{self, StepMetrics},
    recipe::Recipe,
    run::{self, Quiet},
};

/// A base that writes one of four letters after each prompt, and all that the objectives learn from.
pub struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    pub fn new() -> Self {
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

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn train(&self, name: &str, text: &str, set: &[&str]) -> Vec<StepMetrics> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let recipe = Recipe::parse(text, name, &set).unwrap();
        run::train(&recipe, &self.at(name), true, &AtomicBool::new(false), &mut Quiet).unwrap();
        metrics::read(&self.at(name).join("metrics.jsonl")).0
    }

    /// A recipe of an objective over the base.
    pub fn recipe(&self, objective: &str, steps: u64) -> String {
        format!(
            "[model]\n[from]\npath = {:?}\n[objective]\n{objective}\n[batch]\nsequences = 8\nlanes = 2\ncontext = 32\n\
             [train]\nsteps = {steps}\nprecision = \"f32\"\n[optim]\nkind = \"adamw\"\nlr = 1e-3\n[schedule]\nwarmup_steps = 1\n[eval]\nevery_steps = 10\nwindows = 8\n\
             [checkpoint]\nevery_steps = 3\n[guard]\naction = \"off\"\n",
            self.at("base")
        )
    }

    pub fn weights(&self, name: &str) -> Vec<(String, Vec<u32>)> {
        let (_, snapshot, _) = checkpoint::latest_whole(&self.at(name)).unwrap().unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        snapshot.tensors.into_iter().map(|tensor| (tensor.name, bits(tensor.values))).collect()
    }

    pub fn ppo(&self) -> String {
        format!(
            "kind = \"ppo\"\nprompts = {:?}\nresponse_tokens = 4\nrollouts = 16\nreward = {{ kind = \"signal\", name = \"regex\", pattern = \"^ a\" }}\n\
             pretrain_data = {:?}\npretrain_coef = 0.1",
            self.at("prompts.jsonl"),
            self.at("data")
        )
    }

    pub fn objectives(&self) -> [(&'static str, String); 5] {
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
