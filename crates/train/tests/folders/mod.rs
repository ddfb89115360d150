//! Folders of small random models that `xtask/python/layouts.py` makes, once, and models read from them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use engine::{Device, Inputs, Pool, Precision, Tape};
use parallel::Replicated;
use serde_json::Value;
use train::{eval::inference, hf, run::Loaded};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/python/layouts.py");

/// Where the folders are; none without a Python that has the peers.
pub fn root() -> Option<PathBuf> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    std::env::var_os("HAIRPIN_PEERS_PYTHON")?;
    let made = ROOT.get_or_init(|| {
        // Another script makes other folders.
        let script = blake3::hash(&std::fs::read(SCRIPT).unwrap()).to_hex();
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layouts-{}", &script[..16]));
        python(&["make", &root.display().to_string()]);
        root
    });
    Some(made.clone())
}

pub fn python(args: &[&str]) {
    let python = std::env::var_os("HAIRPIN_PEERS_PYTHON").unwrap();
    let output = Command::new(python).arg(SCRIPT).args(args).env("HF_DATASETS_OFFLINE", "1").output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

pub fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// Folders in `of`, sorted.
pub fn below(of: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

/// A tokenizer of letters, as many tokens as the small models know.
fn tokenizer() -> String {
    let mut vocab: serde_json::Map<String, Value> = (0..96).map(|id| (format!("{}", char::from(b' ' + id)), id.into())).collect();
    vocab.insert("</s>".into(), 96.into());
    let end = serde_json::json!({"id": 96, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"}, "model": {"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocab, "merges": []}})
    .to_string()
}

/// The model of a folder, or why it is refused.
pub fn loaded(folder: &Path) -> Result<Loaded, String> {
    std::fs::write(folder.join("tokenizer.json"), tokenizer()).unwrap();
    let imported = hf::import(folder).map_err(|e| e.to_string())?;
    let recipe = imported.recipe(folder).unwrap();
    let model = models::build(&recipe.model).unwrap();
    let table = model.params();
    let store = Replicated::solo(table, |id| imported.values(&table.spec(id).name).unwrap());
    for spec in table.specs() {
        assert_eq!(imported.values(&spec.name).unwrap().len(), spec.shape.elements(), "{}: {}", folder.display(), spec.name);
    }
    let objective = train::objective::of(&recipe);
    let tokenizer_path = folder.join("tokenizer.json");
    Ok(Loaded { recipe, model, objective, store, precision: Precision::F32, step: 0, tokenizer_path, passed_over: Vec::new() })
}

/// `[tokens, vocab]`, in the precision that `loaded` says.
pub fn logits(loaded: &mut Loaded, tokens: &[u32]) -> Vec<f32> {
    let inputs = Inputs::new().with_u32("tokens", &[1, tokens.len()], tokens.to_vec());
    let pool = Pool::new(Device::Cpu, 1 << 24);
    let mut tape = Tape::new(&pool, &mut loaded.store, loaded.model.params(), inference(loaded.precision));
    loaded.model.language().unwrap().logits(&mut tape, &inputs).unwrap().f32s().to_vec()
}
