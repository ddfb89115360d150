//! Strategies: each gives the bits of one rank, at any number of ranks, and holds what it promises.

use std::collections::BTreeMap;

use comm::{Communicator, Solo, Threads};
use engine::Inputs;
use train::{
    eval::inputs_of,
    recipe::Recipe,
    step::{StepOptions, Trainer},
};

/// Models in which something is shared, cut unevenly, normed or doubled.
const MODELS: &[&str] = &[
    "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 16\ndropout = 0.1",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 16\nkv_heads = 1\nqk_norm = true\ntied = true",
];
const SEQUENCES: usize = 8;
const CONTEXT: usize = 16;

fn recipe(model: &str, more: &str) -> Recipe {
    let text = format!(
        "[model]\n{model}\n[batch]\nsequences = {SEQUENCES}\nmicro_batch = 1\nlanes = 8\ncontext = {CONTEXT}\n[train]\nprecision = \"f32\"\nclip = 0.5\n{more}"
    );
    Recipe::parse(&text, "test", &[]).unwrap()
}

/// The sequences of one lane of one step, as micro-batches of one.
fn lane(step: u64, lane: usize) -> Vec<Inputs> {
    let token = |i: u64| (engine::mix(step * 1000 + lane as u64 * 100 + i) % 97) as u32;
    vec![inputs_of(&[(0..=CONTEXT as u64).map(token).collect()])]
}

/// Every tensor of a checkpoint after `steps` steps, as the first rank gathers it, with the losses.
fn run_rank(recipe: &Recipe, comm: Box<dyn Communicator>, steps: u64) -> (Vec<u32>, BTreeMap<String, Vec<u32>>) {
    let model = models::build(&recipe.model).unwrap();
    let mut trainer = Trainer::on_rank(model, StepOptions::of(recipe), comm).unwrap();
    let mut losses = Vec::new();
    for step in 1..=steps {
        let lanes: Vec<Vec<Inputs>> = trainer.lanes().map(|place| lane(step, place)).collect();
        let gradient = trainer.gradient(step, &lanes, (SEQUENCES * CONTEXT) as u64).unwrap();
        losses.extend([gradient.loss.to_bits(), gradient.norm.to_bits()]);
        trainer.update(step, 1.0, gradient.norm).unwrap();
    }
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    (losses, trainer.tensors(true).unwrap().into_iter().map(|(name, _, values)| (name, bits(values))).collect())
}

fn run(model: &str, optim: &str, [ranks, on_machine]: [usize; 2], strategy: &str) -> (Vec<u32>, BTreeMap<String, Vec<u32>>) {
    let recipe = recipe(model, &format!("[optim]\nkind = \"{optim}\"\n[parallel]\nranks = {ranks}\nstrategy = \"{strategy}\"\n"));
    if ranks == 1 {
        return run_rank(&recipe, Box::new(Solo), 3);
    }
    std::thread::scope(|scope| {
        let recipe = &recipe;
        let ranks: Vec<_> = Threads::on_machines(ranks, on_machine).into_iter().map(|comm| scope.spawn(|| run_rank(recipe, Box::new(comm), 3))).collect();
        let mut results: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        assert!(results.iter().all(|result| *result == results[0]), "{strategy}: all ranks gather the same");
        results.swap_remove(0)
    })
}

#[test]
fn every_data_parallel_strategy_gives_the_bits_of_one_rank() {
    for model in MODELS {
        for optim in ["adamw", "muon"] {
            let (losses, tensors) = run(model, optim, [1, 1], "replicated");
            for kind in parallel::STRATEGIES {
                // Ranks, and how many of them share a machine: where fewer than all do, sums go in two levels.
                for ranks in [[1, 1], [2, 2], [4, 4], [4, 2], [8, 8], [8, 2], [8, 4]] {
                    let (other_losses, other) = run(model, optim, ranks, kind.name);
                    assert_eq!(other_losses, losses, "{} on {ranks:?} ranks, {optim}: losses and norms", kind.name);
                    let differs = tensors.iter().find(|(name, values)| other.get(*name) != Some(values)).map(|(name, _)| name);
                    assert_eq!(differs, None, "{} on {ranks:?} ranks, {optim}", kind.name);
                    assert_eq!(other.len(), tensors.len());
                }
            }
        }
    }
}
