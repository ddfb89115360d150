//! `hairpin plan RECIPE`: a recipe or a project's phases on this machine.

use std::{path::PathBuf, process::ExitCode};

use ::plan::{ladder::climb, ladder::here as machine, ladder::here::Price, ladder::project::Project};
use report::{
    Answer, Bars, Table,
    terminal::{bytes, count, secs, table},
};
use train::recipe::Recipe;

use super::{Showing, per_sec};

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

pub(super) fn run(args: &HereArgs, showing: &Showing, json: bool) -> miette::Result<ExitCode> {
    let prices = if args.path.is_dir() {
        climb::price(&Project::read(&args.path)?, &args.path)?
    } else {
        // A recipe is priced with its own vocabulary: it needs no data.
        vec![machine::price(&Recipe::read(&args.path, &args.set)?, None)?]
    };
    showing.tell(&answer(&prices), &prices, json)
}

fn answer(prices: &[Price]) -> Answer {
    let names: Vec<&str> = prices.iter().map(|p| p.name.as_str()).collect();
    let (head, rows) = cells(prices);
    let largest = prices.iter().max_by_key(|p| p.memory_bytes);
    let memory = largest.map(|p| {
        let c = &p.cost;
        let kinds = [
            ("weights", c.weight_bytes),
            ("their bf16 copies", c.packed_bytes),
            ("gradients", c.grad_bytes),
            ("optimiser", c.optimiser_bytes),
            ("activations and work", c.pool_bytes),
        ];
        let rows = kinds.into_iter().filter(|(_, n)| *n > 0);
        Bars { rows: rows.map(|(what, n)| (what.to_owned(), n as f64, bytes(n))).collect(), full: None }
    });
    Answer {
        title: format!("{} on this machine: {}", names.join(", "), secs(prices.iter().map(|p| p.secs).sum())),
        bars: memory.map(|bars| ("What fills the first rank of the largest", bars)).into_iter().collect(),
        tables: vec![Table { title: "On this machine", head, rows }],
        notes: vec!["memory by a run of the step without numbers; time by a few short steps, run now".into()],
        ..Answer::default()
    }
}

/// For the demo, which has no page.
pub(crate) fn price_table(prices: &[Price]) -> String {
    let (head, rows) = cells(prices);
    table(&head, &rows)
}

/// What samples are counted in is the head of their column: phases of a project have one kind of model.
fn cells(prices: &[Price]) -> (Vec<&'static str>, Vec<Vec<String>>) {
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
    let unit = prices.first().map_or("tokens", |p| p.unit);
    let head = vec!["plan", "parameters", "steps", unit, "FLOPs", "memory", "step", per_sec(unit), "GFLOP/s", "time"];
    (head, prices.iter().map(row).collect())
}
