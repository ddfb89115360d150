//! The planner's questions: one file each. Each prints a table, or JSON, and writes an offline page where `--page` says.

mod align;
mod approach;
mod budget;
mod check;
mod corpus;
mod fit;
mod here;
mod ladder;
mod list;
mod reading;
mod reliability;
mod rent;

use std::{path::PathBuf, process::ExitCode};

use ::plan::{
    PlanError,
    catalogue::{Catalogue, Service, Term},
    simulation::search::Cut,
};
pub(crate) use here::price_table;
use report::Answer;

use crate::print;

/// Before the launch: what a budget buys, what data, alignment or failures cost, or the price of a recipe on this machine
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example: hairpin plan --budget-usd 2M --on p4d.24xlarge --deadline-days 60 --data 1T\n         hairpin plan recipes/gpt2-124m.toml\n         hairpin plan recipes/falcon-40b.toml --on p4d.24xlarge:48 --search\n         hairpin plan my-model\n\nA recipe or a project's folder is priced on this machine: memory exactly, time by a short calibration."
)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    question: Option<Question>,
    #[command(flatten)]
    here: here::HereArgs,
    #[command(flatten)]
    budget: budget::BudgetArgs,
}

#[derive(clap::Subcommand)]
enum Question {
    Approach(approach::ApproachArgs),
    Data(corpus::CorpusArgs),
    Align(align::AlignArgs),
    Reading(reading::ReadingArgs),
    Reliability(reliability::ReliabilityArgs),
    Fit(fit::FitArgs),
    Ladder(Box<ladder::LadderArgs>),
    Check(check::CheckArgs),
    List(list::ListArgs),
}

pub(crate) fn run(args: &PlanArgs, json: bool) -> miette::Result<ExitCode> {
    match &args.question {
        Some(Question::Approach(args)) => approach::run(args, json),
        Some(Question::Data(args)) => corpus::run(args, json),
        Some(Question::Align(args)) => align::run(args, json),
        Some(Question::Reading(args)) => reading::run(args, json),
        Some(Question::Reliability(args)) => reliability::run(args, json),
        Some(Question::Fit(args)) => fit::run(args, json),
        Some(Question::Ladder(args)) => ladder::run(args, json),
        Some(Question::Check(args)) => check::run(args, json),
        Some(Question::List(args)) => list::run(args, json),
        None if args.budget.is_asked() => budget::run(&args.budget, json),
        None if args.budget.renting.on.is_some() => rent::run(&args.here, &args.budget, json),
        None => here::run(&args.here, &args.budget.renting.showing, json),
    }
}

/// How accelerators are rented, and where else to look.
#[derive(clap::Args)]
struct Renting {
    /// Instance, e.g. `p4d.24xlarge`, as `plan list instances` has them; for a recipe with how many, e.g. `p4d.24xlarge:64`
    #[arg(long, value_name = "INSTANCE")]
    on: Option<String>,
    /// Who rents it out; default: `sagemaker` where the instance's name begins with `ml.`, else `ec2`
    #[arg(long)]
    service: Option<ServiceArg>,
    /// On which terms
    #[arg(long, default_value = "on-demand")]
    term: TermArg,
    /// Prices of this month, e.g. `2023-03`; default: the newest known
    #[arg(long, value_name = "YEAR-MONTH")]
    prices_of: Option<String>,
    /// Share of the peak that training uses; default: of the step simulated
    #[arg(long, value_parser = given::share)]
    mfu: Option<f64>,
    #[command(flatten)]
    showing: Showing,
}

#[derive(clap::Args)]
struct Showing {
    /// A TOML file of your own rows, in the form of crates/plan/src/catalogue
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Write the answer as one offline HTML page
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ServiceArg {
    Ec2,
    Sagemaker,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TermArg {
    OnDemand,
    #[value(name = "reserved-1y")]
    Reserved1y,
    #[value(name = "reserved-3y")]
    Reserved3y,
    CapacityBlock,
}

impl From<ServiceArg> for Service {
    fn from(arg: ServiceArg) -> Self {
        match arg {
            ServiceArg::Ec2 => Self::Ec2,
            ServiceArg::Sagemaker => Self::Sagemaker,
        }
    }
}

impl From<TermArg> for Term {
    fn from(arg: TermArg) -> Self {
        match arg {
            TermArg::OnDemand => Self::OnDemand,
            TermArg::Reserved1y => Self::Reserved1y,
            TermArg::Reserved3y => Self::Reserved3y,
            TermArg::CapacityBlock => Self::CapacityBlock,
        }
    }
}

impl Renting {
    /// Who rents out what is called `on`.
    fn service(&self, on: &str) -> Result<Service, PlanError> {
        Service::of(on, self.service.map(Service::from))
    }
}

impl Showing {
    fn catalogue(&self) -> Result<Catalogue, PlanError> {
        Catalogue::load(self.catalogue.as_deref())
    }

    /// The page where asked for, and then the answer.
    fn tell(&self, answer: &Answer, value: &impl serde::Serialize, json: bool) -> miette::Result<ExitCode> {
        if let Some(path) = &self.page {
            answer.write(path)?;
            print::talk(&format!("page: {}", path.display()));
        }
        if json {
            print::json(value)?
        } else {
            print::result(&answer.text())
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `tensor 8, pipeline 4, data 12, zero1`
fn cut(c: &Cut) -> String {
    let axes = [("tensor", c.tensor), ("pipeline", c.pipeline), ("chunks", c.chunks), ("data", c.data)];
    let axes: Vec<String> = axes.iter().filter(|(_, n)| *n > 1).map(|(axis, n)| format!("{axis} {n}")).collect();
    let shards = if c.strategy == "mics" { format!(" over {}", c.shards) } else { String::new() };
    format!("{}{}{}{shards}", axes.join(", "), if axes.is_empty() { "" } else { ", " }, c.strategy)
}

/// Readers of arguments: clap says of which flag it was what they refuse.
mod given {
    use ::plan::{PlanError, units};

    fn told(e: PlanError) -> String {
        match e {
            PlanError::Unit { problem, example, .. } => format!("{problem}: write it like {example}"),
            e => e.to_string(),
        }
    }

    pub(super) fn count(text: &str) -> Result<f64, String> {
        units::count(text).map_err(told)
    }

    pub(super) fn number(text: &str) -> Result<f64, String> {
        units::number(text).map_err(told)
    }

    pub(super) fn share(text: &str) -> Result<f64, String> {
        units::share(text).map_err(told)
    }

    pub(super) fn secs(text: &str) -> Result<f64, String> {
        units::secs(text).map_err(told)
    }

    pub(super) fn amount(text: &str) -> Result<units::Amount, String> {
        units::amount(text).map_err(told)
    }
}

/// The rate of what samples are counted in, as `models::unit` names it.
fn per_sec(unit: &str) -> &'static str {
    match unit {
        "images" => "images/s",
        "pairs" => "pairs/s",
        _ => "tokens/s",
    }
}

/// `41.8B`; what is beyond all names as a power of ten.
fn count(value: f64) -> String {
    if value < 1e18 { report::terminal::count(value as u64) } else { format!("{value:.1e}") }
}

/// `1.974 (1.92–2.03)`
fn loss(prediction: &::plan::laws::Prediction) -> String {
    let [low, high] = prediction.interval;
    format!("{:.3} ({low:.2}–{high:.2})", prediction.loss)
}
