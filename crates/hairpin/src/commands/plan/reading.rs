//! `hairpin plan reading`: a corpus in a reader's time, beside an accelerator's.

use std::process::ExitCode;

use ::plan::{PlanError, efficiency, laws::train_flops, reading::Reading, units};
use report::{Answer, Axis, Chart, Dot, DotKind, Table, terminal::secs};

use super::{Showing, count};

/// How long a person would read what a model is trained on
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan reading --pages 5.74B --secs-per-page 52
         hairpin plan reading --tokens 1T --params 40B --on p4d.24xlarge")]
pub(crate) struct ReadingArgs {
    /// Pages
    #[arg(long, conflicts_with = "tokens", required_unless_present = "tokens")]
    pages: Option<String>,
    /// Seconds that a page takes
    #[arg(long, default_value_t = 52.0)]
    secs_per_page: f64,
    /// Tokens of English instead of pages, at 238 words a minute
    #[arg(long)]
    tokens: Option<String>,
    /// Parameters of the model that reads the same tokens in training
    #[arg(long, requires = "tokens")]
    params: Option<String>,
    /// Instance that trains it
    #[arg(long, value_name = "INSTANCE", default_value = "p4d.24xlarge")]
    on: String,
    #[command(flatten)]
    showing: Showing,
}

pub(super) fn run(args: &ReadingArgs, json: bool) -> miette::Result<ExitCode> {
    let what = args.pages.as_ref().or(args.tokens.as_ref()).cloned().unwrap_or_default();
    let amount = units::count(&what)?;
    let reading = if args.tokens.is_some() {
        Reading::of_tokens(amount)
    } else if args.secs_per_page > 0.0 && args.secs_per_page.is_finite() {
        Reading::of_pages(amount, args.secs_per_page)
    } else {
        return Err(PlanError::Unit { text: args.secs_per_page.to_string(), problem: "seconds read no page".into(), example: "52" }.into());
    };
    let catalogue = args.showing.catalogue()?;
    let instance = catalogue.instance(&args.on)?;
    let accelerator = catalogue.accelerator_of(instance)?;
    let params = args.params.as_deref().map(units::count).transpose()?;
    let mfu = params.map(|n| efficiency::on_fewest(&catalogue, instance, n, 4096.0, None)).transpose()?;
    let rate = mfu.as_ref().map(|mfu| accelerator.peak_tflops * 1e12 * mfu.kept());
    let accelerator_secs = params.zip(rate).map(|(n, rate)| train_flops(n, amount) / rate);
    let mut rows = vec![
        vec!["hours without a pause".into(), count(reading.hours)],
        vec!["years without a pause".into(), count(reading.years)],
        vec!["working years of 2,000 hours".into(), count(reading.working_years)],
    ];
    let mut dots = vec![Dot { name: "a person, without a pause".into(), x: 1.0, y: reading.hours / 24.0, kind: DotKind::Step }];
    if let Some(secs) = accelerator_secs {
        rows.push(vec![format!("{}-days to train on it", accelerator.name), count(secs / 86_400.0)]);
        for n in [1.0, 8.0, 64.0, 512.0] {
            dots.push(Dot { name: format!("{n:.0} {}", accelerator.name), x: n, y: secs / 86_400.0 / n, kind: DotKind::Other });
        }
    }
    let answer = Answer {
        title: format!("{} {} to read", count(amount), if args.tokens.is_some() { "tokens" } else { "pages" }),
        asked: if args.tokens.is_some() { vec![] } else { vec![("a page", secs(args.secs_per_page))] },
        figures: vec![("hours", count(reading.hours)), ("working years", count(reading.working_years))],
        charts: vec![("Days", Chart { x: Axis::log("readers"), y: Axis::log("days"), dots, ..Chart::default() })],
        tables: vec![Table { title: "Reading it", head: vec!["", "count"], rows }],
        notes: params
            .zip(mfu)
            .map(|(n, mfu)| format!("{} parameters at {:.0}% of peak: {}", count(n), 100.0 * mfu.ratio, mfu.source))
            .into_iter()
            .chain(args.tokens.as_ref().map(|_| "238 words a minute (doi:10.1016/j.jml.2019.104047), 0.77 words a token".into()))
            .collect(),
        warnings: vec![],
    };
    args.showing.tell(&answer, &serde_json::json!({"reading": reading, "accelerator_secs": accelerator_secs}), json)
}
