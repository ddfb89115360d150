//! `hairpin plan check`: the simulation held against what others measured, misses included.

use std::process::ExitCode;

use ::plan::{
    evidence::products::{self, Product},
    evidence::published::{self, Outcome},
    evidence::throughput::{self, Check},
    simulation::hardware::Constants,
};
use report::{Answer, Table, terminal::bytes};

use super::{Showing, count};

/// How right the simulation is: measured throughputs, and the days that published runs took
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan check")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    showing: Showing,
}

#[derive(serde::Serialize)]
struct Checked {
    constants: Constants,
    throughputs: Vec<Check>,
    /// Each with what the simulation says, in TFLOPS.
    products: Vec<(Product, f64)>,
    runs: Vec<Outcome>,
    /// Runs that could not be priced, and why.
    refused: Vec<(String, String)>,
}

pub(super) fn run(args: &CheckArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.showing.catalogue()?;
    let constants = Constants::default();
    let throughputs = throughput::rows().iter().map(|row| row.check(&catalogue, constants)).collect::<Result<Vec<_>, _>>()?;
    let product = |product: Product| product.tflops(&catalogue, constants).map(|said| (product, said));
    let products = products::all().into_iter().map(product).collect::<Result<Vec<_>, _>>()?;
    let (mut runs, mut refused) = (Vec::new(), Vec::new());
    for trained in published::all() {
        match published::outcome(&trained, &catalogue, constants) {
            Ok(outcome) => runs.push(outcome),
            Err(e) => refused.push((trained.run, e.to_string())),
        }
    }
    // Whatever of the catalogue has a time and no architecture here.
    let without = catalogue.runs.iter().filter(|run| run.hours.is_some() && runs.iter().all(|o| o.run.name != run.name));
    refused.extend(without.map(|run| (run.name.clone(), run.unlike.clone().unwrap_or_else(|| "no model kind here builds it".into()))));
    refused.sort();
    refused.dedup_by(|a, b| a.0 == b.0);
    let checked = Checked { constants, throughputs, products, runs, refused };
    args.showing.tell(&answer(&checked), &checked, json)
}

fn quantile(errors: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut errors: Vec<f64> = errors.map(f64::abs).collect();
    errors.sort_by(f64::total_cmp);
    errors.get((share * errors.len().saturating_sub(1) as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

fn answer(c: &Checked) -> Answer {
    let percent = |share: f64| format!("{:+.1}%", 100.0 * share);
    let row = |check: &Check| {
        let r = &check.row;
        vec![
            r.accelerator.clone(),
            r.model.clone(),
            r.context.to_string(),
            r.accelerators.to_string(),
            format!("{} x {}", r.lanes, r.micro_batch),
            r.strategy.clone(),
            if r.recompute { "yes" } else { "no" }.into(),
            count(r.tokens_per_sec),
            count(check.time.tokens_per_sec),
            percent(check.error),
            format!("{}{}", bytes(check.time.bytes.total() as u64), if check.fits { "" } else { " (too much)" }),
        ]
    };
    let product = |(product, said): &(Product, f64)| {
        let [m, n, k] = product.size;
        let measured = product.measured_tflops;
        let error = percent(said / measured - 1.0);
        vec![product.accelerator.clone(), format!("{m} x {n} x {k}"), format!("{measured:.0}"), format!("{said:.0}"), error]
    };
    let of_products = c.products.iter().map(|(product, said)| said / product.measured_tflops - 1.0);
    let head =
        vec!["on", "model", "context", "count", "micro-batches", "strategy", "recompute", "measured", "simulated", "error", "memory"];
    let of = |sets: bool| c.throughputs.iter().filter(move |check| check.row.sets_constants() == sets);
    let allowed = |o: &Outcome| (1.0 + o.error) * published::allowance(&c.runs, &o.trained.family) - 1.0;
    let outcome = |o: &Outcome| {
        let cut = &o.choice.cut;
        vec![
            o.run.name.clone(),
            o.run.accelerator.clone().unwrap_or_default(),
            format!("{}", cut.tensor * cut.pipeline * cut.data),
            format!("t{} p{} d{} {}", cut.tensor, cut.pipeline, cut.data, cut.strategy),
            format!("{:.1}%", 100.0 * o.choice.time.mfu),
            format!("{:.2}", o.days),
            format!("{:.2}", o.actual_days),
            percent(o.error),
            percent(allowed(o)),
            o.choice.limit.into(),
            o.trained.assumed.clone().unwrap_or_default(),
        ]
    };
    let talk = ["Stable Diffusion 2.1", "Falcon-40B", "BloombergGPT"];
    let is_talks = |o: &&Outcome| talk.contains(&o.run.name.as_str());
    let run_head = vec!["run", "on", "count", "cut", "MFU", "days said", "days taken", "error", "with allowance", "limited by", "assumed"];
    let like = || c.runs.iter().filter(|o| o.run.unlike.is_none());
    let judged = || of(false).map(|check| check.error);
    let days = |share| format!("{:.1}%", 100.0 * quantile(like().map(|o| o.error), share));
    let fit = c.throughputs.iter().filter(|check| check.fits).count();
    Answer {
        title: "The simulation beside what was measured".into(),
        figures: vec![
            ("throughput, median error", format!("{:.1}%", 100.0 * quantile(judged(), 0.5))),
            ("a tenth above", format!("{:.1}%", 100.0 * quantile(judged(), 0.9))),
            ("of what ran, fits", format!("{fit} of {}", c.throughputs.len())),
            ("products, median error", format!("{:.1}%", 100.0 * quantile(of_products, 0.5))),
            ("days, median error", days(0.5)),
            ("a tenth above", days(0.9)),
            ("with an allowance", format!("{:.1}%", 100.0 * quantile(like().map(allowed), 0.5))),
            ("a tenth above", format!("{:.1}%", 100.0 * quantile(like().map(allowed), 0.9))),
        ],
        tables: vec![
            Table { title: "The talk's runs", head: run_head.clone(), rows: c.runs.iter().filter(is_talks).map(outcome).collect() },
            Table { title: "Published runs", head: run_head, rows: c.runs.iter().filter(|o| !is_talks(o)).map(outcome).collect() },
            Table {
                title: "Published runs without a prediction",
                head: vec!["run", "why"],
                rows: c.refused.iter().map(|(run, why)| vec![run.clone(), why.clone()]).collect(),
            },
            Table { title: "Throughputs that judge", head: head.clone(), rows: of(false).map(row).collect() },
            Table { title: "Throughputs that set the constants", head, rows: of(true).map(row).collect() },
            Table {
                title: "Matrix products measured alone",
                head: vec!["on", "rows x columns x summed", "TFLOPS", "simulated", "error"],
                rows: c.products.iter().map(product).collect(),
            },
        ],
        notes: vec![
            "throughputs: MPT with FSDP, github.com/mosaicml/llm-foundry; rows in 8 bits are left out".into(),
            "products: XLA's tables, github.com/openxla/xla".into(),
            "days said: the clean step and failing machines; no constant was set on any run. Those that runs.toml calls unlike do not count".into(),
            format!(
                "with allowance: days said times what the other families' runs took over what was said of them ({:.2} over all)",
                published::allowance(&c.runs, "")
            ),
        ],
        ..Answer::default()
    }
}
