//! `hairpin plan RECIPE`: a recipe or a project's phases on this machine.

use std::{path::PathBuf, process::ExitCode};

use ::plan::{before::Before, ladder::climb, ladder::here as machine, ladder::here::Price, ladder::project::Project};
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
            ("images and frozen models", p.before.as_ref().map_or(0, Before::memory_bytes)),
        ];
        let rows = kinds.into_iter().filter(|(_, n)| *n > 0);
        Bars { rows: rows.map(|(what, n)| (what.to_owned(), n as f64, bytes(n))).collect(), full: None }
    });
    Answer {
        title: format!("{} on this machine: {}", names.join(", "), secs(prices.iter().map(|p| p.secs).sum())),
        bars: memory.map(|bars| ("What fills the first rank of the largest", bars)).into_iter().collect(),
        tables: std::iter::once(Table { title: "On this machine", head, rows }).chain(before(prices)).collect(),
        notes: std::iter::once("memory by a run of the step without numbers; time by a few short steps, run now".into())
            .chain(prices.iter().filter_map(|p| p.before.as_ref().map(|before| feed(p, before))))
            .collect(),
        warnings: prices.iter().filter_map(|p| p.before.as_ref()).flat_map(|before| before.not_counted.clone()).collect(),
        ..Answer::default()
    }
}

/// What the steps of images wait for, of each plan.
fn before(prices: &[Price]) -> Option<Table> {
    let mut rows = Vec::new();
    for (p, before) in prices.iter().filter_map(|p| Some((p, p.before.as_ref()?))) {
        let (feed, asks) = (&before.feed, (p.steps * before.feed.samples) as f64);
        let mut row = |what: &str, times: f64, flops: String, each: f64, all: f64, held: u64| {
            let all = format!("{} ({:.1}%)", secs(all), 100.0 * all / p.secs);
            rows.push(vec![p.name.clone(), what.to_owned(), count(times as u64), flops, secs(each), all, bytes(held)]);
        };
        let decoded = feed.decoded_ratio * asks;
        let decode_secs = decoded * feed.decode_core_secs / feed.cores + before.open_secs;
        let opened = before.images.unwrap_or(0) as f64;
        row("decode images, on one core", decoded + opened, "–".into(), feed.decode_core_secs, decode_secs, before.decoded_bytes);
        let make_secs = asks * feed.make_core_secs / feed.cores;
        row("make samples of them, on one core", asks, "–".into(), feed.make_core_secs, make_secs, 0);
        for f in &before.frozen {
            let held = f.weight_bytes + f.pass_bytes + f.kept_bytes;
            row(&format!("ask the {}", f.name), f.times, format!("{:.1e}", f.flops), f.sample_secs, f.times * f.sample_secs, held);
        }
    }
    let head = vec!["plan", "before the steps", "times", "FLOPs", "each", "in all", "memory"];
    (!rows.is_empty()).then_some(Table { title: "What the steps wait for", head, rows })
}

/// Whether making samples hides beside training, in words.
fn feed(p: &Price, before: &Before) -> String {
    let feed = &before.feed;
    format!(
        "{}: samples keep {:.2} of {:.0} cores busy, the same that train, so that a step of {} takes {} longer, frozen models with it; rates of {}",
        p.name,
        feed.cores_needed,
        feed.cores,
        secs(p.step_secs),
        secs(before.step_secs),
        feed.source
    )
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
