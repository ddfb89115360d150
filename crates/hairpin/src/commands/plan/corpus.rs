//! `hairpin plan data`: what a corpus holds and costs.

use std::process::ExitCode;

use ::plan::{
    laws::train_flops,
    questions::corpus::{Plan, Question, Source, plan},
    questions::reading::Reading,
};
use report::{
    Answer, Axis, Chart, Series, Table,
    terminal::{bytes, secs, usd},
};

use super::{Showing, count, given};

/// Tokens from bytes, what repeats are worth, storage, and the time to clean and tokenise on a cluster
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan data web=en:1.9TB 'books=de:300GB x4' code=code:200GB --kept 0.5 --nodes 8")]
pub(crate) struct CorpusArgs {
    /// NAME=LANGUAGE:AMOUNT, with ` x4` behind it to see it four times
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Share of the bytes that cleaning and dropping duplicates leave
    #[arg(long, default_value_t = 1.0, value_parser = given::share)]
    kept: f64,
    /// Size of the vocabulary
    #[arg(long, default_value_t = 50_304, value_parser = clap::value_parser!(u32).range(256..=100_000_000))]
    vocab: u32,
    /// Instance that cleans and tokenises
    #[arg(long, value_name = "INSTANCE", default_value = "c7i.48xlarge")]
    on: String,
    /// How many of the instance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    nodes: u64,
    /// How long text and shards are kept
    #[arg(long, value_name = "TIME", default_value = "3 months", value_parser = given::secs)]
    keep: f64,
    #[command(flatten)]
    showing: Showing,
}

pub(super) fn run(args: &CorpusArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.showing.catalogue()?;
    let vocab = args.vocab as usize;
    let question = Question {
        sources: args.sources.iter().map(|s| Source::parse(s, &catalogue, vocab)).collect::<Result<_, _>>()?,
        kept_ratio: args.kept,
        vocab,
        on: args.on.clone(),
        nodes: args.nodes,
        months: args.keep / (30.44 * 86_400.0),
    };
    let plan = plan(&question, &catalogue)?;
    args.showing.tell(&answer(&question, &plan), &plan, json)
}

fn answer(question: &Question, plan: &Plan) -> Answer {
    let kept = question.kept_ratio;
    let source = |s: &Source| {
        vec![
            s.name.clone(),
            s.language.clone(),
            bytes(s.bytes as u64),
            format!("{:.2}", s.bytes / s.tokens),
            count(kept * s.tokens),
            format!("{:.1}", s.epochs),
            count(kept * s.tokens * s.epochs),
        ]
    };
    let reading = Reading::of_tokens(plan.unique_tokens);
    // The size that those tokens are best for, twenty to a parameter.
    let params = plan.worth_tokens / 20.0;
    let curve = |name: &str, of: fn(&(f64, f64, f64)) -> f64| Series {
        name: name.into(),
        points: plan.repeats.iter().map(|r| (r.0, of(r))).collect(),
        is_faint: false,
    };
    Answer {
        title: format!("{} tokens of text", count(plan.unique_tokens)),
        asked: vec![
            ("kept", format!("{:.0}%", 100.0 * kept)),
            ("vocabulary", question.vocab.to_string()),
            ("on", format!("{} x {} at {}/h ({})", question.nodes, question.on, usd(plan.price.usd_per_hour), plan.price.when())),
        ],
        figures: vec![
            ("new tokens", count(plan.unique_tokens)),
            ("tokens seen", count(plan.seen_tokens)),
            ("worth, in new tokens", count(plan.worth_tokens)),
            ("to prepare", secs(plan.secs)),
            ("for", usd(plan.usd)),
            ("a person's reading", format!("{} years", count(reading.years))),
        ],
        charts: vec![(
            "What seeing everything again is worth",
            Chart {
                x: Axis::log("epochs"),
                y: Axis::log("tokens"),
                series: vec![curve("seen", |r| r.1), curve("worth, in new tokens", |r| r.2)],
                ..Chart::default()
            },
        )],
        tables: vec![
            Table {
                title: "Sources",
                head: vec!["source", "language", "text", "bytes each", "new tokens", "epochs", "tokens seen"],
                rows: plan.sources.iter().map(source).collect(),
            },
            Table {
                title: "Repeating everything",
                head: vec!["epochs", "tokens seen", "worth in new tokens", "of each"],
                rows: plan.repeats.iter().map(|r| vec![format!("{:.0}", r.0), count(r.1), count(r.2), format!("{:.0}%", 100.0 * r.2 / r.1)]).collect(),
            },
            Table {
                title: "Preparing",
                head: vec!["stage", "text", "time", "bound by"],
                rows: plan.stages.iter().map(|s| vec![s.name.clone(), bytes(s.bytes as u64), secs(s.secs), s.bound.into()]).collect(),
            },
            Table {
                title: "Keeping",
                head: vec!["where", "text", "shards", "cost"],
                rows: plan.stores.iter().map(|s| vec![s.name.clone(), bytes(s.raw_bytes as u64), bytes(s.shard_bytes as u64), usd(s.usd)]).collect(),
            },
        ],
        notes: vec![
            format!(
                "best for about {} parameters, {:.1e} FLOP; a person reads it in {} hours without a pause",
                count(params),
                train_flops(params, plan.worth_tokens),
                count(reading.hours)
            ),
            "repeats: arXiv:2305.16264; four epochs are nearly as good as new data".into(),
            "`hairpin data` prepares a corpus on one machine today: a share of the files on each node misses near duplicates between shares".into(),
            "rates: measured on one vCPU of ours (crates/plan/src/catalogue/pipeline.toml); every vCPU is taken to do as much, and the network four fifths of its rate".into(),
        ],
        warnings: plan.price.warning().into_iter().collect(),
        ..Answer::default()
    }
}
