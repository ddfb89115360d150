//! A ladder that goes on after pretraining: a base, a fine-tuned model, a reward model and a policy, each gated, each beginning where its
//! recipe says, and none of them trained twice.

use std::{path::Path, sync::atomic::AtomicBool};

use plan::ladder::{
    climb::{self, Outcome},
    project::Project,
};
use train::run::Quiet;

/// Lines that say one of four letters of a number.
fn lay_out(folder: &Path) {
    let letters = ["a", "b", "c", "d"];
    let lines: String = (0..900).map(|i| format!("{{\"text\": \"{} is {}\"}}\n", i % 30, letters[(i * 7 + i / 30) % 4])).collect();
    std::fs::write(folder.join("corpus.jsonl"), lines).unwrap();
    let ranked = |i: usize| format!("{{\"prompt\": \"{i} is\", \"responses\": [\" a\", \" b\", \" c\"], \"ranks\": [0, 1, 2]}}\n");
    std::fs::write(folder.join("preferences.jsonl"), (0..60).map(ranked).collect::<String>()).unwrap();
    std::fs::write(folder.join("prompts.jsonl"), (0..60).map(|i| format!("{{\"prompt\": \"{i} is\"}}\n")).collect::<String>()).unwrap();
    let project = r#"
name = "feedback"
[data]
held_out_ratio = 0.2
tokenizer = { kind = "bytes" }
corpus = { paths = ["corpus.jsonl"] }
clean = { min_bytes = 1, off = ["too_short", "word_length", "few_letters", "repeated_lines", "repeated_ngram", "long_lines", "generated", "ellipses"] }
dedup = { exact = false, near = false }
[recipe]
seed = 3
batch = { sequences = 8, micro_batch = 8, context = 32 }
optim = { kind = "adamw", lr = 0.003 }
schedule = { warmup_steps = 5 }
eval = { every_steps = 20, windows = 24 }
checkpoint = { every_steps = 20 }
guard = { action = "off" }
train = { precision = "f32" }
[[phases]]
name = "base"
data_fraction = 1.0
recipe = { model = { depth = 2 }, train = { steps = 200 } }
[[phases]]
name = "tuned"
data_fraction = 1.0
recipe = { from = { path = "base" }, train = { steps = 20 }, objective = { kind = "sft", demonstrations = "preferences.jsonl", held_out_ratio = 0.3 } }
[[phases]]
name = "reward"
data_fraction = 1.0
recipe = { from = { path = "base" }, train = { steps = 40 }, objective = { kind = "reward", preferences = "preferences.jsonl", k = 3, held_out_ratio = 0.3 } }
[[phases]]
name = "policy"
data_fraction = 1.0
recipe = { from = { path = "base" }, train = { steps = 60 }, optim = { lr = 0.001 }, objective = { kind = "ppo", kl_coef = 0.2, prompts = "prompts.jsonl", held_out_ratio = 0.4, response_tokens = 4, rollouts = 32, kl_most = 40.0, reward = { kind = "model", path = "reward" } } }
"#;
    std::fs::write(folder.join("hairpin.toml"), project).unwrap();
}

fn climb(folder: &Path) -> Outcome {
    let project = Project::read(folder).unwrap();
    climb::climb(&project, folder, &[], None, &AtomicBool::new(false), &data::Quiet, &mut Quiet).unwrap()
}

#[test]
fn a_ladder_goes_on_with_feedback_and_gates_each_phase() {
    align::register();
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let outcome = climb(folder.path());
    let failed: Vec<_> = outcome.entries.iter().flat_map(|e| e.gates.iter().filter(|g| !g.passed).map(|g| (&e.name, g))).collect();
    assert!(outcome.passed && outcome.entries.len() == 4, "{failed:#?}");
    let gate =
        |phase: usize, name: &str| outcome.entries[phase].gates.iter().find(|gate| gate.name == name).map(|gate| gate.measured.clone());
    assert!(gate(0, "preferred").is_none() && gate(0, "orders").is_none() && gate(1, "orders").is_none());
    assert!(gate(2, "orders").unwrap().contains("rankings' pairs"), "{:?}", gate(2, "orders"));
    let preferred = gate(3, "preferred").unwrap();
    assert!(preferred.contains("wins") && preferred.contains("nats a response"), "{preferred}");
    let metric = |phase: usize| outcome.entries[phase].actual.held_out.unwrap().kind.name;
    assert_eq!([0, 1, 2, 3].map(metric), ["bits_per_byte", "bits_per_byte", "ranking_accuracy", "reward"]);
    // Again it is all there.
    let again = climb(folder.path());
    assert!(again.passed && again.entries == outcome.entries);

    // A divergence that the gate does not allow stops the ladder there, and says what to do.
    let path = folder.path().join("hairpin.toml");
    let strict = std::fs::read_to_string(&path).unwrap().replace("kl_most = 40.0", "kl_most = 0.0001");
    std::fs::write(&path, strict).unwrap();
    let project = Project::read(folder.path()).unwrap();
    let anew = ["policy".to_owned()];
    let refused = climb::climb(&project, folder.path(), &anew, None, &AtomicBool::new(false), &data::Quiet, &mut Quiet).unwrap();
    let gate = refused.entries[3].gates.iter().find(|gate| gate.name == "preferred").unwrap();
    assert!(!refused.passed && !gate.passed && gate.help.contains("kl_coef"), "{gate:?}");
}
