//! Exported folders load in the real `transformers` with the same logits. Runs where `HAIRPIN_PEERS_PYTHON` names a Python
//! that has it: `cargo xtask test --peers`.

use engine::{Device, Inputs, Pool, Precision, Tape};
use parallel::Replicated;
use train::{eval::inference, hf, recipe::Recipe, run::Loaded};

const MODELS: [&str; 6] = [
    "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 32",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nkv_heads = 1",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nqk_norm = true\ntied = true",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nexperts = 5",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nqk_norm = true\nqk_norm_joint = true\nexperts = 5\nrouter = \"softmax\"",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nqk_norm = true\nexperts = 6\nexperts_per_token = 3",
];

/// A model of [`MODELS`], exported.
fn exported(text: &str, folder: &std::path::Path) -> Loaded {
    let recipe = Recipe::parse(&format!("[model]\n{text}\n"), "test", &[]).unwrap();
    let model = models::build(&recipe.model).unwrap();
    let store = Replicated::solo(model.params(), |id| model.params().initial(id, 3));
    let tokenizer = folder.join("any.json");
    let (tokenizer_path, passed_over) = (tokenizer.clone(), Vec::new());
    let loaded = Loaded { recipe, model, store, precision: Precision::F32, step: 0, tokenizer_path, passed_over };
    std::fs::write(&tokenizer, "{}").unwrap();
    hf::export(&loaded, &tokenizer, folder).unwrap();
    loaded
}

#[test]
fn what_is_exported_is_read_back() {
    // Where the embedding has a norm, that goes into its table.
    for text in MODELS {
        let text = format!("{}\nembed_norm = false", text.replace("\nembed_norm = false", ""));
        let folder = tempfile::tempdir().unwrap();
        let loaded = exported(&text, folder.path());
        let imported = hf::import(folder.path()).unwrap();
        let again = models::build(&imported.model).unwrap();
        assert_eq!(again.params().elements(), loaded.model.params().elements(), "{text}");
        assert_eq!(again.language().unwrap().decoder().unwrap().mixture(0), loaded.model.language().unwrap().decoder().unwrap().mixture(0));
        for id in loaded.model.params().ids() {
            let name = &loaded.model.params().spec(id).name;
            assert_eq!(imported.tensors.get(name).map(Vec::as_slice), Some(loaded.store.value(id)), "{text}: {name}");
        }
    }
}

#[test]
fn transformers_gives_the_logits_that_we_give() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    for text in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let mut loaded = exported(text, folder.path());
        let tokens: Vec<u32> = (0..20).map(|i| i * 31 % 97).collect();
        let inputs = Inputs::new().with_u32("tokens", &[1, tokens.len()], tokens.clone());
        let pool = Pool::new(Device::Cpu, 1 << 24);
        let mut tape = Tape::new(&pool, &mut loaded.store, loaded.model.params(), inference(Precision::F32));
        let logits = loaded.model.language().unwrap().logits(&mut tape, &inputs, None).unwrap();
        std::fs::write(folder.path().join("tokens.json"), serde_json::to_string(&tokens).unwrap()).unwrap();
        std::fs::write(folder.path().join("logits.json"), serde_json::to_string(logits.f32s()).unwrap()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/python/peers.py");
        let output = std::process::Command::new(&python).arg(script).arg(folder.path()).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{text}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn tensorboard_reads_the_event_files() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut metrics = train::metrics::Metrics::open(folder.path(), 0).unwrap();
    for step in 1..=5_u64 {
        let loss = 4.0 - 0.5 * step as f32;
        let bits_per_byte = (step == 5).then_some(1.25);
        let line =
            train::metrics::StepMetrics { step, loss, grad_norm: 1.0, lr: 0.1, tokens_per_sec: 9.0, bits_per_byte, is_skipped: false };
        metrics.write(&line).unwrap();
    }
    drop(metrics);
    let script = "import sys\n\
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
        events = EventAccumulator(sys.argv[1]); events.Reload()\n\
        print([(e.step, e.value) for e in events.Scalars('loss')], [(e.step, e.value) for e in events.Scalars('bits_per_byte')])";
    let output = std::process::Command::new(&python).args(["-c", script]).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let want = "[(1, 3.5), (2, 3.0), (3, 2.5), (4, 2.0), (5, 1.5)] [(5, 1.25)]";
    assert_eq!(text.trim(), want, "{}", String::from_utf8_lossy(&output.stderr));
}
