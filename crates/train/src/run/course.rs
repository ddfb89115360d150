//! The course of a run's held-out metric, and when it has turned for good: a run with `eval.patience` then ends by itself.

use serde::{Deserialize, Serialize};

use crate::metric::Metric;

/// Kept in checkpoints, so that a run that is killed counts on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The best so far, and after which step.
    pub best_step: u64,
    pub best: Metric,
    /// Measurements since, none of which was better.
    pub without_better: u64,
}

impl Course {
    /// After one more measurement; what is no number is no better.
    pub(super) fn with(before: Option<Self>, step: u64, metric: Metric) -> Self {
        match before {
            Some(before) if !metric.is_better_than(&before.best) => Self { without_better: before.without_better + 1, ..before },
            _ => Self { best_step: step, best: metric, without_better: 0 },
        }
    }

    pub(super) fn has_turned(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|most| self.without_better >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Better, MetricKind};

    static REWARD: MetricKind = MetricKind { name: "reward", unit: "reward", better: Better::Higher, divisor: 1.0 };

    #[test]
    fn it_has_turned_when_nothing_was_better_for_so_many_measurements() {
        let of = |values: &[f64]| {
            let measured = values.iter().zip(1..).map(|(value, step)| (step, Metric { kind: &REWARD, value: *value }));
            measured.fold(None, |before, (step, metric)| Some(Course::with(before, step, metric))).unwrap()
        };
        let rising = of(&[0.1, 0.2, 0.3]);
        assert!(rising.best_step == 3 && !rising.has_turned(Some(1)));
        let turned = of(&[0.1, 0.3, 0.2, f64::NAN]);
        assert_eq!((turned.best_step, turned.without_better), (2, 2));
        assert!(turned.has_turned(Some(2)) && !turned.has_turned(Some(3)) && !turned.has_turned(None));
        // What comes back in time goes on.
        assert_eq!(of(&[0.3, 0.2, 0.4, 0.3]).without_better, 1);
    }
}
