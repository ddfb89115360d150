//! `hairpin plan fit POINTS`: a law from a user's own runs.

use std::{path::PathBuf, process::ExitCode};

use ::plan::{
    PlanError,
    laws::{Observation, PUBLISHED_DRIFT, fit},
};
use report::{Answer, Axis, Chart, Dot, DotKind, Series, Table};

use super::{Showing, count};

/// Fit E + A N^-a + B D^-b to runs of your own; `--json` gives a law that `--law` takes
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan fit runs.csv --json > law.json")]
pub(crate) struct FitArgs {
    /// CSV with the columns `params`, `tokens` and `loss` (nats per token)
    points: PathBuf,
    /// Bootstrap draws
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    draws: u32,
    /// Of the draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    showing: Showing,
}

pub(super) fn run(args: &FitArgs, json: bool) -> miette::Result<ExitCode> {
    let origin = args.points.display().to_string();
    let text = disk::read_text(&args.points, 64 << 20).map_err(|e| PlanError::Points { origin: origin.clone(), problem: e.to_string() })?;
    let points = fit::read(&text, &origin)?;
    let law = fit::fit(&points, &origin, args.draws as usize, args.seed)?;
    let best = law.best;
    let constant = |name: &str, value: f64, of: &dyn Fn(&::plan::laws::Parametric) -> f64| {
        let mut all: Vec<f64> = law.draws.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let at = |q: f64| all.get((q * all.len().saturating_sub(1) as f64).round() as usize).map_or("–".into(), |v| format!("{v:.4}"));
        vec![name.into(), format!("{value:.4}"), at(0.025), at(0.975)]
    };
    let rows = vec![
        constant("E", best.floor, &|l| l.floor),
        constant("A", best.params_scale, &|l| l.params_scale),
        constant("a", best.params_exponent, &|l| l.params_exponent),
        constant("B", best.tokens_scale, &|l| l.tokens_scale),
        constant("b", best.tokens_exponent, &|l| l.tokens_exponent),
        constant("N grows as C to the", best.params_share(), &|l| l.params_share()),
    ];
    let dot = |p: &Observation| Dot {
        name: format!("{} on {}", count(p.params), count(p.tokens)),
        x: best.loss(p.params, p.tokens),
        y: p.loss,
        kind: DotKind::Other,
    };
    let [low, high] = points.iter().fold([f64::INFINITY, 0.0_f64], |[l, h], p| [l.min(p.loss), h.max(p.loss)]);
    let equal = Series { name: "as the law says".into(), points: vec![(low, low), (high, high)], is_faint: false };
    let chart = Chart {
        x: Axis::straight("loss by the law"),
        y: Axis::straight("measured"),
        series: vec![equal],
        dots: points.iter().map(dot).collect(),
        ..Chart::default()
    };
    let answer = Answer {
        title: format!("A law from {} runs", points.len()),
        asked: vec![("runs", origin)],
        figures: vec![
            ("FLOPs fitted", format!("{:.1e} to {:.1e}", law.fitted.flops[0], law.fitted.flops[1])),
            ("95% of runs within", format!("{:.1}%", 100.0 * law.scatter_ratio)),
            ("each power of ten beyond them adds", format!("{:.1}% of the loss", 100.0 * law.drift_ratio)),
            ("draws kept", format!("{} of {}", law.draws.len(), args.draws)),
        ],
        charts: vec![("Measured and fitted", chart)],
        notes: vec![format!(
            "beyond its runs a law drifts: by {:.1}% a power of ten in published ladders, or by what the largest of these runs show of a law of the others, whichever is more",
            100.0 * PUBLISHED_DRIFT
        )],
        tables: vec![Table { title: "L = E + A N^-a + B D^-b, nats per token", head: vec!["constant", "best", "2.5%", "97.5%"], rows }],
        ..Answer::default()
    };
    args.showing.tell(&answer, &law, json)
}
