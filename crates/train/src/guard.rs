//! The spike guard: a step whose loss stands far above the last ones is noticed before it moves a weight.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::recipe::{self, GuardAction};

/// The last losses. Serialised into checkpoints, so that a resumed run judges as the first would have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    losses: VecDeque<f32>,
    /// Steps whose batches a rollback found bad: they are left out when they come again.
    pub left_out: Vec<u64>,
}

impl Guard {
    /// Whether `loss` is a spike: not finite, or above the median by `threshold` robust deviations (1.4826 times the
    /// median absolute one) and by a twentieth at least. A loss that is none is remembered.
    pub fn is_spike(&mut self, options: &recipe::Guard, loss: f32) -> bool {
        if options.action == GuardAction::Off {
            return false;
        }
        if !loss.is_finite() {
            return true;
        }
        if self.losses.len() >= options.window.max(8) / 2 {
            let median = median(self.losses.iter().copied());
            let deviation = 1.4826 * self::median(self.losses.iter().map(|l| (l - median).abs()));
            if loss > median + (options.threshold * deviation).max(0.05 * median.abs()) {
                return true;
            }
        }
        self.losses.push_back(loss);
        if self.losses.len() > options.window.max(8) {
            self.losses.pop_front();
        }
        false
    }
}

fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_passes_and_a_jump_or_nan_does_not() {
        let (mut guard, options) = (Guard::default(), recipe::Guard::default());
        for i in 0..100 {
            let noise = if i % 2 == 0 { 0.02 } else { -0.02 };
            assert!(!guard.is_spike(&options, 5.0 - 0.01 * i as f32 + noise), "step {i}");
        }
        assert!(guard.is_spike(&options, 8.0) && guard.is_spike(&options, f32::NAN));
        assert!(!guard.is_spike(&options, 4.0), "a spike leaves no trace");
        assert!(!guard.is_spike(&recipe::Guard { action: GuardAction::Off, ..options }, f32::NAN));
    }
}
