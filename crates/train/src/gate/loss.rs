//! Held-out loss: a number, lower than before, lower than counting gives, and where earlier phases say that it should be.

use super::{GateResult, Subject, result};
use crate::{
    TrainError,
    held_out::HeldOut,
    metric::Better,
    metrics,
    recipe::{Recipe, Train},
    run,
};

pub(super) fn is_finite(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "lower `optim.lr`, or lengthen `schedule.warmup_steps`";
    Ok(result("finite", s.held_out.metric.value.is_finite(), s.held_out.metric.to_string(), "a finite number".into(), help))
}

pub(super) fn better_than_before(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    Ok(match &s.expected.before {
        None => result("better_than_before", true, s.held_out.metric.to_string(), "no phase before".into(), ""),
        Some(before) => better_than("better_than_before", s, before, "of the phase before"),
    })
}

pub(super) fn better_than_baseline(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    Ok(match &s.expected.baseline {
        None => result("better_than_ngram", true, s.held_out.metric.to_string(), "no naive model".into(), ""),
        Some((baseline, whose)) => better_than("better_than_ngram", s, baseline, whose),
    })
}

/// How many standard errors of the difference are no difference yet.
const ALLOWED_ERRORS: f64 = 2.0;

/// Not above `other` by more than the noise of the windows on which both were measured.
fn better_than(name: &str, s: &Subject<'_>, other: &HeldOut, whose: &str) -> GateResult {
    let (own, unit) = (&s.held_out, s.held_out.metric.kind.unit);
    let (above, error) = own.above(other);
    // Positive is worse, whichever way the metric gets better.
    let worse = if own.metric.kind.better == Better::Lower { above } else { -above };
    let allowed = ALLOWED_ERRORS * error.unwrap_or(0.0);
    let noise = |error: Option<f64>| error.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let measured = format!(
        "{:.4}{} {unit} over {} samples, {above:+.4}{} from that {whose}",
        own.metric.value,
        noise(own.standard_error()),
        own.samples.len(),
        noise(error)
    );
    let side = if own.metric.kind.better == Better::Lower { "below" } else { "above" };
    let wanted = format!(
        "{side} {:.4}{} {whose}, or within two standard errors of the difference, {allowed:.4}",
        other.metric.value,
        noise(other.standard_error())
    );
    let passed = worse < allowed;
    // What would do is found in the run's folder: only where it did not.
    let help = if passed { String::new() } else { longer(s, other.metric.value + above.signum() * allowed) };
    result(name, passed, measured, wanted, &help)
}

/// How many steps would do at the least, and whether the phase goes on.
fn longer(s: &Subject<'_>, target: f64) -> String {
    let steps = s.loaded.recipe.train.steps;
    let (measured, _) = metrics::read(&s.folder.join("metrics.jsonl"));
    let measured: Vec<(u64, f64)> = measured.iter().filter_map(|line| Some((line.step, line.held_out?.value))).collect();
    let least = least_steps(&measured, target).unwrap_or(2 * steps);
    let recipe = Recipe { train: Train { steps: least, ..s.loaded.recipe.train.clone() }, ..s.loaded.recipe.clone() };
    let goes_on = run::standing(s.folder, &recipe, None).is_ok_and(|standing| !standing.checkpoints.is_empty());
    let how =
        if goes_on { "the phase goes on from where its learning rate had not come down" } else { "`hairpin climb --anew` begins it again" };
    format!("train longer: at least {least} steps in place of {steps} (`train.steps`), at the rate at which the loss last fell; {how}")
}

/// The steps after which the loss would be `target`, if it goes on falling with the logarithm of steps as between the last two
/// measurements; within ten times those that were made.
fn least_steps(measured: &[(u64, f64)], target: f64) -> Option<u64> {
    let [.., (first, high), (last, low)] = *measured else { return None };
    let slope = (high - low) / (last as f64 / first as f64).ln();
    let steps = last as f64 * ((low - target) / slope).exp();
    (slope > 0.0 && steps.is_finite()).then(|| (steps.ceil() as u64).clamp((11 * last).div_ceil(10), 10 * last))
}

pub(super) fn as_expected(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "above: look for a learning rate that does not suit this size, or data that differs; below: look for held-out text in the training data";
    let metric = s.held_out.metric;
    Ok(match s.expected.interval {
        None => result("as_expected", true, metric.to_string(), "no law before two phases".into(), ""),
        Some([low, high]) => {
            let wanted = format!("{low:.3} to {high:.3} {}", metric.kind.unit);
            result("as_expected", (low..=high).contains(&metric.value), metric.to_string(), wanted, help)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_steps_follow_the_last_fall_of_the_loss() {
        // One bit for each doubling.
        assert_eq!(least_steps(&[(50, 9.0), (100, 5.0), (200, 4.0)], 3.0), Some(400));
        assert_eq!(least_steps(&[(100, 5.0), (200, 4.0)], 3.99), Some(220), "a tenth more at the least");
        assert_eq!(least_steps(&[(100, 5.0), (200, 4.0)], -90.0), Some(2000));
        assert_eq!(least_steps(&[(100, 4.0), (200, 4.1)], 3.0), None, "it rose");
        assert_eq!(least_steps(&[(100, 4.0)], 3.0), None);
    }
}
