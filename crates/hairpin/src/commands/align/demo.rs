//! The loop of feedback as a demo: what came of it for a terminal, and as a page.

use std::{path::PathBuf, process::ExitCode, sync::atomic::Ordering};

use ::align::demo;
use report::{Answer, Axis, Chart, Dot, DotKind, Series, Table};
use serde_json::json;

use super::{of_verdict, stopped};
use crate::{STOP, print, progress::Follow};

/// See the loop work: answers ranked by people who do not quite agree, a reward model, PPO, other people as judges; some minutes
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin align demo\n\nRun it again and it goes on where it stopped. Delete its folder to start anew.")]
pub(crate) struct DemoArgs {
    /// Folder for all parts of it
    #[arg(long, default_value = "hairpin-align-demo")]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: &DemoArgs, json: bool) -> miette::Result<ExitCode> {
    let mut follow = Follow::new();
    let reading = Follow::new();
    let outcome = demo::run(&args.out, args.seed, &STOP, &reading, &mut follow)?;
    follow.end();
    let Some(outcome) = outcome.filter(|_| !STOP.load(Ordering::Relaxed)) else { return Ok(stopped()) };
    let (page, path) = (of_outcome(&outcome), args.out.join("report.html"));
    page.write(&path)?;
    if json {
        let mut value = serde_json::to_value(&outcome).map_err(|e| miette::miette!("{e}"))?;
        value["report"] = json!(path);
        print::json(&value)?;
    } else {
        print::result(&format!("{}\n{}report: {}", page.text(), of_verdict(&outcome.verdict), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The loop's outcome for a terminal and as a page.
fn of_outcome(outcome: &demo::Outcome) -> Answer {
    let share = |share: f64| format!("{:.1}%", 100.0 * share);
    let beside = |bits: f64| format!("{bits:.4} ({:+.2}%)", 100.0 * (bits / outcome.bits_per_byte_before - 1.0));
    let v = &outcome.verdict;
    let dot = |kind: DotKind, name: String, x: f64, y: f64| Dot { name, x, y, kind };
    let step = |name: &str, y: fn(&demo::Point) -> f64| Chart {
        x: Axis::straight("step"),
        y: Axis::straight(name),
        series: vec![Series { name: name.into(), points: outcome.curve.iter().map(|p| (p.step as f64, y(p))).collect(), is_faint: false }],
        ..Chart::default()
    };
    let chart = |x: Axis, y: Axis, dots: Vec<Dot>| Chart { x, y, dots, ..Chart::default() };
    let optimised = |y: fn(&demo::Optimised) -> f64| -> Vec<Dot> {
        let kind = |one: &demo::Optimised| if one.step == outcome.best_step { DotKind::Chosen } else { DotKind::Step };
        outcome.optimised.iter().map(|one| dot(kind(one), format!("step {}", one.step), one.kl, y(one))).collect()
    };
    Answer {
        title: "Learning from feedback: what customers are answered, before and after".into(),
        figures: vec![
            ("wins to a loss", format!("{:.2}", v.ratio)),
            ("wins", share(v.win_rate)),
            ("losses", share(v.loss_rate)),
            ("divergence, nats a response", v.kl.map_or("–".into(), |kl| format!("{kl:.2}"))),
            ("pairs the reward model orders right", share(outcome.reward_accuracy)),
            ("pairs length alone orders right", share(outcome.length_accuracy)),
            ("the corpus, before", format!("{:.4} bits per byte", outcome.bits_per_byte_before)),
            ("after", beside(outcome.bits_per_byte_after)),
            ("after as many steps without pretraining gradients", beside(outcome.bits_per_byte_without)),
        ],
        charts: vec![
            ("Reward of rollouts", step("reward", |p| p.reward)),
            ("Divergence from the base", step("nats a response", |p| p.kl)),
            (
                "What it was trained for: reward of held-out prompts",
                chart(Axis::straight("divergence, nats"), Axis::straight("reward"), optimised(|one| one.reward)),
            ),
            (
                "What that is worth: wins less losses by the judge",
                chart(
                    Axis::straight("divergence, nats"),
                    Axis::straight("wins less losses"),
                    optimised(|one| one.win_rate - one.loss_rate),
                ),
            ),
        ],
        tables: vec![
            Table {
                title: "Before and after",
                head: vec!["prompt", "before", "after"],
                rows: outcome
                    .samples
                    .iter()
                    .map(|one| [&one.prompt, &one.before, &one.after].map(|text| text.trim().to_owned()).to_vec())
                    .collect(),
            },
            Table {
                title: "On the way",
                head: vec!["step", "divergence", "reward", "wins", "losses"],
                rows: outcome
                    .optimised
                    .iter()
                    .map(|one| {
                        vec![
                            one.step.to_string(),
                            format!("{:.2}", one.kl),
                            format!("{:.2}", one.reward),
                            share(one.win_rate),
                            share(one.loss_rate),
                        ]
                    })
                    .collect(),
            },
        ],
        notes: vec![
            "prompts are held out: neither the reward model nor the policy saw them".into(),
            format!("the checkpoint of step {} is taken, whose reward of held-out prompts is the highest", outcome.best_step),
        ],
        ..Answer::default()
    }
}
