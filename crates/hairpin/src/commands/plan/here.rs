//! `hairpin plan RECIPE`: a recipe or a project's phases on this machine.

use std::{path::PathBuf, process::ExitCode};

use ::plan::{climb, machine, machine::Price, project::Project};
use report::terminal::{bytes, count, secs, table};
use train::recipe::Recipe;

use crate::print;

#[derive(clap::Args)]
pub(super) struct HereArgs {
    /// A recipe file, or a project's folder whose data is prepared
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Change one key of the recipe, e.g. `optim.lr=3e-4`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// On the instances that `--on` names: the best mesh and strategy, and the runners-up
    #[arg(long, requires = "on")]
    pub(super) search: bool,
}

pub(super) fn run(args: &HereArgs, json: bool) -> miette::Result<ExitCode> {
    let prices = if args.path.is_dir() {
        climb::price(&Project::read(&args.path)?, &args.path)?
    } else {
        // A recipe is priced with its own vocabulary: it needs no data.
        vec![machine::price(&Recipe::read(&args.path, &args.set)?, None)?]
    };
    if json {
        print::json(&prices)?
    } else {
        print::result(&price_table(&prices))
    }
    Ok(ExitCode::SUCCESS)
}

/// Shared with the demo.
pub(crate) fn price_table(prices: &[Price]) -> String {
    let row = |p: &Price| {
        vec![
            p.name.clone(),
            count(p.cost.params),
            p.steps.to_string(),
            count(p.tokens),
            format!("{:.1e}", p.flops),
            bytes(p.memory_bytes),
            secs(p.step_secs),
            count(p.tokens_per_sec as u64),
            format!("{:.0}", p.gflops_per_sec),
            secs(p.secs),
        ]
    };
    let head = ["plan", "parameters", "steps", "tokens", "FLOPs", "memory", "step", "tokens/s", "GFLOP/s", "time"];
    table(&head, &prices.iter().map(row).collect::<Vec<_>>())
}
