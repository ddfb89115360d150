//! The learning rate over a run, as a share of its peak.

use crate::recipe::{Schedule, ScheduleKind};

/// Share of the peak at update `step` (from 1) of `steps`: up in a line over the warm-up, then by a cosine (arXiv:1608.03983)
/// to the floor, or flat and in a line to the floor over the last `decay_ratio` (arXiv:2404.06395).
#[must_use]
pub fn share(schedule: &Schedule, step: u64, steps: u64) -> f32 {
    let warmup = schedule.warmup_steps.min(steps / 2);
    if step <= warmup {
        return step as f32 / warmup as f32;
    }
    let floor = schedule.floor_ratio;
    let after = match schedule.kind {
        ScheduleKind::Cosine => {
            let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
            0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
        }
        ScheduleKind::Wsd => {
            let decay = (f64::from(schedule.decay_ratio) * steps as f64).max(1.0);
            (steps.saturating_sub(step) as f64 / decay).min(1.0)
        }
    };
    floor + (1.0 - floor) * after as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_start_low_peak_at_one_and_end_at_the_floor() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Wsd] {
            let schedule = Schedule { kind, warmup_steps: 10, ..Schedule::default() };
            assert_eq!(share(&schedule, 1, 100), 0.1);
            assert_eq!(share(&schedule, 10, 100), 1.0);
            assert!((share(&schedule, 100, 100) - schedule.floor_ratio).abs() < 1e-6);
            assert!((1..=100).all(|step| (0.0..=1.0).contains(&share(&schedule, step, 100))));
        }
    }
}
