//! Ten steps of each objective held against PyTorch's, from what is said of the rows before the first step to the weights after the last:
//! the fixture and the script that made it are `tests/fixtures/steps.safetensors` and `xtask/python/align_steps.py`.

use std::collections::HashMap;

use engine::{Inputs, Precision};
use parallel::Replicated;
use train::{
    recipe::Recipe,
    run,
    step::{StepOptions, Trainer},
};

use super::{
    policy::ARRAYS,
    reward::Ranked,
    samples::{Batch, Sample},
};
use crate::{
    passes::{Asked, Said},
    rollouts::{Advantages, Rollout, put, put_plain},
    rows::{self, Row},
};

const CONTEXT: usize = 16;
const ANSWERS: usize = 3;

struct Golden {
    arrays: HashMap<String, (Vec<usize>, Vec<f32>)>,
    rows: Vec<Row>,
}

impl Golden {
    fn new() -> Self {
        let tensors = safetensors::SafeTensors::deserialize(include_bytes!("../../tests/fixtures/steps.safetensors")).unwrap();
        let numbers = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f32> {
            let words = view.data().as_chunks::<4>().0;
            match view.dtype() {
                safetensors::Dtype::I32 => words.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
                _ => words.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            }
        };
        let arrays: HashMap<_, _> = tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), numbers(&view)))).collect();
        let row = |(tokens, first): (&[f32], &f32)| Row {
            tokens: tokens.iter().take_while(|token| **token >= 0.0).map(|token| *token as u32).collect(),
            first: *first as usize,
        };
        let rows = arrays["rows"].1.chunks(CONTEXT).zip(&arrays["firsts"].1).map(row).collect();
        Self { arrays, rows }
    }

    fn list(&self, name: &str) -> &[f32] {
        &self.arrays[name].1
    }

    /// Every third row, from `first` on.
    fn every_third(&self, first: usize) -> Vec<usize> {
        (first..self.rows.len()).step_by(ANSWERS).collect()
    }

    /// What a model with the weights `whose` says of rows.
    fn say(&self, whose: &str, head: &str, of: &[usize]) -> Vec<Said> {
        let (_, model) = run::resolve(&recipe("kind = \"next_token\"", head, 6), None).unwrap();
        let table = model.params();
        let mut store = Replicated::solo(table, |id| self.list(&format!("{whose}/{}", table.spec(id).name)).to_vec());
        let rows: Vec<Row> = of.iter().map(|i| self.rows[*i].clone()).collect();
        Asked { model: &*model, store: &mut store, precision: Precision::F32 }.say(&rows).unwrap()
    }

    /// Ten steps on one batch, in micro-batches of it, beside PyTorch's losses and weights.
    fn hold(&self, name: &str, recipe: &Recipe, micro_batches: &[Inputs], weight: u64) {
        let (recipe, model) = run::resolve(recipe, None).unwrap();
        let mut trainer = Trainer::new(model, StepOptions::of(&recipe)).unwrap();
        trainer.restore_values(|param| Some(self.list(&format!("policy/{param}")).to_vec())).unwrap();
        for (i, want) in self.list(&format!("{name}/losses")).iter().enumerate() {
            let step = i as u64 + 1;
            let gradient = trainer.gradient(step, &[micro_batches.to_vec()], weight).unwrap();
            let apart = (gradient.loss - want).abs();
            // Rounding of f32 in sums of some hundred terms.
            assert!(apart < 2e-5 * want.abs().max(1.0), "{name} step {step}: loss {}, PyTorch has {want}", gradient.loss);
            trainer.update(step, 1.0, gradient.norm).unwrap();
        }
        let mut held = 0;
        for (param, _, got) in trainer.tensors().unwrap() {
            let Some((_, want)) = self.arrays.get(&format!("{name}/{param}")) else { continue };
            if (name, &*param) == ("reward", "scalar.bias") {
                // Rewards are compared: its gradient is nothing but rounding, of which AdamW makes whole steps.
                continue;
            }
            held += 1;
            let largest = want.iter().fold(1e-3_f32, |most, v| most.max(v.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                // Ten steps of 1e-3, to a part of one.
                assert!((got - want).abs() <= 1e-4 * largest, "{name}: {param}[{i}] is {got}, PyTorch has {want}");
            }
        }
        assert!(held > 18, "{name}: {held} arrays");
    }
}

/// The model and the optimiser of the script, with a batch in two micro-batches.
fn recipe(objective: &str, head: &str, sequences: usize) -> Recipe {
    let text = format!(
        "[model]\ndepth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 4\nffn = 24\nvocab = 31\ncontext = {CONTEXT}\n\
         eps = 1e-5\n{head}\n[batch]\nsequences = {sequences}\nmicro_batch = {}\nlanes = 1\ncontext = {CONTEXT}\n[train]\nprecision = \"f32\"\nclip = 1.0\n\
         [optim]\nkind = \"adamw\"\nlr = 1e-3\nbeta1 = 0.9\nbeta2 = 0.95\neps = 1e-8\nweight_decay = 0.1\n[objective]\n{objective}\n",
        sequences / 2
    );
    crate::register();
    Recipe::parse(&text, "ten steps", &[]).unwrap()
}

fn whole(rows: &[&Row]) -> Inputs {
    rows::inputs(rows, CONTEXT, 0)
}

#[test]
fn ten_steps_on_demonstrations_rankings_and_pairs_are_those_of_pytorch() {
    let golden = Golden::new();
    let first = golden.every_third(0);
    let halves: Vec<Inputs> = first.chunks(3).map(|part| whole(&part.iter().map(|i| &golden.rows[*i]).collect::<Vec<_>>())).collect();
    let tokens: usize = first.iter().map(|i| golden.rows[*i].response().len()).sum();
    golden.hold("sft", &recipe("kind = \"sft\"\ndemonstrations = \"d\"", "", 6), &halves, tokens as u64);

    let sample = |n: usize| Sample {
        name: String::new(),
        rows: golden.rows[n * ANSWERS..(n + 1) * ANSWERS].to_vec(),
        ranks: golden.list("ranks")[n * ANSWERS..(n + 1) * ANSWERS].iter().map(|rank| *rank as u32).collect(),
        confidence: golden.list("confidences")[n],
        bytes: 0,
    };
    let samples: Vec<Sample> = first.iter().map(|i| sample(i / ANSWERS)).collect();
    let ranked = Ranked { k: ANSWERS, context: CONTEXT, margin: 0.5 };
    let halves: Vec<Inputs> = samples.chunks(3).map(|part| ranked.inputs(&part.iter().collect::<Vec<_>>(), 0).unwrap()).collect();
    golden.hold("reward", &recipe("kind = \"reward\"\npreferences = \"p\"\nk = 3\nmargin = 0.5", "", 6), &halves, 6);

    let pairs: Vec<usize> = first.iter().flat_map(|i| [*i, i + 1]).collect();
    let reference: Vec<f32> = golden.say("reference", "", &pairs).iter().map(|said| said.log_probs.iter().sum()).collect();
    let half = |part: usize| {
        let of = part * 6..(part + 1) * 6;
        let rows: Vec<&Row> = pairs[of.clone()].iter().map(|i| &golden.rows[*i]).collect();
        whole(&rows).with_f32("reference", &[6], reference[of].to_vec())
    };
    let dpo = recipe("kind = \"dpo\"\npreferences = \"p\"\nbeta = 0.3\nlabel_smoothing = 0.1", "", 6);
    golden.hold("dpo", &dpo, &[half(0), half(1)], 6);
}

/// Rollouts of rows as an iteration makes them, by what the policy and the reference say.
fn rollouts(golden: &Golden, head: &str, of: &[usize], advantages: Advantages, kl_coef: f64, group: usize) -> Vec<Rollout> {
    let (policy, reference) = (golden.say("policy", head, of), golden.say("reference", "", of));
    let one = |((i, said), reference): ((&usize, Said), Said)| Rollout {
        prompt: String::new(),
        response: String::new(),
        tokens: golden.rows[*i].tokens.clone(),
        first: golden.rows[*i].first,
        reward: f64::from(golden.list("rewards")[*i]),
        has_end: true,
        log_probs: said.log_probs,
        reference: reference.log_probs,
        values: said.values,
        advantages: Vec::new(),
        returns: Vec::new(),
    };
    let mut all: Vec<Rollout> = of.iter().zip(policy).zip(reference).map(one).collect();
    advantages.fill(&mut all, kl_coef, group);
    all
}

/// Inputs of rollouts, each with a window of plain text of this weight where there is one.
fn inputs(all: &[Rollout], of: std::ops::Range<usize>, windows: &[(Row, f32)]) -> Inputs {
    let mean_tokens = all.iter().map(|one| one.log_probs.len()).sum::<usize>() as f32 / all.len() as f32;
    let each = if windows.is_empty() { 1 } else { 2 };
    let mut arrays = vec![vec![0.0; of.len() * each * CONTEXT]; ARRAYS.len()];
    let mut rows = Vec::new();
    for (n, i) in of.enumerate() {
        let at = n * each * CONTEXT;
        rows.push(put(&all[i], at, mean_tokens, &mut arrays));
        if let Some((window, coef)) = windows.get(i) {
            put_plain(at + CONTEXT..at + 2 * CONTEXT, coef / CONTEXT as f32, &mut arrays);
            rows.push(window.clone());
        }
    }
    let dims = [rows.len(), CONTEXT];
    ARRAYS.iter().zip(arrays).fold(whole(&rows.iter().collect::<Vec<_>>()), |inputs, (name, array)| inputs.with_f32(name, &dims, array))
}

#[test]
fn ten_steps_of_policies_are_those_of_pytorch() {
    let golden = Golden::new();
    let writing = "prompts = \"p\"\nresponse_tokens = 8\nreward = { kind = \"signal\", name = \"json\" }";
    let gae = Advantages::Gae { kl_coef: 0.1, kl_target: None, gamma: 0.97, lambda: 0.9, whiten_rewards: false };
    let all = rollouts(&golden, "head = \"tokens_and_scalar\"", &golden.every_third(2), gae, 0.1, 1);
    let window = |tokens: &[f32]| (Row { tokens: tokens.iter().map(|token| *token as u32).collect(), first: 1 }, 0.3);
    let windows: Vec<(Row, f32)> = golden.list("windows").chunks(CONTEXT + 1).map(window).collect();
    let ppo = format!("kind = \"ppo\"\n{writing}\nrollouts = 6\npretrain_data = \"d\"\npretrain_coef = 0.3");
    golden.hold("ppo", &recipe(&ppo, "", 6), &[inputs(&all, 0..3, &windows), inputs(&all, 3..6, &windows)], 6);

    let every: Vec<usize> = (0..golden.rows.len()).collect();
    let all = rollouts(&golden, "", &every, Advantages::Group, 0.0, ANSWERS);
    let grpo = format!("kind = \"grpo\"\n{writing}\nrollouts = 18\ngroup = 3");
    golden.hold("grpo", &recipe(&grpo, "", 18), &[inputs(&all, 0..9, &[]), inputs(&all, 9..18, &[])], 18);
}
