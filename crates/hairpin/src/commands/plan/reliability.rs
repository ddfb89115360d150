//! `hairpin plan reliability`: what failures cost, and how often to save.

use std::process::ExitCode;

use ::plan::simulation::reliability::{self, CHECKPOINT_BYTES_PER_PARAM, Cluster, HOURS_BETWEEN_FAILURES, RESTART_SECS};
use report::{
    Answer, Axis, Chart, Series, Table,
    terminal::{bytes, secs},
};

use super::{Showing, count, given};

/// How often a cluster fails, how often to save, and how much of the paid time is kept
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan reliability --params 50.6B --on p4d.24xlarge --nodes 64")]
pub(crate) struct ReliabilityArgs {
    /// Parameters of the model that is saved
    #[arg(long, value_parser = given::count)]
    params: f64,
    /// Instance that trains it
    #[arg(long, value_name = "INSTANCE", default_value = "p4d.24xlarge")]
    on: String,
    /// How many of the instance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    nodes: u64,
    /// Hours of one accelerator between unexpected stops
    #[arg(long, default_value_t = HOURS_BETWEEN_FAILURES, value_parser = given::number)]
    hours_between_failures: f64,
    /// From a stop to the first new step
    #[arg(long, default_value_t = RESTART_SECS, value_parser = given::number)]
    restart_secs: f64,
    /// How long the step waits for a checkpoint; default: its bytes at 1.2 GB/s a node
    #[arg(long, value_parser = given::number)]
    checkpoint_secs: Option<f64>,
    #[command(flatten)]
    showing: Showing,
}

pub(super) fn run(args: &ReliabilityArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.showing.catalogue()?;
    let instance = catalogue.instance(&args.on)?;
    catalogue.accelerator_of(instance)?;
    let params = args.params;
    let cluster = |nodes: f64| Cluster {
        accelerators: nodes * instance.count as f64,
        hours_between_failures: args.hours_between_failures,
        checkpoint_secs: args.checkpoint_secs.unwrap_or_else(|| reliability::checkpoint_secs(params, nodes)),
        restart_secs: args.restart_secs,
    };
    let here = cluster(args.nodes as f64);
    let plan = reliability::plan(&here)?;
    let sizes: Vec<f64> = (0..=12).map(|i| f64::from(1 << i)).collect();
    let others: Vec<(f64, reliability::Reliability)> =
        sizes.iter().filter_map(|n| Some((n * instance.count as f64, reliability::plan(&cluster(*n)).ok()?))).collect();
    let row = |(n, r): &(f64, reliability::Reliability)| {
        vec![count(*n), secs(r.secs_between_failures), secs(r.interval_secs), format!("{:.1}%", 100.0 * r.goodput_ratio)]
    };
    let kept = Series { name: "kept".into(), points: others.iter().map(|(n, r)| (*n, 100.0 * r.goodput_ratio)).collect(), is_faint: false };
    let answer = Answer {
        title: format!("{:.1}% of the time is kept", 100.0 * plan.goodput_ratio),
        asked: vec![
            ("on", format!("{} x {}", args.nodes, instance.name)),
            ("checkpoint", format!("{} in {}", bytes((params * CHECKPOINT_BYTES_PER_PARAM) as u64), secs(here.checkpoint_secs))),
            ("restart", secs(here.restart_secs)),
        ],
        figures: vec![("between failures", secs(plan.secs_between_failures)), ("save every", secs(plan.interval_secs))],
        charts: vec![(
            "Time kept",
            Chart { x: Axis::log("accelerators"), y: Axis::straight("percent of the time"), series: vec![kept], ..Chart::default() },
        )],
        tables: vec![Table { title: "By size of the cluster", head: vec!["accelerators", "between failures", "save every", "kept"], rows: others.iter().map(row).collect() }],
        notes: vec![
            "best interval and time: Daly, doi:10.1016/j.future.2004.11.016; failures of one accelerator every 50,677 hours are Llama 3.1's (arXiv:2407.21783)".into(),
        ],
        ..Answer::default()
    };
    args.showing.tell(&answer, &plan, json)
}
