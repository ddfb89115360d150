//! Cases of tokens and of written text: bytes, spaces, first and last tokens, the edges of sampling.

use std::fs;

use serde_json::{Value, json};

use crate::inputs::{Room, byte_tokenizer, jsonl, llama2_tokenizer, prose, text};

/// A room with a run `run` of `steps` over `lines`, tokenised by a file.
fn trained(lines: &str, tokenizer: &str, steps: u64) -> Room {
    let room = Room::new();
    room.put("c/a.jsonl", lines);
    room.put("tokenizer.json", tokenizer);
    let load = format!("kind = \"load\"\npath = \"{}\"", room.path("tokenizer.json").display());
    room.project(
        "p",
        &["c"],
        &load,
        &[
            ("clean", "off = [\"repeated_ngram\", \"repeated_lines\", \"long_lines\"]"),
            ("dedup", "exact = false\nnear = false"),
            ("held_out", "0.3"),
        ],
    );
    room.ok(&["data", "p"]);
    room.recipe("r.toml", "p/data", steps, 1000, 1000, 3);
    room.ok(&["train", "r.toml", "--out", "run"]);
    room
}

fn mixed() -> String {
    let more = |i: usize| if i % 2 == 1 { " naïve café 漢字 🚲\n" } else { "" };
    (0..40).map(|i| json!({"text": text(format!("doc {i}")) + more(i)}).to_string() + "\n").collect()
}

/// The bytes that each piece of Llama 2's kind stands for, written down from what the pieces mean.
fn bytes_of_pieces(tokenizer: &str) -> Vec<u64> {
    let tokenizer: Value = serde_json::from_str(tokenizer).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut bytes = vec![0; vocab.len()];
    for (piece, id) in vocab {
        let id = id.as_u64().unwrap() as usize;
        let is_byte = piece.len() == 6 && piece.starts_with("<0x");
        bytes[id] = if id < 3 {
            0
        } else if is_byte {
            1
        } else {
            piece.replace('▁', " ").len() as u64
        };
    }
    bytes
}

pub fn bits_per_byte() -> String {
    let tokenizer = llama2_tokenizer();
    let room = trained(&mixed(), &tokenizer, 10);
    // The tokens of all documents stand for their bytes, and the space that the kind puts before each.
    let sizes = bytes_of_pieces(&tokenizer);
    let tokens = [room.tokens("p"), room.held_out_tokens("p")].concat();
    let (mut pieces, mut documents) = (0, 0);
    for token in &tokens {
        pieces += sizes[*token as usize];
        documents += u64::from(*token == 2);
    }
    let whole = room.bytes("p");
    let off = (pieces as f64 - documents as f64 - whole as f64).abs() / whole as f64;
    // What eval divides by: the bytes of all targets of its windows.
    let eval = room.json(&["eval", "run", "--windows", "4"]);
    let held_out = room.held_out_tokens("p");
    let windows = (held_out.len() - 1) / 64;
    let starts = (0..4).map(|i| i * windows / 4 * 64);
    let targets: u64 = starts.flat_map(|at| &held_out[at + 1..=at + 64]).map(|token| sizes[*token as usize]).sum();
    format!("pieces off by {:.1}%, eval divides by the bytes of its targets {}", 100.0 * off, eval["bytes"] == targets)
}

pub fn ends_by_other_names() -> String {
    let ends = ["<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "[EOS]", "<eos>", "<|end_of_text|>"];
    let taken = ends.map(|end| {
        let room = Room::new();
        room.put("c/a.jsonl", jsonl("doc", "text", 30));
        room.put("t/tokenizer.json", byte_tokenizer(end, json!({})));
        room.put("t/tokenizer_config.json", json!({"eos_token": end}).to_string());
        room.project("p", &["c"], &format!("kind = \"load\"\npath = \"{}\"", room.path("t/tokenizer.json").display()), &[]);
        let documents = room.prepared("p");
        let tokens = [room.tokens("p"), room.held_out_tokens("p")].concat();
        documents == "30" && tokens.iter().filter(|t| **t == 256).count() == 30
    });
    // A tokenizer that tells nothing of its ends: refused with what there is, and taken when the end is named.
    let room = Room::new();
    room.put("c/a.jsonl", jsonl("doc", "text", 30));
    room.put("t.json", byte_tokenizer("<fin>", json!({})));
    let load = format!("kind = \"load\"\npath = \"{}\"", room.path("t.json").display());
    room.project("p", &["c"], &load, &[]);
    let told = room.words(&["data", "p"]).contains("<fin>");
    room.project("p", &["c"], &format!("{load}\nend_of_text = \"<fin>\""), &[]);
    format!("{taken:?}, candidates told {told}, named {}", room.prepared("p"))
}

pub fn bytes_that_are_no_text() -> String {
    let lines: String = (0..40).map(|i| json!({"text": prose(&format!("doc {i}"), 12, 1) + "\n漢字 🚲 ☕\n"}).to_string() + "\n").collect();
    let room = trained(&lines, &llama2_tokenizer(), 10);
    let died = (1..=8).filter(|seed| {
        let seed = seed.to_string();
        let args = ["generate", "run", "--prompt", "the", "--tokens", "40", "--temperature", "2", "--top-p", "1", "--seed", &seed];
        let output = room.run(&args);
        let text = room.json(&args)["text"].as_str().unwrap().to_owned();
        // What was streamed is the prompt and the whole text, but for what would steer a terminal.
        let whole = format!("the{text}");
        !output.status.success()
            || !String::from_utf8(output.stdout).is_ok_and(|shown| shown.trim_end() == disk::printable(&whole).trim_end())
    });
    format!("{} of 8 died or streamed something else", died.count())
}

pub fn the_first_space() -> String {
    let line = "the baker opened the narrow window and the morning light turned golden over the quiet street ";
    let lines: String = (0..12).map(|_| json!({"text": line.repeat(40)}).to_string() + "\n").collect();
    let room = trained(&lines, &llama2_tokenizer(), 60);
    let args = ["generate", "run", "--prompt", "the baker opened", "--tokens", "4", "--temperature", "0"];
    format!("{} | {}", room.ok(&args).trim_end(), room.json(&args)["text"].as_str().unwrap())
}

pub fn the_first_token() -> String {
    let begin = |id: &str| {
        json!({"post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": id, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {(id): {"id": id, "ids": [256], "tokens": [id]}}}})
    };
    let first = |more: Value| {
        let room = trained(&jsonl("doc", "text", 30), &byte_tokenizer("<|endoftext|>", more), 5);
        room.ok(&["export", "run", "hf"]);
        room.ok(&["import", "hf", "back"]);
        let config: Value = serde_json::from_slice(&fs::read(room.path("hf/config.json")).unwrap()).unwrap();
        let shown = room.json(&["generate", "back", "--prompt", "the", "--tokens", "1"]);
        (shown["prompt_tokens"].clone(), config["eos_token_id"].clone())
    };
    format!("{:?} {:?}", first(begin("<|endoftext|>")), first(json!({})))
}

pub fn the_end_of_the_context() -> String {
    let room = trained(&jsonl("doc", "text", 30), &byte_tokenizer("<|endoftext|>", json!({})), 5);
    let args = ["generate", "run", "--prompt", "the", "--tokens", "500", "--temperature", "1.5"];
    let told = room.words(&args).contains("context");
    format!("told {told}, in JSON {}", room.json(&args)["stopped_by"])
}

pub fn sampling_at_its_edges() -> String {
    let room = trained(&jsonl("doc", "text", 30), &byte_tokenizer("<|endoftext|>", json!({})), 5);
    let draw = |flag: &str| room.run(&["--json", "generate", "run", "--prompt", "the", "--tokens", "4", flag]).status.success();
    let refused = ["--top-p=0", "--top-p=-1", "--top-p=2", "--top-p=nan", "--temperature=-1", "--temperature=inf", "--temperature=nan"]
        .map(|flag| !draw(flag));
    let taken = ["--top-p=0.0001", "--top-p=1", "--temperature=0", "--temperature=1e-30", "--top-k=1"].map(draw);
    format!("refused {}, taken {}", refused.iter().all(|r| *r), taken.iter().all(|t| *t))
}

pub fn the_end_in_an_export() -> String {
    let room = trained(&jsonl("doc", "text", 30), &llama2_tokenizer(), 5);
    room.ok(&["export", "run", "hf"]);
    let ids = ["config.json", "generation_config.json"].map(|file| room.read_json(&format!("hf/{file}"))["eos_token_id"].clone());
    let config = room.read_json("hf/tokenizer_config.json");
    let name = |value: &Value| value["content"].as_str().or(value.as_str()).unwrap_or("none").to_owned();
    format!("{} {} {}, begin {}", ids[0], ids[1], name(&config["eos_token"]), config["add_bos_token"])
}
