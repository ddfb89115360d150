//! Folders that the real `transformers` wrote, of every layout and with single keys of their configurations changed one by one: each is read
//! with equal logits and writes equal text, or is refused with the key. Then they are exported, and `transformers` gives the logits again.
//! Runs where `HAIRPIN_PEERS_PYTHON` names a Python that has it: `cargo xtask test --peers`.

mod folders;

use std::{collections::BTreeMap, path::Path};

use engine::Precision;
use folders::{below, json, loaded, logits, python, root};
use train::{
    generate::{Request, Sampling, Writer},
    hf::{self, Format},
    run::Loaded,
};

/// The largest difference from what `folder` says, in parts of the largest number, and whether the text is that of `transformers`.
fn difference(loaded: &mut Loaded, folder: &Path) -> (f64, bool) {
    let tokens: Vec<u32> = serde_json::from_value(json(folder, "tokens.json")).unwrap();
    let (theirs, text): (Vec<f64>, Vec<u32>) =
        (serde_json::from_value(json(folder, "logits.json")).unwrap(), serde_json::from_value(json(folder, "greedy.json")).unwrap());
    let ours = logits(loaded, &tokens);
    assert_eq!(ours.len(), theirs.len(), "{}", folder.display());
    let largest = theirs.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / largest;
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request { prompt: tokens, count: text.len(), stops: Vec::new(), sampling };
    let language = loaded.model.language().unwrap();
    let mut writer = Writer { language, table: loaded.model.params(), store: &mut loaded.store, precision: Precision::F32 };
    let written: Vec<u32> = writer.write_one(&request, |_| {}).unwrap().iter().map(|drawn| drawn.token).collect();
    (worst, written == text)
}

#[test]
fn every_layout_gives_equal_logits_and_text_or_is_refused_by_the_key() {
    let Some(root) = root() else { return };
    let (mut failed, mut exported, mut table) = (Vec::new(), Vec::new(), BTreeMap::new());
    for layout in below(&root).into_iter().filter(|path| !path.ends_with("files") && !path.ends_with("train")) {
        let row: &mut [usize; 2] = table.entry(layout.file_name().unwrap().to_string_lossy().into_owned()).or_default();
        for folder in below(&layout).into_iter().filter(|folder| folder.join("changed.json").is_file()) {
            let key = json(&folder, "changed.json")["key"].as_str().map(str::to_owned);
            match loaded(&folder) {
                Ok(mut model) => {
                    let (worst, is_same_text) = difference(&mut model, &folder);
                    if worst > 1e-4 || !is_same_text {
                        failed.push(format!("{}: logits within {worst:.1e}, the same text: {is_same_text}", folder.display()));
                    }
                    row[0] += 1;
                    let out = folder.join("exported");
                    let _ = std::fs::remove_dir_all(&out);
                    let tokenizer = model.tokenizer().unwrap();
                    if let Err(error) = hf::export(&model, &tokenizer, &out, Format::default()) {
                        failed.push(format!("{}: not exported: {error}", folder.display()));
                        continue;
                    }
                    for name in ["tokens.json", "logits.json", "greedy.json"] {
                        std::fs::copy(folder.join(name), out.join(name)).unwrap();
                    }
                    exported.push(out);
                }
                Err(told) => {
                    row[1] += 1;
                    let is_named =
                        key.as_ref().is_some_and(|key| told.contains(key) || named_otherwise(key).is_some_and(|name| told.contains(name)));
                    if !is_named {
                        failed.push(format!("{}: refused, and not by `{}`: {told}", folder.display(), key.as_deref().unwrap_or("no key")));
                    }
                }
            }
        }
    }
    let lines: Vec<String> =
        table.iter().map(|(layout, [equal, refused])| format!("{layout}: {equal} equal, {refused} refused\n")).collect();
    std::fs::write(root.join("table.txt"), lines.concat()).unwrap();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), exported.len(), failed.join("\n"));
    let names: Vec<String> = exported.iter().map(|path| path.display().to_string()).collect();
    python(&std::iter::once("check").chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
}

#[test]
fn in_bf16_the_log_probabilities_are_as_close_as_those_of_transformers() {
    let Some(root) = root() else { return };
    let mut failed = Vec::new();
    for folder in below(&root).iter().flat_map(|layout| below(layout)).filter(|folder| folder.join("logits-bf16.json").is_file()) {
        let tokens: Vec<u32> = serde_json::from_value(json(&folder, "tokens.json")).unwrap();
        let mut model = loaded(&folder).unwrap();
        model.precision = Precision::Bf16;
        let ours: Vec<f64> = logits(&mut model, &tokens).into_iter().map(f64::from).collect();
        let of = |name: &str| -> Vec<f64> { serde_json::from_value(json(&folder, name)).unwrap() };
        let exact = log_probs(&of("logits.json"), tokens.len());
        let distance = |logits: &[f64]| {
            let mut all: Vec<f64> = log_probs(logits, tokens.len()).iter().zip(&exact).map(|(a, b)| (a - b).abs()).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (ours, theirs) = (distance(&ours), distance(&of("logits-bf16.json")));
        // Where two experts are nearly alike, rounding chooses the other one, in one program or in both, and all that follows is other numbers.
        let allowed = if model.recipe.model.contains_key("experts") { 2.0 } else { 1.0 };
        if ours > allowed * theirs {
            failed.push(format!("{}: {ours:.1e} from those in f32, transformers in bf16 {theirs:.1e}", folder.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// `[tokens, vocab]` of logits.
fn log_probs(logits: &[f64], tokens: usize) -> Vec<f64> {
    let of_row = |row: &[f64]| {
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        let sum = row.iter().map(|x| (x - most).exp()).sum::<f64>().ln() + most;
        row.iter().map(|x| x - sum).collect::<Vec<f64>>()
    };
    logits.chunks_exact(logits.len() / tokens).flat_map(of_row).collect()
}

/// What a key is called where `transformers` writes it down.
fn named_otherwise(key: &str) -> Option<&'static str> {
    match key {
        "rope_parameters" => Some("rope_type"),
        "partial_rotary_factor" => Some("rope_parameters"),
        "attn_config" => Some("attn_config."),
        _ => None,
    }
}

#[test]
fn weights_are_read_however_they_lie() {
    let Some(root) = root() else { return };
    let made = tempfile::tempdir().unwrap();
    for (weights, told) in [("shards", "shards"), ("bf16", "bf16-said"), ("pickle", "pickle-said"), ("lora", "lora")] {
        let mut model = loaded(&root.join("files").join(weights)).unwrap();
        let (worst, is_same_text) = difference(&mut model, &root.join("files").join(told));
        assert!(worst < 1e-4 && is_same_text, "{weights}: {worst:.1e}");
        // In smaller files and shorter numbers, and back.
        let out = made.path().join(weights);
        let tokenizer = model.tokenizer().unwrap();
        let format = Format { numbers: hf::Numbers::Bf16, shard_bytes: 30_000 };
        hf::export(&model, &tokenizer, &out, format).unwrap();
        assert!(out.join("model.safetensors.index.json").is_file());
        let shorter = loaded(&out).unwrap();
        for id in model.model.params().ids() {
            let rounded: Vec<f32> = model.store.value(id).iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
            assert_eq!(shorter.store.value(id), rounded, "{weights}");
        }
        // One file over several: nothing of those stays.
        hf::export(&model, &tokenizer, &out, Format::default()).unwrap();
        assert!(!out.join("model.safetensors.index.json").exists());
        let (worst, is_same_text) = difference(&mut loaded(&out).unwrap(), &root.join("files").join(told));
        assert!(worst < 1e-4 && is_same_text, "{weights} again: {worst:.1e}");
    }
}
