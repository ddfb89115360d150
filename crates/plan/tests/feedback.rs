//! A ladder that goes on after pretraining: a base, a fine-tuned model, a reward model and a policy, each gated, each beginning where its
//! recipe says, and none of them trained twice.

use std::{path::Path, sync::atomic::AtomicBool};

use plan::{
    PlanError,
    ladder::{
        climb::{self, Outcome},
        project::Project,
    },
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
    climb_anew(folder, &[]).unwrap()
}

fn climb_anew(folder: &Path, anew: &[&str]) -> Result<Outcome, PlanError> {
    let anew: Vec<String> = anew.iter().map(|name| (*name).to_owned()).collect();
    climb::climb(&Project::read(folder).unwrap(), folder, &anew, None, &AtomicBool::new(false), &data::Quiet, &mut Quiet)
}

/// The ladder is refused: what the error and its help say.
fn refusal(folder: &Path, anew: &[&str]) -> String {
    let error = climb_anew(folder, anew).unwrap_err();
    format!("{error}; {}", miette::Diagnostic::help(&error).unwrap())
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
    assert!(outcome.entries.iter().all(|entry| entry.unit == "tokens"), "what they learn from is text, however they are judged");
    let whose = |phase: usize| outcome.entries[phase].baseline_of.as_str();
    let began = "the model that it began as";
    assert_eq!([0, 1, 2, 3].map(whose), ["a trigram", began, "length alone", began]);
    // Again it is all there.
    let again = climb(folder.path());
    assert!(again.passed && again.entries == outcome.entries);

    // A divergence that the gate does not allow stops the ladder there, and says what to do.
    let path = folder.path().join("hairpin.toml");
    let strict = std::fs::read_to_string(&path).unwrap().replace("kl_most = 40.0", "kl_most = 0.0001");
    std::fs::write(&path, strict).unwrap();
    let refused = climb_anew(folder.path(), &["policy"]).unwrap();
    let gate = refused.entries[3].gates.iter().find(|gate| gate.name == "preferred").unwrap();
    assert!(!refused.passed && !gate.passed && gate.help.contains("kl_coef"), "{gate:?}");
}

#[test]
fn a_phase_is_refused_by_name_when_what_it_began_from_is_another() {
    align::register();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    lay_out(folder);
    let set = |from: &str, to: &str| {
        let path = folder.join("hairpin.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    };
    let first = climb(folder);
    assert!(first.passed);
    // Before anything is trained or set aside, with all that would have to begin anew.
    let told = refusal(folder, &["base"]);
    assert!(told.contains("what `tuned`, `reward`, `policy` began from is no more: phase `base` is to begin anew"), "{told}");
    assert!(told.contains("--anew base --anew tuned --anew reward --anew policy"), "{told}");
    // By who judges it, too.
    let told = refusal(folder, &["reward"]);
    assert!(told.contains("what `policy` began from is no more: phase `reward` is to begin anew"), "{told}");
    assert_eq!(std::fs::read_dir(folder.join("phases")).unwrap().count(), 4, "nothing was set aside");
    assert_eq!(climb(folder).entries, first.entries);

    // A base that goes on is another base: the first that began from it is reached, and refused.
    set("train = { steps = 200 }", "train = { steps = 240 }");
    for _ in 0..2 {
        let told = refusal(folder, &[]);
        assert!(told.contains("what `tuned`, `reward`, `policy` began from is no more: phase `base` has other weights now"), "{told}");
        assert!(told.contains("`hairpin climb --anew tuned --anew reward --anew policy`"), "{told}");
    }
    let again = climb_anew(folder, &["tuned", "reward", "policy"]).unwrap();
    assert_eq!(again.entries.len(), 4);
    assert!(again.entries.iter().zip(&first.entries).all(|(now, before)| now.unix_secs > before.unix_secs));
    // They stand on what is there now.
    assert_eq!(climb(folder).entries, again.entries);
}
