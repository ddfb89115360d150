//! Held-out loss: a number, lower than before, lower than counting gives, and where earlier phases say that it should be.

use super::{GateResult, Subject, result};
use crate::{
    TrainError,
    eval::HeldOut,
    metrics,
    recipe::{Recipe, Train},
    run,
};

pub(super) fn is_finite(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "lower `optim.lr`, or lengthen `schedule.warmup_steps`";
    Ok(result("finite", s.bits_per_byte.is_finite(), bits(s.bits_per_byte), "a finite number".into(), help))
}

pub(super) fn better_than_before(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    Ok(match &s.expected.before {
        None => result("better_than_before", true, bits(s.bits_per_byte), "no phase before".into(), ""),
        Some(before) => better_than("better_than_before", s, before, "of the phase before"),
    })
}

pub(super) fn better_than_ngram(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    Ok(better_than("better_than_ngram", s, &s.expected.baseline, "of a trigram"))
}

/// How many standard errors of the difference are no difference yet.
const ALLOWED_ERRORS: f64 = 2.0;

/// Not above `other` by more than the noise of the windows on which both were measured.
fn better_than(name: &str, s: &Subject<'_>, other: &HeldOut, whose: &str) -> GateResult {
    let own = HeldOut { bits_per_byte: s.bits_per_byte, windows: s.windows.clone() };
    let (above, error) = own.above(other);
    let allowed = ALLOWED_ERRORS * error.unwrap_or(0.0);
    let noise = |error: Option<f64>| error.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let measured = format!(
        "{:.4}{} bits per byte over {} windows, {above:+.4}{} from that {whose}",
        s.bits_per_byte,
        noise(own.standard_error()),
        s.windows.len(),
        noise(error)
    );
    let wanted = format!(
        "below {:.4}{} {whose}, or within two standard errors of the difference, {allowed:.4}",
        other.bits_per_byte,
        noise(other.standard_error())
    );
    let passed = above < allowed;
    // What would do is found in the run's folder: only where it did not.
    let help = if passed { String::new() } else { longer(s, other.bits_per_byte + allowed) };
    result(name, passed, measured, wanted, &help)
}

/// How many steps would do at the least, and whether the phase goes on.
fn longer(s: &Subject<'_>, target: f64) -> String {
    let steps = s.loaded.recipe.train.steps;
    let (measured, _) = metrics::read(&s.folder.join("metrics.jsonl"));
    let measured: Vec<(u64, f64)> = measured.iter().filter_map(|line| Some((line.step, line.bits_per_byte?))).collect();
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
    Ok(match s.expected.bits_per_byte {
        None => result("as_expected", true, bits(s.bits_per_byte), "no law before two phases".into(), ""),
        Some([low, high]) => {
            let wanted = format!("{low:.3} to {high:.3} bits per byte");
            result("as_expected", (low..=high).contains(&s.bits_per_byte), bits(s.bits_per_byte), wanted, help)
        }
    })
}

fn bits(value: f64) -> String {
    format!("{value:.4} bits per byte")
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
