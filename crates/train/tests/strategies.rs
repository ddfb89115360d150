//! Strategies: each gives the bits of one rank, at any number of ranks, and holds what it promises.

use std::collections::BTreeMap;

use comm::{Communicator, Solo, Threads};
use engine::Inputs;
use proptest::prelude::*;
use train::{
    feed::inputs_of,
    recipe::Recipe,
    step::{StepOptions, Trainer},
};

/// Models in which something is shared, cut unevenly, normed or doubled.
const MODELS: &[&str] = &[
    "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 97\ncontext = 16\ndropout = 0.1",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 16\nkv_heads = 1\nqk_norm = true\ntied = true",
    "depth = 2\nzero_init = false\nvocab = 97\ncontext = 16\nexperts = 5\nexpert_ffn = 40\nshared_experts = 1\ndense_layers = 1",
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
        let lanes: Vec<Vec<Inputs>> = trainer.lanes().into_iter().map(|place| lane(step, place)).collect();
        let gradient = trainer.gradient(step, &lanes, (SEQUENCES * CONTEXT) as u64).unwrap();
        losses.extend([gradient.loss.to_bits(), gradient.norm.to_bits()]);
        trainer.update(step, 1.0, gradient.norm).unwrap();
    }
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    (losses, trainer.tensors().unwrap().into_iter().map(|(name, _, values)| (name, bits(values))).collect())
}

/// `on_machine` ranks share a machine: where fewer than all do, sums go in two levels.
fn run(recipe: &Recipe, on_machine: usize, steps: u64) -> (Vec<u32>, BTreeMap<String, Vec<u32>>) {
    if recipe.parallel.ranks == 1 {
        return run_rank(recipe, Box::new(Solo), steps);
    }
    std::thread::scope(|scope| {
        let group = Threads::on_machines(recipe.parallel.ranks, on_machine).into_iter();
        let ranks: Vec<_> = group.map(|comm| scope.spawn(|| run_rank(recipe, Box::new(comm), steps))).collect();
        let mut results: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        assert!(results.iter().all(|(losses, _)| *losses == results[0].0), "all ranks have the same losses and norms");
        results.swap_remove(0)
    })
}

#[test]
fn every_data_parallel_strategy_gives_the_bits_of_one_rank() {
    for model in MODELS {
        for optim in ["adamw", "muon"] {
            let of = |ranks: usize, strategy: &str| {
                recipe(model, &format!("[optim]\nkind = {optim:?}\n[parallel]\nranks = {ranks}\nstrategy = {strategy:?}\n"))
            };
            let (losses, tensors) = run(&of(1, "replicated"), 1, 3);
            for kind in parallel::STRATEGIES.all() {
                for [ranks, on_machine] in [[1, 1], [2, 2], [4, 4], [4, 2], [8, 8], [8, 2], [8, 4]] {
                    let (other_losses, other) = run(&of(ranks, kind.name), on_machine, 3);
                    assert_eq!(other_losses, losses, "{} on {ranks} ranks, {on_machine} a machine, {optim}: losses and norms", kind.name);
                    let differs = tensors.iter().find(|(name, values)| other.get(*name) != Some(values)).map(|(name, _)| name);
                    assert_eq!(differs, None, "{} on {ranks} ranks, {on_machine} a machine, {optim}", kind.name);
                    assert_eq!(other.len(), tensors.len());
                }
            }
        }
    }
}

/// Ranks, mesh and strategy of runs that are not those of one rank to the bit, but to rounding.
const MESHES: &[(usize, &str)] = &[
    (2, "mesh.tensor = 2"),
    (2, "mesh.context = 2"),
    (4, "mesh.context = 4"),
    (2, "mesh.pipeline = 2"),
    (3, "mesh.pipeline = 3\nschedule = \"fill_drain\""),
    (2, "mesh.pipeline = 2\nschedule = \"interleaved\""),
    (4, "mesh.pipeline = 2\nmesh.tensor = 2"),
    (4, "mesh.tensor = 2\nmesh.context = 2"),
    (4, "mesh.pipeline = 2\nstrategy = \"zero3\""),
    (4, "mesh.pipeline = 2\nstrategy = \"zero1\"\nschedule = \"interleaved\""),
    (4, "mesh.context = 2\nstrategy = \"zero2\""),
    (4, "mesh.tensor = 2\nstrategy = \"zero3\""),
    (8, "mesh.pipeline = 2\nmesh.tensor = 2\nstrategy = \"zero2\""),
    (8, "mesh.tensor = 2\nstrategy = \"mics\"\nmesh.shard = 2"),
    (16, "mesh.pipeline = 2\nmesh.tensor = 2\nmesh.context = 2\nstrategy = \"zero3\""),
];

#[test]
fn every_mesh_gives_the_losses_and_parameters_of_one_rank() {
    let models = [
        "preset = \"gpt2-124m\"\nlayers = 3\nmodel = 48\nheads = 4\nvocab = 98\ncontext = 16\ndropout = 0.1",
        "depth = 3\nzero_init = false\nvocab = 98\ncontext = 16\nkv_heads = 2\nheads = 4\nqk_norm = true\ntied = true",
        "preset = \"falcon-40b\"\nlayers = 3\nmodel = 64\nheads = 4\nkv_heads = 2\nhead_dim = 16\nffn = 96\nvocab = 98\ncontext = 16\ndropout = 0.1",
        "preset = \"bloomberggpt-50b\"\nlayers = 3\nmodel = 48\nheads = 4\nvocab = 98\ncontext = 16",
        "depth = 3\nzero_init = false\nvocab = 98\ncontext = 16\nheads = 4\nexperts = 5\nexpert_ffn = 32\nshared_experts = 1\nbalance = 0.1",
        "depth = 3\nzero_init = false\nvocab = 98\ncontext = 16\nheads = 4\nhead_dim = 24\nkv_rank = 20\nq_rank = 28\nrope_dim = 8",
    ];
    for (number, model) in models.into_iter().enumerate() {
        let of = |ranks: usize, more: &str| {
            recipe(model, &format!("[optim]\nkind = \"adamw\"\nlr = 1e-3\n[parallel]\nranks = {ranks}\n{more}\n"))
        };
        let f32s = |bits: &[u32]| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<f32>>();
        let (losses, tensors) = run(&of(1, ""), 1, 20);
        let losses = f32s(&losses);
        // The first model and the one with experts on every mesh, the others on every fourth, each on other ones.
        let chosen = MESHES.iter().enumerate().filter(|(at, _)| number % 4 == 0 || at % 4 == number % 4).map(|(_, mesh)| mesh);
        for (ranks, mesh) in chosen {
            let (other_losses, other) = run(&of(*ranks, mesh), *ranks, 20);
            // Losses and gradient norms in turn.
            let worst = losses.iter().zip(f32s(&other_losses)).map(|(a, b)| (a - b).abs() / a).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{model}\n{mesh}: losses and norms of 20 steps within {worst}");
            assert_eq!(other.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>(), "{mesh}: every tensor is gathered");
            for (name, values) in tensors.iter().filter(|(name, _)| name.starts_with("optim/m/")) {
                // The first moment is a mean of all gradients.
                let (want, got) = (f32s(values), f32s(&other[name]));
                let largest = want.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
                let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart <= 1e-3 * largest + 1e-7, "{model}\n{mesh}: {name} is {apart} apart, of {largest}");
            }
        }
    }
}

/// Ranks, mesh and strategy: the data-parallel family first.
const LAYOUTS: &[(usize, &str)] = &[
    (1, "strategy = \"replicated\""),
    (4, "strategy = \"replicated\""),
    (2, "strategy = \"herring\""),
    (8, "strategy = \"zero1\""),
    (4, "strategy = \"zero2\""),
    (8, "strategy = \"zero3\""),
    (8, "strategy = \"mics\"\nmesh.shard = 4"),
    (2, "mesh.tensor = 2"),
    (4, "mesh.pipeline = 2\nstrategy = \"zero3\""),
    (4, "mesh.context = 2\nmesh.tensor = 2"),
];
const FAMILY: usize = 7;

/// The whole tensors of a checkpoint.
type Tensors = BTreeMap<String, Vec<f32>>;

/// Run two steps, from `start` where there is one; the loss of each and what the first rank gathers.
fn two_steps(layout: (usize, &str), start: Option<&Tensors>) -> (Vec<f32>, Tensors) {
    let model = "depth = 2\nzero_init = false\nvocab = 98\ncontext = 16\nheads = 4\nkv_heads = 2\ntied = true\nexperts = 4";
    let recipe = recipe(model, &format!("[optim]\nkind = \"adamw\"\n[parallel]\nranks = {}\n{}\n", layout.0, layout.1));
    let rank = |comm: Box<dyn Communicator>| {
        let mut trainer = Trainer::on_rank(models::build(&recipe.model).unwrap(), StepOptions::of(&recipe), comm).unwrap();
        let first = if let Some(start) = start {
            trainer.restore(2, |name| start.get(name).cloned()).unwrap();
            3
        } else {
            1
        };
        let losses: Vec<f32> = (first..first + 2)
            .map(|step| {
                let lanes: Vec<Vec<Inputs>> = trainer.lanes().into_iter().map(|place| lane(step, place)).collect();
                let gradient = trainer.gradient(step, &lanes, (SEQUENCES * CONTEXT) as u64).unwrap();
                trainer.update(step, 1.0, gradient.norm).unwrap();
                gradient.loss
            })
            .collect();
        (losses, trainer.tensors().unwrap().into_iter().map(|(name, _, values)| (name, values)).collect::<Tensors>())
    };
    std::thread::scope(|scope| {
        let rank = &rank;
        let group = Threads::group(layout.0).into_iter();
        let ranks: Vec<_> = group.map(|comm| scope.spawn(move || rank(Box::new(comm)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>().swap_remove(0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_any_strategy_wrote_any_other_goes_on_from(from in 0..LAYOUTS.len(), to in 0..LAYOUTS.len()) {
        let (_, written) = two_steps(LAYOUTS[from], None);
        let (same, _) = two_steps(LAYOUTS[from], Some(&written));
        let (other, _) = two_steps(LAYOUTS[to], Some(&written));
        if from < FAMILY && to < FAMILY {
            prop_assert_eq!(&same, &other, "{:?} to {:?}", LAYOUTS[from], LAYOUTS[to]);
        }
        let apart = same.iter().zip(&other).map(|(a, b)| (a - b).abs() / a).fold(0.0, f32::max);
        prop_assert!(apart < 1e-5, "{:?} to {:?}: losses {} apart", LAYOUTS[from], LAYOUTS[to], apart);
    }
}
