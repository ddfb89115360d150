//! `hairpin plan reading`: a corpus in a reader's time, beside an accelerator's.

use std::process::ExitCode;

use ::plan::{laws::train_flops, questions::reading::Reading, simulation::efficiency};
use report::{Answer, Axis, Chart, Dot, DotKind, Table, terminal::secs};

use super::{Showing, count, given};

/// How long a person would read what a model is trained on
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan reading --pages 5.74B --secs-per-page 52
         hairpin plan reading --tokens 1T --params 40B --on p4d.24xlarge")]
pub(crate) struct ReadingArgs {
    /// Pages
    #[arg(long, conflicts_with = "tokens", required_unless_present = "tokens", value_parser = given::count)]
    pages: Option<f64>,
    /// Seconds that a page takes
    #[arg(long, default_value = "52", value_parser = given::number)]
    secs_per_page: f64,
    /// Tokens of English instead of pages, at 238 words a minute
    #[arg(long, value_parser = given::count)]
    tokens: Option<f64>,
    /// Parameters of the model that reads the same in training; default: one for every twenty tokens
    #[arg(long, value_parser = given::count)]
    params: Option<f64>,
    /// Instance that trains it
    #[arg(long, value_name = "INSTANCE", default_value = "p4d.24xlarge")]
    on: String,
    #[command(flatten)]
    showing: Showing,
}

/// What a size is best for: arXiv:2203.15556, table 3.
const TOKENS_PER_PARAM: f64 = 20.0;

pub(super) fn run(args: &ReadingArgs, json: bool) -> miette::Result<ExitCode> {
    let amount = args.pages.or(args.tokens).unwrap_or_default();
    let reading = if args.tokens.is_some() { Reading::of_tokens(amount) } else { Reading::of_pages(amount, args.secs_per_page) };
    let tokens = if args.tokens.is_some() { amount } else { reading.tokens() };
    let catalogue = args.showing.catalogue()?;
    let instance = catalogue.instance(&args.on)?;
    let accelerator = catalogue.accelerator_of(instance)?;
    let params = args.params.unwrap_or(tokens / TOKENS_PER_PARAM);
    // A size that nobody asked for and no cluster holds is not worth a refusal.
    let mfu = match efficiency::on_fewest(&catalogue, instance, params, 4096.0, None) {
        Err(e) if args.params.is_some() => return Err(e.into()),
        result => result.ok(),
    };
    let accelerator_secs = mfu.as_ref().map(|mfu| train_flops(params, tokens) / (accelerator.peak_tflops * 1e12 * mfu.kept()));
    let mut rows = vec![
        vec!["hours without a pause".into(), count(reading.hours)],
        vec!["years without a pause".into(), count(reading.years)],
        vec!["working years of 2,000 hours".into(), count(reading.working_years)],
    ];
    let mut figures = vec![("hours", count(reading.hours)), ("working years", count(reading.working_years))];
    let mut dots = vec![Dot { name: "a person, without a pause".into(), x: 1.0, y: reading.hours / 24.0, kind: DotKind::Step }];
    if let Some(secs) = accelerator_secs {
        let days = secs / 86_400.0;
        rows.push(vec![format!("{}-days to train {} parameters on it", accelerator.name, count(params)), count(days)]);
        figures.push(("accelerator-days", count(days)));
        for n in [1.0, 8.0, 64.0, 512.0] {
            dots.push(Dot { name: format!("{n:.0} {}", accelerator.name), x: n, y: days / n, kind: DotKind::Other });
        }
    }
    let mut notes = vec!["238 words a minute (doi:10.1016/j.jml.2019.104047), 0.77 words a token".to_owned()];
    notes.extend(mfu.map(|mfu| format!("{} parameters at {:.0}% of peak: {}", count(params), 100.0 * mfu.ratio, mfu.source)));
    let answer = Answer {
        title: format!("{} {} to read", count(amount), if args.tokens.is_some() { "tokens" } else { "pages" }),
        asked: if args.tokens.is_some() {
            vec![("tokens", count(tokens))]
        } else {
            vec![("a page", secs(args.secs_per_page)), ("about as many tokens", count(tokens))]
        },
        figures,
        charts: vec![("Days", Chart { x: Axis::log("readers"), y: Axis::log("days"), dots, ..Chart::default() })],
        tables: vec![Table { title: "Reading it", head: vec!["", "count"], rows }],
        notes,
        ..Answer::default()
    };
    let value = serde_json::json!({"reading": reading, "tokens": tokens, "params": params, "accelerator_secs": accelerator_secs});
    args.showing.tell(&answer, &value, json)
}
