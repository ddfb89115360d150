//! Prices on this machine beside what was measured: step time and memory of small models, and of every strategy on two ranks.
//! `cargo bench -p plan --bench here [-- PART-OF-A-NAME]`
//!
//! Memory is each rank's own, of which the worst priced is printed; then that of the process beside the sum over ranks, which they need
//! not all hold at one time.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::Mutex;

use comm::Communicator;
use plan::ladder::here as machine;
use train::{
    TrainError, measure, ranks,
    recipe::Recipe,
    run,
    step::{StepOptions, Trainer},
};

#[path = "../../train/tests/counted/mod.rs"]
mod counted;

const STEPS: usize = 9;

/// Median seconds of a step of `recipe`, as training runs it, and the bytes that `Meta` said this rank would take.
fn step(recipe: &Recipe, mut comm: Box<dyn Communicator>) -> Result<(f64, u64), TrainError> {
    let (recipe, model) = run::resolve(recipe, None)?;
    let group = comm.split(0).map_err(engine::EngineError::rank)?;
    let mut trainer = Trainer::on_rank(model, StepOptions::of(&recipe), group)?;
    let said_bytes = trainer.cost().total_bytes();
    Ok((measure::step(&mut trainer, &recipe, &mut *comm, STEPS)?[0], said_bytes))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dial = |depth: usize| format!("[model]\ndepth = {depth}\nvocab = 4096\n");
    let small = format!("{}[batch]\nsequences = 16\nlanes = 8\nmicro_batch = 1\ncontext = 256\n", dial(4));
    let gpt = "[model]\npreset = \"gpt2-124m\"\n[batch]\nsequences = 8\nlanes = 4\nmicro_batch = 1\ncontext = 512\n".to_owned();
    let mut works: Vec<(String, String)> = [2, 4, 6].into_iter().map(|depth| (format!("depth {depth}"), dial(depth))).collect();
    works.push(("gpt2-124m".into(), gpt));
    let strategies = parallel::STRATEGIES.all().into_iter().map(|kind| format!("strategy = {:?}", kind.name));
    // Muon needs whole matrices, which tensor ranks have not.
    let mesh = |axis| format!("mesh = {{ {axis} }}\n[optim]\nkind = \"adamw\"");
    let meshes = ["pipeline = 2", "tensor = 2", "context = 2"].into_iter().map(mesh);
    for way in strategies.chain(meshes) {
        let name = way.lines().next().unwrap_or_default();
        works.push((format!("depth 4, 2 ranks, {name}"), format!("{small}[parallel]\nranks = 2\n{way}\n")));
    }
    println!("{:<38} {:^28}   {:^29}   {:^29}", "", "step", "worst rank", "process");
    let columns = ["said", "taken", "error"].map(|column| format!("{column:>9}")).concat();
    println!("{:<38} {columns} {columns} {columns}", "");
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let error = |said: f64, taken: f64| 100.0 * (said / taken - 1.0);
    for (name, text) in works.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let recipe = Recipe::parse(&text, "here", &[])?;
        let price = machine::price(&recipe, None)?;
        // Said and taken of each rank.
        let ranks_bytes = Mutex::new(Vec::new());
        let rank = |comm| {
            let (done, taken_bytes) = counted::rank(comm, |comm| step(&recipe, comm));
            let (secs, said_bytes) = done?;
            ranks_bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((said_bytes as f64, taken_bytes as f64));
            Ok(secs)
        };
        let (secs, process_bytes) = counted::process(|| ranks::run(&recipe, rank, rank));
        let (secs, mut ranks_bytes) = (secs?, ranks_bytes.into_inner()?);
        ranks_bytes.sort_by(|a, b| error(a.0, a.1).abs().total_cmp(&error(b.0, b.1).abs()));
        let worst = ranks_bytes[ranks_bytes.len() - 1];
        let bytes = |(said, taken): (f64, f64)| format!("{:>7.1}MB {:>7.1}MB {:>+6.1}%", said / 1e6, taken / 1e6, error(said, taken));
        println!(
            "{name:<38} {:>8.3}s {secs:>8.3}s {:>+6.1}%   {}   {}",
            price.step_secs,
            error(price.step_secs, secs),
            bytes(worst),
            bytes((price.memory_bytes as f64, process_bytes as f64))
        );
    }
    Ok(())
}
