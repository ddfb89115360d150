//! What a phase that learns from feedback has to pass before the next one begins, beside the gates that are asked of every phase.

use train::{
    TrainError,
    gate::{Gate, GateResult, Subject, result},
    metrics, objective,
};

use crate::objectives::{RANKING_ACCURACY, REWARD};

/// Every gate of this crate.
pub(crate) const GATES: &[Gate] = &[
    Gate { name: "orders", is_for: |s| s.held_out.metric.kind.name == RANKING_ACCURACY.name, pass: orders },
    Gate { name: "preferred", is_for: |s| s.held_out.metric.kind.name == REWARD.name, pass: preferred },
];

/// How many standard errors are no difference yet.
const ALLOWED_ERRORS: f64 = 2.0;

/// Held-out rankings are ordered better than by a coin.
fn orders(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let accuracy = s.held_out.metric.value;
    let error = s.held_out.standard_error().unwrap_or(0.5);
    let (share, least) = (|share: f64| format!("{:.1}%", 100.0 * share), 0.5 + ALLOWED_ERRORS * error);
    let measured = format!("{} ± {} of {} rankings' pairs", share(accuracy), share(error), s.held_out.samples.len());
    let help = "more rankings, or rankers who agree: `hairpin align stats` tells; `hairpin align inspect` tells what it leans on";
    Ok(result("orders", accuracy > least, measured, format!("above {}, a coin and two standard errors", share(least)), help))
}

/// What it writes after held-out prompts is judged better than what the model wrote that it began as, and it has not left that model
/// further behind than the recipe allows (`objective.kl_most`).
fn preferred(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let Some((base, _)) = &s.expected.baseline else {
        return Ok(result("preferred", true, s.held_out.metric.to_string(), "no model before".into(), ""));
    };
    let pairs = s.held_out.samples.iter().zip(&base.samples);
    let differences: Vec<f64> = pairs.map(|(ours, theirs)| ours.loss - theirs.loss).collect();
    let count = differences.len().max(1) as f64;
    let [wins, losses] = [1.0, -1.0].map(|sign| differences.iter().filter(|d| sign * **d > 0.0).count() as f64 / count);
    let ahead = wins - losses;
    let error = ((wins + losses - ahead * ahead) / count).max(0.0).sqrt();
    let (lines, _) = metrics::read(&s.folder.join("metrics.jsonl"));
    let kl = lines.iter().rev().find_map(|line| line.figures.get("kl").copied());
    let kl_most = s.loaded.recipe.objective.get("kl_most").and_then(|most| most.as_float().or(most.as_integer().map(|most| most as f64)));
    let measured = format!(
        "wins {:.1}%, loses {:.1}% of {} prompts, reward {:.3} against {:.3}, {}",
        100.0 * wins,
        100.0 * losses,
        differences.len(),
        s.held_out.metric.value,
        base.metric.value,
        kl.map_or("divergence unknown".into(), |kl| format!("{kl:.2} nats a response"))
    );
    let bound = kl_most.map_or(String::new(), |most| format!(", at {most} nats a response at most"));
    let is_near = kl_most.is_none_or(|most| kl.is_some_and(|kl| kl <= most));
    let passed = ahead > ALLOWED_ERRORS * error && is_near;
    let help = match objective::name(&s.loaded.recipe) {
        _ if !is_near => "raise `objective.kl_coef`, set `objective.kl_target`, or train for fewer steps",
        "grpo" => "more steps, a larger `objective.group`, or a larger `optim.lr`",
        _ => "more steps, more `objective.rollouts`, or a larger `optim.lr`; look at the reward in `hairpin report`",
    };
    Ok(result("preferred", passed, measured, format!("more wins than losses by two standard errors{bound}"), help))
}
