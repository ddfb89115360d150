//! Exported folders load in the real `transformers` with the same logits. Runs where `HAIRPIN_PEERS_PYTHON` names a Python
//! that has it: `cargo xtask test --peers`.

use engine::{Device, Inputs, Pool, Precision, Tape};
use parallel::Replicated;
use train::{eval::inference, hf, recipe::Recipe, run::Loaded};

const MODELS: [&str; 16] = [
    "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 32",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nkv_heads = 1",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nqk_norm = true\ntied = true",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nexperts = 5",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nqk_norm = true\nqk_norm_joint = true\nexperts = 5\nrouter = \"softmax\"",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 32\nqk_norm = true\nexperts = 6\nexperts_per_token = 3",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nrope_scaling = { kind = \"llama3\", factor = 4.0, low_freq_factor = 1.0, high_freq_factor = 4.0, original_context = 16 }",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nrope_scaling = { kind = \"linear\", factor = 3.0 }",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nrope_scaling = { kind = \"yarn\", factor = 4.0, original_context = 8, beta_fast = 32.0, beta_slow = 1.0, attention_factor = 1.1386294 }",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nwindow = 5",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nqkv_bias = true\ntied = true",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nnorm_place = \"after\"\nqk_norm = true\nqk_norm_joint = true",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nrope_dim = 32",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nkv_heads = 1\nrope_dim = 16\nwindow = 7",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nnorm = \"layer_norm\"\nnorm_bias = true\nqkv_bias = true\nrope_dim = 16\nkv_heads = 1",
    "depth = 2\nzero_init = false\nembed_norm = false\nvocab = 97\ncontext = 32\nnorm = \"layer_norm\"\nnorm_bias = true\nbias = true\nmlp = \"gelu_tanh\"\ntied = true\nkv_heads = 1\nwindow = 6",
];

/// A model of [`MODELS`], exported.
fn exported(text: &str, folder: &std::path::Path) -> Loaded {
    let recipe = Recipe::parse(&format!("[model]\n{text}\n"), "test", &[]).unwrap();
    let model = models::build(&recipe.model).unwrap();
    // Biases and norms that say something.
    let store = Replicated::solo(model.params(), |id| {
        let (spec, mut values) = (model.params().spec(id), model.params().initial(id, 3));
        if spec.kind == engine::ParamKind::Vector {
            let key = engine::key(7, &spec.name);
            values.iter_mut().enumerate().for_each(|(i, v)| *v += (engine::mix(key ^ i as u64) >> 40) as f32 / (1 << 26) as f32);
        }
        values
    });
    let tokenizer = folder.join("any.json");
    let (tokenizer_path, passed_over) = (tokenizer.clone(), Vec::new());
    let objective = train::objective::of(&recipe);
    let loaded = Loaded { recipe, model, objective, store, precision: Precision::F32, step: 0, tokenizer_path, passed_over };
    std::fs::write(&tokenizer, of_letters(None)).unwrap();
    hf::export(&loaded, &loaded.tokenizer().unwrap(), folder, hf::Format::default()).unwrap();
    loaded
}

/// A `tokenizer.json` of the letters a to z (0..26), `<s>` (26) and `</s>` (27), whose template puts `begin` before a text.
fn of_letters(begin: Option<&str>) -> String {
    use serde_json::json;
    let mut vocab: serde_json::Map<String, serde_json::Value> = ('a'..='z').enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let special = |(at, name): (usize, &str)| json!({"id": 26 + at, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let ends = ["<s>", "</s>"];
    ends.iter().enumerate().for_each(|(at, name)| drop(vocab.insert((*name).to_owned(), (26 + at).into())));
    let template = begin.map(|begin| {
        json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {(begin): {"id": begin, "ids": [vocab[begin]], "tokens": [begin]}}})
    });
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": ends.into_iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": null, "post_processor": template, "decoder": null, "model": model})
    .to_string()
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
            assert_eq!(imported.values(name).unwrap(), loaded.store.value(id), "{text}: {name}");
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
        let logits = loaded.model.language().unwrap().logits(&mut tape, &inputs).unwrap();
        std::fs::write(folder.path().join("tokens.json"), serde_json::to_string(&tokens).unwrap()).unwrap();
        std::fs::write(folder.path().join("logits.json"), serde_json::to_string(&logits.f32s()).unwrap()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/python/peers.py");
        let output = std::process::Command::new(&python).arg(script).arg(folder.path()).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{text}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn transformers_begins_and_ends_a_text_as_we_do() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    // By a template, by names of the project, and by nothing but the end.
    for (template, begin, stops) in [(Some("<s>"), Some("<s>"), "27"), (Some("<s>"), None, "27"), (None, None, "[27, 26]")] {
        let folder = tempfile::tempdir().unwrap();
        let mut loaded = exported(MODELS[1], folder.path());
        let kept = folder.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("tokenizer.json"), of_letters(template)).unwrap();
        let begins = begin.map_or("[]".to_owned(), |_| "[26]".to_owned());
        let own = format!(
            "{{\"eos_token\": \"</s>\", \"hairpin\": {{\"stops\": {}, \"before_prompt\": {begins}, \"begin_of_text\": {begins}}}}}",
            if stops == "27" { "[27]" } else { stops }
        );
        std::fs::write(kept.join("tokenizer_config.json"), own).unwrap();
        loaded.tokenizer_path = kept.join("tokenizer.json");
        let tokenizer = loaded.tokenizer().unwrap();
        hf::export(&loaded, &tokenizer, folder.path(), hf::Format::default()).unwrap();
        let script = format!(
            "from transformers import AutoTokenizer, GenerationConfig\nt = AutoTokenizer.from_pretrained('{0}')\ng = GenerationConfig.from_pretrained('{0}')\nprint(t('ab').input_ids, g.eos_token_id, t.eos_token)",
            folder.path().display()
        );
        let output = std::process::Command::new(&python).args(["-c", &script]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let ids: Vec<u32> = tokenizer.ends().before_prompt.iter().copied().chain([0, 1]).collect();
        assert_eq!(told, format!("{ids:?} {stops} </s>"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn tensorboard_reads_the_event_files() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut metrics = train::metrics::Metrics::open(folder.path(), 0).unwrap();
    for step in 1..=5_u64 {
        let loss = 4.0 - 0.5 * step as f32;
        let held_out = (step == 5).then_some(train::metric::Metric::bits_per_byte(1.25));
        let line = train::metrics::StepMetrics {
            step,
            loss,
            grad_norm: 1.0,
            lr: 0.1,
            tokens_per_sec: 9.0,
            figures: Default::default(),
            held_out,
            is_skipped: false,
        };
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
