//! Strategies at scale, simulated: TFLOPS of each accelerator and weak scaling from 8 to 1,024 ranks beside the published points.
//! `cargo bench -p plan --bench scale`
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use comm::Order;
use parallel::mesh::Mesh;
use plan::{
    catalogue::Catalogue,
    simulation::hardware::{Cluster, Constants},
    simulation::step as simulate,
};
use train::{recipe::Recipe, step::StepOptions};

/// What is trained, and how.
struct Work<'a> {
    model: &'a str,
    context: usize,
    recompute: bool,
    instance: &'a str,
    strategy: &'a str,
    shards: usize,
    micro_batch: usize,
    lanes: usize,
}

/// TFLOPS of the model's own operations on each accelerator, and the same with what is computed twice.
fn tflops(work: &Work<'_>, nodes: usize) -> [f64; 2] {
    let catalogue = Catalogue::load(None).expect("the embedded catalogue");
    let instance = catalogue.instance(work.instance).expect("the catalogue has it");
    let cluster = Cluster::of(&catalogue, instance, nodes).expect("it has accelerators");
    let ranks = cluster.topology.ranks();
    let text = format!(
        "[model]\n{}\n[batch]\ncontext = {}\n[train]\nrecompute = {}\nprecision = \"bf16\"",
        work.model, work.context, work.recompute
    );
    let (recipe, _) = train::run::resolve(&Recipe::parse(&text, "scale", &[]).expect("a recipe"), None).expect("a model");
    let options = StepOptions {
        mesh: Mesh::data(ranks),
        order: Order::Any,
        strategy: parallel::STRATEGIES.find(work.strategy).expect("a strategy"),
        shards: work.shards.min(ranks),
        lanes: work.lanes,
        passes: 1,
        micro_batch: work.micro_batch,
        ..StepOptions::of(&recipe)
    };
    let build = || Ok(models::build(&recipe.model)?);
    let time = simulate::step(&build, &options, &cluster, Constants::default()).expect("shapes fit");
    let model = time.mfu * cluster.hardware.peak_flops / 1e12;
    [model, if work.recompute { model * 4.0 / 3.0 } else { model }]
}

fn main() {
    const GPT: &str = "preset = \"gpt3-175b\"\nvocab = 50304";
    let bert = "preset = \"gpt2-355m\"\nvocab = 30592\ncontext = 512";
    let large = |strategy, shards| Work {
        model: GPT,
        context: 2048,
        recompute: true,
        instance: "p4de.24xlarge",
        strategy,
        shards,
        micro_batch: 8,
        lanes: 4,
    };
    println!(
        "| 175B on p4de, sequences of 2,048, micro-batches of 8, four a step | model TFLOPS per GPU | with recomputation | published |\n|---|---|---|---|"
    );
    for (strategy, shards, published) in [("mics", 64, "169 (MiCS)"), ("zero3", 512, "about 62 (DeepSpeed ZeRO-3)")] {
        let [model, hardware] = tflops(&large(strategy, shards), 64);
        println!("| {strategy} on 512 GPUs | {model:.0} | {hardware:.0} | {published} |");
    }
    println!("\n| weak scaling, 175B on p4de | 64 | 128 | 256 | 512 | 1,024 GPUs |\n|---|---|---|---|---|---|");
    for (strategy, shards) in [("mics", 64), ("zero3", usize::MAX)] {
        let each: Vec<f64> =
            [8, 16, 32, 64, 128].map(|nodes| tflops(&large(strategy, if shards == 64 { 64 } else { 8 * nodes }), nodes)[0]).to_vec();
        let row: Vec<String> = each.iter().map(|t| format!("{t:.0} ({:.1}%)", 100.0 * t / each[0])).collect();
        println!("| {strategy} | {} |", row.join(" | "));
    }
    println!("\n| BERT-large's size on p3dn, sequences of 512, 8 a GPU | 8 | 64 | 512 | 2,048 GPUs |\n|---|---|---|---|---|");
    for strategy in ["herring", "replicated"] {
        let work =
            Work { model: bert, context: 512, recompute: false, instance: "p3dn.24xlarge", strategy, shards: 1, micro_batch: 8, lanes: 1 };
        let each: Vec<f64> = [1, 8, 64, 256].map(|nodes| tflops(&work, nodes)[0]).to_vec();
        let row: Vec<String> = each.iter().map(|t| format!("{t:.1} ({:.0}%)", 100.0 * t / each[0])).collect();
        println!("| {strategy} | {} |", row.join(" | "));
    }
}
