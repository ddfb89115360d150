//! Cases of runs: what they rest on, how they go on, what their checkpoints say.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::inputs::{Room, byte_tokenizer, jsonl, prose, text};

const TRAINED: &str = "kind = \"train\"\nvocab = 300";

/// A room with data of 30 documents in `p/data`.
fn prepared() -> Room {
    let room = Room::new();
    room.put("c/a.jsonl", jsonl("doc", "text", 30));
    room.project("p", &["c"], TRAINED, &[]);
    room.ok(&["data", "p"]);
    room
}

/// Bytes of all weights of a checkpoint.
fn weights(room: &Room, checkpoint: &str) -> Vec<u8> {
    let mut files: Vec<_> = fs::read_dir(room.path(checkpoint)).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    files.into_iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

pub fn continue_from_an_import() -> String {
    let room = prepared();
    room.recipe("first.toml", "p/data", 20, 1000, 1000, 3);
    room.ok(&["train", "first.toml", "--out", "first"]);
    room.ok(&["export", "first", "hf"]);
    room.ok(&["import", "hf", "imported"]);
    // Another number of steps, a fresh optimiser; the loss goes on from where the weights are.
    room.recipe("own.toml", "p/data", 5, 1000, 1000, 3);
    room.ok(&["train", "own.toml", "--from", "imported", "--out", "second"]);
    let loss = |run: &str, line: usize| {
        let metrics = fs::read_to_string(room.path(&format!("{run}/metrics.jsonl"))).unwrap();
        let line: Value = serde_json::from_str(metrics.lines().nth(line).unwrap()).unwrap();
        line["loss"].as_f64().unwrap()
    };
    let goes_on = loss("second", 0) < loss("first", 0) - 0.5;
    format!("goes on from the weights: {goes_on}")
}

pub fn a_longer_run() -> String {
    let room = prepared();
    let constant = "\n[schedule]\nkind = \"wsd\"\nwarmup_steps = 4\ndecay_ratio = 0.0\n";
    room.recipe("r.toml", "p/data", 20, 1000, 1000, 3);
    let text = fs::read_to_string(room.path("r.toml")).unwrap().replace("\n[schedule]\nwarmup_steps = 4\n", constant);
    room.put("r.toml", &text);
    room.ok(&["train", "r.toml", "--out", "run"]);
    let go_on = |set: &str| room.run(&["train", "r.toml", "--out", "run", "--resume", "--set", set]).status.success();
    let free = ["checkpoint.every_steps=5", "checkpoint.keep_last=5", "eval.every_steps=10", "name=other"].map(go_on);
    let refused = room.words(&["train", "r.toml", "--out", "run", "--resume", "--set", "optim.lr=0.001"]);
    let longer = go_on("train.steps=40");
    // As one of 40 steps from the start.
    room.ok(&["train", "r.toml", "--out", "alone", "--set", "train.steps=40"]);
    let equal = longer && weights(&room, "run/step-00000040") == weights(&room, "alone/step-00000040");
    format!("free keys {free:?}, another lr named {}, 40 steps the bits of 40 {equal}", refused.contains("lr"))
}

pub fn other_data_under_a_run() -> String {
    let room = prepared();
    room.recipe("r.toml", "p/data", 40, 1000, 20, 5);
    room.ok(&["train", "r.toml", "--out", "run"]);
    fs::remove_dir_all(room.path("run/step-00000040")).unwrap();
    let write = |room: &Room| room.words(&["generate", "run", "--prompt", "the water", "--tokens", "20", "--temperature", "0"]);
    let before = write(&room);
    let reversed = |i: usize| text(format!("doc {i}")).to_uppercase().chars().rev().collect::<String>();
    room.put("c/a.jsonl", (0..60).map(|i| json!({"text": reversed(i)}).to_string() + "\n").collect::<String>());
    room.ok(&["data", "p"]);
    let resumed = room.run(&["train", "r.toml", "--out", "run", "--resume"]);
    let told = String::from_utf8_lossy(&resumed.stderr).contains("data");
    let same = write(&room) == before;
    fs::remove_dir_all(room.path("p/data")).unwrap();
    let alone = write(&room) == before;
    format!("resume refused {}, data named {told}; text as before {same}, without data {alone}", !resumed.status.success())
}

pub fn a_full_disk() -> String {
    let room = prepared();
    room.recipe("r.toml", "p/data", 60, 1000, 20, 5);
    // Up to the first checkpoint with room, then no file may grow beyond what a step of metrics takes.
    room.ok(&["train", "r.toml", "--out", "run", "--set", "train.steps=60"]);
    let whole = weights(&room, "run/step-00000060");
    for step in ["run/step-00000040", "run/step-00000060"] {
        fs::remove_dir_all(room.path(step)).unwrap();
    }
    let train = format!("trap '' XFSZ; ulimit -f 64; exec {} train r.toml --out run --resume", env!("CARGO_BIN_EXE_hairpin"));
    let full = Command::new("bash").args(["-c", &train]).current_dir(room.0.path()).output().unwrap();
    let metrics = fs::read_to_string(room.path("run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let early = last["step"].as_u64().unwrap() < 60;
    room.ok(&["train", "r.toml", "--out", "run", "--resume"]);
    format!(
        "exit {}, told before the next checkpoint {early}, the bits of a run left alone {}",
        full.status.code().unwrap_or(-1),
        weights(&room, "run/step-00000060") == whole
    )
}

pub fn the_best_checkpoint() -> String {
    let room = Room::new();
    let lines: String = (0..8).map(|i| json!({"text": prose(&format!("doc {i}"), 12, 3)}).to_string() + "\n").collect();
    room.put("c/a.jsonl", lines);
    room.project("p", &["c"], TRAINED, &[("held_out", "0.5")]);
    room.ok(&["data", "p"]);
    room.recipe("all.toml", "p/data", 120, 30, 10, 100);
    room.recipe("one.toml", "p/data", 120, 30, 10, 1);
    room.ok(&["train", "all.toml", "--out", "all"]);
    room.ok(&["train", "one.toml", "--out", "one"]);
    let steps = |run: &str| {
        let mut steps: Vec<String> = fs::read_dir(room.path(run)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        steps.retain(|name| name.starts_with("step-"));
        steps.sort();
        steps
    };
    let (mut own, mut best) = (true, (f64::INFINITY, String::new()));
    for step in steps("all") {
        let written = room.read_json(&format!("all/{step}/manifest.json"))["bits_per_byte"].as_f64();
        let real = room.json(&["eval", &format!("all/{step}"), "--windows", "8"])["bits_per_byte"].as_f64().unwrap();
        own &= written.is_none_or(|written| (written - real).abs() < 1e-9);
        if written.is_some_and(|written| written < best.0) {
            best = (real, step);
        }
    }
    format!("each number its own {own}, the best is kept {}", steps("one").contains(&best.1))
}

/// Weights with biases of zero, as an importer that looks at nothing would take them.
pub fn keys_of_gpt2() -> String {
    let room = Room::new();
    room.put("c/a.jsonl", jsonl("doc", "text", 30));
    room.put("t.json", byte_tokenizer("<|endoftext|>", json!({})));
    room.project("p", &["c"], &format!("kind = \"load\"\npath = \"{}\"", room.path("t.json").display()), &[]);
    room.ok(&["data", "p"]);
    room.put(
        "r.toml",
        "name = \"g\"\n[model]\npreset = \"gpt2-124m\"\nlayers = 2\nmodel = 32\nheads = 2\ncontext = 64\n[data]\npath = \"p/data\"\n[batch]\nsequences = 4\n\
         micro_batch = 4\ncontext = 64\nlanes = 2\n[train]\nsteps = 5\nprecision = \"f32\"\n",
    );
    room.ok(&["train", "r.toml", "--out", "run"]);
    room.ok(&["export", "run", "hf"]);
    let config = room.read_json("hf/config.json");
    let import = |keys: Value| {
        let mut config = config.clone();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        room.put("hf/config.json", config.to_string());
        let _ = fs::remove_dir_all(room.path("back"));
        room.words(&["import", "hf", "back"])
    };
    let plain = !import(json!({"use_cache": true, "transformers_version": "5.0.0"})).contains('×');
    let named = ["scale_attn_by_inverse_layer_idx", "add_cross_attention", "a_key_that_nobody_knows"]
        .map(|key| import(json!({key: true})).contains(key));
    format!("plain {plain}, named {named:?}")
}
