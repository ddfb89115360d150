//! Benchmarks that scripts and the project's own tables run.

use std::process::ExitCode;

use ::train::{
    clock::Clock,
    feed::Feed,
    measure, ranks,
    recipe::{Optim, Recipe},
    step::{StepOptions, Trainer},
};
use engine::Precision;
use miette::IntoDiagnostic;
use serde_json::json;

use crate::{CLOCK, print};

/// Measure
#[derive(clap::Subcommand)]
pub(crate) enum BenchCommand {
    Step(StepArgs),
    Feed(FeedArgs),
    Generate(WriteArgs),
    Strategy(StrategyArgs),
}

pub(crate) fn run(command: &BenchCommand, json: bool) -> miette::Result<ExitCode> {
    match command {
        BenchCommand::Step(args) => step(args, json),
        BenchCommand::Feed(args) => feed(args, json),
        BenchCommand::Generate(args) => write(args, json),
        BenchCommand::Strategy(args) => strategy(args, json),
    }
}

/// A whole training step (forward, backward, clip, AdamW) of a GPT-2 style decoder on synthetic tokens, or of a recipe's model
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin bench step --vocab 4096 --context 256 --layers 6 --width 384 --heads 6 --batch 8 --steps 10 --json"
)]
pub(crate) struct StepArgs {
    /// Take model, batch, context and recomputation from this recipe instead
    recipe: Option<std::path::PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Sequences in one forward and backward pass, all of them by default; fewer take less memory
    #[arg(long)]
    micro_batch: Option<usize>,
    #[arg(long, default_value_t = 10)]
    steps: u64,
}

fn step(args: &StepArgs, json: bool) -> miette::Result<ExitCode> {
    let text = args.model.table();
    let mut recipe = match &args.recipe {
        Some(path) => Recipe::read(path, &[])?,
        None => Recipe::parse(&format!("[model]\n{text}"), "bench step", &[])?,
    };
    if args.recipe.is_none() {
        (recipe.batch.sequences, recipe.batch.context) = (args.batch.max(1), args.model.context);
    }
    let (recipe, model) = ::train::run::resolve(&recipe, None)?;
    let precision = args.model.precision();
    let (batch, context) = (recipe.batch.sequences, recipe.batch.context);
    let micro_batch = args.micro_batch.unwrap_or(batch).clamp(1, batch);
    let options = StepOptions { precision, lanes: 1, passes: 1, micro_batch, optim: Optim::default(), ..StepOptions::of(&recipe) };
    let inputs = |first: usize| model.made_up(first, micro_batch.min(batch - first), context);
    let lanes = vec![(0..batch).step_by(micro_batch).map(inputs).collect::<Vec<_>>()];
    let mut trainer = Trainer::new(model, options)?;
    let count = (batch * context) as u64;
    let mut one = |step: u64| -> miette::Result<f64> {
        let clock = Clock::start();
        let gradient = trainer.gradient(step, &lanes, count)?;
        trainer.update(step, 0.1, gradient.norm)?;
        Ok(clock.secs())
    };
    one(1)?;
    let first_step_secs = CLOCK.secs();
    let mut secs = (0..args.steps.max(1)).map(|i| one(i + 2)).collect::<miette::Result<Vec<f64>>>()?;
    secs.sort_by(f64::total_cmp);
    let median = secs[secs.len() / 2];
    let cost = trainer.cost();
    let gflops = cost.micro_batch_flops as f64 * batch as f64 / micro_batch as f64 / median / 1e9;
    let (unit, per_sec) = (models::unit(&recipe.model), count as f64 / median);
    if json {
        print::json(&json!({
            format!("{unit}_per_sec"): per_sec, "gflops": gflops, "peak_rss_bytes": peak_rss_bytes(), "first_step_secs": first_step_secs,
            "step_secs": median, "params": cost.params, "predicted_bytes": cost.total_bytes(), "used_bytes": trainer.used_bytes(),
            "kernels": kernels::level().to_string(), "precision": format!("{precision:?}").to_lowercase(),
        }))?;
    } else {
        print::result(&format!(
            "{per_sec:.1} {unit}/s, {gflops:.0} GFLOP/s, {} of memory at most, first step after {first_step_secs:.2} s ({}, {precision:?})",
            report::terminal::bytes(peak_rss_bytes()),
            kernels::level()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Samples of images made as fast as they can be, each decoded anew, without a step beside it
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin bench feed recipes/bench-mae-vit-b.toml pictures --json")]
pub(crate) struct FeedArgs {
    /// Its model and batch say what a sample is
    recipe: std::path::PathBuf,
    /// With images
    folder: std::path::PathBuf,
    #[arg(long, default_value_t = 20)]
    steps: u64,
}

fn feed(args: &FeedArgs, json: bool) -> miette::Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe, &[format!("data.path={:?}", args.folder.display().to_string())])?;
    let (recipe, _) = ::train::run::resolve(&recipe, None)?;
    let images = vision::feed::open_within(&recipe, 0)?;
    let batch = recipe.batch.sequences as u64;
    let clock = Clock::start();
    for step in 0..args.steps.max(1) {
        images.inputs(&images.picks(step * batch..(step + 1) * batch))?;
    }
    let batch_secs = clock.secs() / args.steps.max(1) as f64;
    let (images_per_sec, threads) = (batch as f64 / batch_secs, rayon::current_num_threads());
    if json {
        print::json(&json!({"images_per_sec": images_per_sec, "batch_secs": batch_secs, "batch": batch, "threads": threads}))?;
    } else {
        print::result(&format!("{images_per_sec:.0} images/s on {threads} threads, {batch_secs:.3} s for a batch of {batch}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writing of text by a GPT-2 style decoder of random weights, some sequences together, beside the speed of a copy in memory
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin bench generate --vocab 50257 --context 256 --layers 12 --width 768 --heads 12 --batch 32 --json")]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Sequences that are written together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Of each sequence
    #[arg(long, default_value_t = 120)]
    tokens: usize,
}

fn write(args: &WriteArgs, json: bool) -> miette::Result<ExitCode> {
    let text = args.model.table();
    let model = models::build(&text.parse().into_diagnostic()?)?;
    let precision = args.model.precision();
    let rate = ::train::generate::rate(&*model, precision, usize::from(args.batch), args.tokens)?;
    let copy = 1e9 * super::doctor::copy_gbytes_per_sec();
    if json {
        print::json(&json!({
            "tokens_per_sec": rate.tokens_per_sec, "bytes_read_per_token": rate.bytes_read_per_token, "copy_bytes_per_sec": copy,
        }))?;
    } else {
        print::result(&format!(
            "{:.0} tokens/s of {} sequences together; {} a token is {}/s, and a copy reads and writes {}/s ({}, {precision:?})",
            rate.tokens_per_sec,
            args.batch,
            report::terminal::bytes(rate.bytes_read_per_token as u64),
            report::terminal::bytes((rate.bytes_read_per_token * rate.tokens_per_sec) as u64),
            report::terminal::bytes(copy as u64),
            kernels::level()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A decoder of GPT-2's kind.
#[derive(clap::Args)]
struct ModelArgs {
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    #[arg(long, default_value_t = 256)]
    context: usize,
    #[arg(long, default_value_t = 6)]
    layers: usize,
    #[arg(long, default_value_t = 384)]
    width: usize,
    #[arg(long, default_value_t = 6)]
    heads: usize,
    /// Default: bf16 where the CPU is faster with it
    #[arg(long, value_parser = ["f32", "bf16"])]
    precision: Option<String>,
}

impl ModelArgs {
    /// As a recipe's `[model]` table.
    fn table(&self) -> String {
        let Self { vocab, context, layers, width, heads, .. } = self;
        format!("preset = \"gpt2-124m\"\nvocab = {vocab}\ncontext = {context}\nlayers = {layers}\nmodel = {width}\nheads = {heads}\n")
    }

    fn precision(&self) -> Precision {
        match self.precision.as_deref() {
            Some("f32") => Precision::F32,
            Some(_) => Precision::Bf16,
            None => ::train::recipe::PrecisionChoice::Auto.resolve(),
        }
    }
}

/// A recipe's step on its ranks, on made-up tokens, beside what it computes and what it exchanges, each alone
#[derive(clap::Args)]
#[command(after_help = "Example: mpirun -n 2 hairpin bench strategy recipes/bench-124m.toml --set batch.lanes=2")]
pub(crate) struct StrategyArgs {
    recipe: std::path::PathBuf,
    /// Override a value of the recipe
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn strategy(args: &StrategyArgs, json: bool) -> miette::Result<ExitCode> {
    let ranks = ranks::launched_ranks().map(|ranks| format!("parallel.ranks={ranks}"));
    let recipe = Recipe::read(&args.recipe, &args.set.iter().cloned().chain(ranks).collect::<Vec<_>>())?;
    let first = |comm| measure::step_times(&recipe, comm, args.rounds).map(Some);
    let other = |comm| measure::step_times(&recipe, comm, args.rounds).map(|_| None);
    let Some(times) = ranks::run(&recipe, first, other)? else { return Ok(ExitCode::SUCCESS) };
    if json {
        print::json(&times)?;
    } else {
        print::result(&format!(
            "{:.0} tokens/s: a step of {:.3} s, of which compute alone takes {:.3} s and the exchange alone {:.3} s; {:.0}% of what can hide does, and {:.0}% is not waited for",
            times.tokens_per_sec,
            times.step_secs,
            times.compute_secs,
            times.exchange_secs,
            100.0 * times.hidden_share(),
            100.0 * times.covered_share()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The most memory that the process has had, as the system counts it; 0 where it does not tell.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
