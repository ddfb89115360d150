//! Models from outside beside the programs that they come from: training goes on as in PyTorch, and lm-eval gives an exported folder the
//! numbers that the model has here. Runs where `HAIRPIN_PEERS_PYTHON` names a Python with both: `cargo xtask test --peers`.

mod folders;

use std::path::Path;

use engine::{Inputs, Precision, mix};
use folders::{json, loaded, logits, python, root};
use serde_json::json;
use train::{
    generate::{Request, Sampling, Writer},
    hf,
    recipe::Recipe,
    step::{StepOptions, Trainer},
};

const STEPS: u64 = 20;
const BATCH: usize = 2;
const CONTEXT: usize = 64;

#[test]
fn training_goes_on_from_imported_weights_as_in_pytorch() {
    let Some(root) = root() else { return };
    for name in ["gpt2", "llama"] {
        let folder = root.join("train").join(name);
        let model = loaded(&folder).unwrap();
        let vocab = model.model.language().unwrap().vocab() as u64;
        // Texts that can be learnt: each token follows from the one before.
        let window = |step: u64, i: u64| {
            let first = mix(step * 100 + i) % 50;
            (0..=CONTEXT as u64).map(move |t| ((first + t) * 37 % 50 * 11 % vocab) as u32).collect::<Vec<u32>>()
        };
        let batches: Vec<Vec<Vec<u32>>> = (0..STEPS).map(|step| (0..BATCH as u64).map(|i| window(step, i)).collect()).collect();
        let recipe = format!(
            "[model]\ndepth = 1\n[batch]\ncontext = {CONTEXT}\nmicro_batch = {BATCH}\n[train]\nprecision = \"f32\"\n[optim]\nkind = \"adamw\"\nlr = 2e-4\n"
        );
        let recipe = Recipe::parse(&recipe, "test", &[]).unwrap();
        let options = StepOptions { lanes: 1, passes: 1, micro_batch: BATCH, context: CONTEXT, ..StepOptions::of(&recipe) };
        let o = &recipe.optim;
        let said = json!({"batches": batches, "lr": o.lr, "betas": [o.beta1, o.beta2], "eps": o.eps, "weight_decay": o.weight_decay, "clip": recipe.train.clip});
        std::fs::write(folder.join("batches.json"), said.to_string()).unwrap();
        python(&["train", &folder.display().to_string()]);
        let theirs: Vec<f64> = serde_json::from_value(json(&folder, "losses.json")).unwrap();

        let table = model.model.params();
        let values: std::collections::HashMap<String, Vec<f32>> =
            table.ids().map(|id| (table.spec(id).name.clone(), model.store.value(id).to_vec())).collect();
        let mut trainer = Trainer::new(models::build(&model.recipe.model).unwrap(), options).unwrap();
        trainer.restore_values(|name| values.get(name).cloned()).unwrap();
        for (step, (batch, theirs)) in batches.iter().zip(&theirs).enumerate() {
            let lanes: Vec<Vec<Inputs>> = vec![vec![train::feed::inputs_of(batch)]];
            let gradient = trainer.gradient(step as u64 + 1, &lanes, (BATCH * CONTEXT) as u64).unwrap();
            trainer.update(step as u64 + 1, 1.0, gradient.norm).unwrap();
            let difference = (f64::from(gradient.loss) - theirs).abs();
            assert!(difference < 1e-3, "{name}: step {} has a loss of {}, in PyTorch {theirs}", step + 1, gradient.loss);
        }
        assert!(theirs[STEPS as usize - 1] < theirs[0], "it learns");
    }
}

/// `ln p` of each of `tokens` but the first, by what is before it.
fn log_probs(model: &mut train::run::Loaded, tokens: &[u32]) -> Vec<f64> {
    let vocab = model.model.language().unwrap().vocab();
    let logits = logits(model, &tokens[..tokens.len() - 1]);
    let of = |(row, token): (&[f32], &u32)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        f64::from(row[*token as usize] - most) - total.ln()
    };
    logits.chunks(vocab).zip(&tokens[1..]).map(of).collect()
}

/// One task of each kind that lm-eval has for models that write: choices, a rolling likelihood, a text until a stop.
fn tasks(folder: &Path) -> serde_json::Value {
    let of = |file: &str| {
        let path = folder.join(file).display().to_string();
        json!({"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test", "target_delimiter": ""})
    };
    let with = |mut task: serde_json::Value, more: serde_json::Value| {
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    };
    json!([
        with(
            of("choices.jsonl"),
            json!({"task": "choices", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "choices",
            "doc_to_target": "gold", "metric_list": [{"metric": "acc"}]})
        ),
        with(
            of("rolling.jsonl"),
            json!({"task": "rolling", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": false}]})
        ),
        with(
            of("written.jsonl"),
            json!({"task": "written", "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
            "generation_kwargs": {"until": ["</s>"], "max_gen_toks": 12, "do_sample": false}, "metric_list": [{"metric": "exact_match"}]})
        ),
    ])
}

#[test]
fn lm_eval_gives_an_exported_folder_the_numbers_that_the_model_has_here() {
    let Some(root) = root() else { return };
    let mut model = loaded(&root.join("llama").join("00-usual")).unwrap();
    let made = tempfile::tempdir().unwrap();
    let folder = made.path().join("exported");
    let tokenizer = model.tokenizer().unwrap();
    hf::export(&model, &tokenizer, &folder, hf::Format::default()).unwrap();
    let questions = [("one two", [" three", " four five", "x"]), ("abc", [" d", "efg", " hij k"])];
    let choices: String = questions.iter().map(|(q, choices)| format!("{}\n", json!({"q": q, "choices": choices, "gold": 1}))).collect();
    let texts = [
        "a text that rolls over the context of this model, which is rather short, so that more windows than one are needed for it",
        "short",
    ];
    let rolling: String = texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect();
    for (name, lines) in [("choices", choices), ("rolling", rolling), ("written", format!("{}\n", json!({"q": "one two", "a": "three"})))] {
        std::fs::write(folder.join(format!("{name}.jsonl")), lines).unwrap();
    }
    std::fs::write(folder.join("tasks.json"), tasks(&folder).to_string()).unwrap();
    python(&["lm-eval", &folder.display().to_string()]);
    let told = json(&folder, "lm-eval.json");
    let close = |ours: f64, theirs: f64, what: &str| {
        assert!((ours - theirs).abs() < 1e-3 * theirs.abs().max(1.0), "{what}: {ours}, lm-eval {theirs}")
    };

    for (number, (question, choices)) in questions.iter().enumerate() {
        for (i, choice) in choices.iter().enumerate() {
            let (before, all) = (tokenizer.encode(question).unwrap(), tokenizer.encode(&format!("{question}{choice}")).unwrap());
            let ours: f64 = log_probs(&mut model, &all)[before.len() - 1..].iter().sum();
            close(ours, told["samples"]["choices"][number]["responses"][i][0].as_f64().unwrap(), choice);
        }
    }
    // As lm-eval cuts a long text: each token once, by as much before it as there is room for.
    let (context, end) = (model.model.language().unwrap().context(), tokenizer.end_of_text());
    let (mut nats, mut bytes) = (0.0, 0);
    for (number, text) in texts.iter().enumerate() {
        let tokens: Vec<u32> = std::iter::once(end).chain(tokenizer.encode(text).unwrap()).collect();
        let (mut done, mut total) = (1, 0.0);
        while done < tokens.len() {
            let until = (done + context).min(tokens.len());
            let from = until.saturating_sub(context + 1);
            let of_window = log_probs(&mut model, &tokens[from..until]);
            total += of_window[of_window.len() - (until - done)..].iter().sum::<f64>();
            done = until;
        }
        close(total, told["samples"]["rolling"][number]["responses"][0].as_f64().unwrap(), text);
        (nats, bytes) = (nats - total, bytes + text.len());
    }
    close(nats / bytes as f64 / 2_f64.ln(), told["results"]["rolling"]["bits_per_byte,none"].as_f64().unwrap(), "bits per byte");

    let request = Request {
        prompt: tokenizer.encode("one two").unwrap(),
        count: 12,
        stops: tokenizer.ends().stops.clone(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
    };
    let language = model.model.language().unwrap();
    let mut writer = Writer { language, table: model.model.params(), store: &mut model.store, precision: Precision::F32 };
    let written: Vec<u32> = writer.write_one(&request, |_| {}).unwrap().iter().map(|drawn| drawn.token).collect();
    assert_eq!(tokenizer.decode(&written).trim(), told["samples"]["written"][0]["responses"][0].as_str().unwrap().trim());
}
