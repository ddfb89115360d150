//! Prices on this machine beside what was measured: step time and memory of small models, and of every strategy on two ranks.
//! `cargo bench -p plan --bench here [-- PART-OF-A-NAME]`
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use comm::Communicator;
use peak_alloc::PeakAlloc;
use plan::machine;
use train::{
    TrainError, measure, ranks,
    recipe::Recipe,
    run,
    step::{StepOptions, Trainer},
};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const STEPS: usize = 9;

/// Median seconds of a step of `recipe`, as training runs it.
fn step_secs(recipe: &Recipe, mut comm: Box<dyn Communicator>) -> Result<f64, TrainError> {
    let (recipe, model) = run::resolve(recipe, None)?;
    let group = comm.split(0).map_err(engine::EngineError::rank)?;
    let mut trainer = Trainer::on_rank(model, StepOptions::of(&recipe), group)?;
    Ok(measure::step(&mut trainer, &recipe, &mut *comm, STEPS)?[0])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dial = |depth: usize| format!("[model]\ndepth = {depth}\nvocab = 4096\n");
    let small = format!("{}[batch]\nsequences = 16\nlanes = 8\nmicro_batch = 1\ncontext = 256\n", dial(4));
    let gpt = "[model]\npreset = \"gpt2-124m\"\n[batch]\nsequences = 8\nlanes = 4\nmicro_batch = 1\ncontext = 512\n".to_owned();
    let mut works: Vec<(String, String)> = [2, 4, 6].into_iter().map(|depth| (format!("depth {depth}"), dial(depth))).collect();
    works.push(("gpt2-124m".into(), gpt));
    let strategies = parallel::STRATEGIES.iter().map(|kind| format!("strategy = {:?}", kind.name));
    // Muon needs whole matrices, which tensor ranks have not.
    let mesh = |axis| format!("mesh = {{ {axis} }}\n[optim]\nkind = \"adamw\"");
    let meshes = ["pipeline = 2", "tensor = 2", "context = 2"].into_iter().map(mesh);
    for way in strategies.chain(meshes) {
        let name = way.lines().next().unwrap_or_default();
        works.push((format!("depth 4, 2 ranks, {name}"), format!("{small}[parallel]\nranks = 2\n{way}\n")));
    }
    println!("{:<44} {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7}", "", "said", "taken", "error", "said", "taken", "error");
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for (name, text) in works.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let recipe = Recipe::parse(&text, "here", &[])?;
        let price = machine::price(&recipe, None)?;
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        let secs = ranks::run(&recipe, |comm| step_secs(&recipe, comm), |comm| step_secs(&recipe, comm))?;
        let taken_bytes = (ALLOCATED.peak_usage() - before) as f64;
        let said_bytes = price.memory_bytes as f64;
        println!(
            "{name:<44} {:>8.3}s {secs:>8.3}s {:>+6.1}%   {:>7.1}MB {:>7.1}MB {:>+6.1}%",
            price.step_secs,
            100.0 * (price.step_secs / secs - 1.0),
            said_bytes / 1e6,
            taken_bytes / 1e6,
            100.0 * (said_bytes / taken_bytes - 1.0)
        );
    }
    Ok(())
}
