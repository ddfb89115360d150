//! Held-out loss: a number, lower than before, lower than counting gives, and where earlier phases say that it should be.

use super::{GateResult, Subject, result};
use crate::TrainError;

pub(super) fn is_finite(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "lower `optim.lr`, or lengthen `schedule.warmup_steps`";
    Ok(result("finite", s.bits_per_byte.is_finite(), bits(s.bits_per_byte), "a finite number".into(), help))
}

pub(super) fn better_than_before(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "train this phase longer, give it more data, or tune `optim.lr` for its size";
    Ok(match s.expected.before {
        None => result("better_than_before", true, bits(s.bits_per_byte), "no phase before".into(), ""),
        Some(before) => {
            result("better_than_before", s.bits_per_byte < before, bits(s.bits_per_byte), format!("below {}", bits(before)), help)
        }
    })
}

pub(super) fn better_than_ngram(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let help = "train longer: the model has not yet learnt what counting three tokens tells";
    let wanted = format!("below {} of a trigram", bits(s.expected.baseline));
    Ok(result("better_than_ngram", s.bits_per_byte < s.expected.baseline, bits(s.bits_per_byte), wanted, help))
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
