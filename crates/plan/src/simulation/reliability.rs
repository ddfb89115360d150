//! What failures cost: how often a cluster fails, how often to save, and how much of the paid time is training.
//!
//! Failures are taken as independent and rare, so a cluster of n accelerators fails n times as often as one. The best
//! interval is Young's (doi:10.1145/361147.361115) as Daly bettered it (doi:10.1016/j.future.2004.11.016, eq. 37), and the
//! time that a run takes is Daly's eq. 13.

use serde::Serialize;

use crate::PlanError;

/// Hours of one accelerator between unexpected stops: 419 in 54 days on 16,384 H100, arXiv:2407.21783, section 3.3.4.
///
/// ```
/// assert!((plan::simulation::reliability::HOURS_BETWEEN_FAILURES / (54.0 * 24.0 * 16_384.0 / 419.0) - 1.0).abs() < 0.001);
/// ```
pub const HOURS_BETWEEN_FAILURES: f64 = 50_677.0;
/// From a stop to the first new step: noticing, replacing the machine, loading. Ten minutes, near what arXiv:2407.21783 tells.
pub const RESTART_SECS: f64 = 600.0;
/// Weights in 16 bits, and master weights and two moments in 32.
pub const CHECKPOINT_BYTES_PER_PARAM: f64 = 14.0;

/// A cluster and what it saves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cluster {
    pub accelerators: f64,
    /// Of one accelerator.
    pub hours_between_failures: f64,
    /// How long the step waits for a checkpoint.
    pub checkpoint_secs: f64,
    pub restart_secs: f64,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reliability {
    pub secs_between_failures: f64,
    /// Between checkpoints.
    pub interval_secs: f64,
    /// Of the paid time, the share that is training kept.
    pub goodput_ratio: f64,
}

/// What a node writes to a shared file system: BLOOM's 2.3 TB in 40 s from 48 nodes (its chronicles, bigscience-workshop).
const NODE_WRITES_BYTES_PER_SEC: f64 = 1.2e9;

/// Seconds that `nodes` nodes take to write a checkpoint of `params` parameters.
#[must_use]
pub fn checkpoint_secs(params: f64, nodes: f64) -> f64 {
    params * CHECKPOINT_BYTES_PER_PARAM / (nodes * NODE_WRITES_BYTES_PER_SEC)
}

/// What to expect of `accelerators` on `nodes` nodes that train `params` parameters, where nothing is known of their failures.
/// # Errors
/// As [`plan`].
pub fn usual(params: f64, accelerators: f64, nodes: f64) -> Result<Reliability, PlanError> {
    plan(&Cluster {
        accelerators,
        hours_between_failures: HOURS_BETWEEN_FAILURES,
        checkpoint_secs: checkpoint_secs(params, nodes),
        restart_secs: RESTART_SECS,
    })
}

/// The best interval and what it leaves of the time.
/// # Errors
/// [`PlanError::Impossible`] when the cluster fails before it can save.
///
/// ```
/// use plan::simulation::reliability::{plan, Cluster, HOURS_BETWEEN_FAILURES};
/// // Llama 3.1 405B: 16,384 accelerators, "more than 90% effective time", arXiv:2407.21783, section 3.3.4.
/// let cluster = Cluster { accelerators: 16_384.0, hours_between_failures: HOURS_BETWEEN_FAILURES, checkpoint_secs: 10.0, restart_secs: 600.0 };
/// let plan = plan(&cluster)?;
/// assert!((plan.secs_between_failures / 3600.0 - 3.1).abs() < 0.1);
/// assert!(plan.goodput_ratio > 0.90 && plan.goodput_ratio < 0.95);
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn plan(cluster: &Cluster) -> Result<Reliability, PlanError> {
    let mean = cluster.hours_between_failures * 3600.0 / cluster.accelerators;
    let save = cluster.checkpoint_secs;
    if save >= 2.0 * mean || cluster.restart_secs >= mean {
        return Err(PlanError::Impossible {
            problem: format!(
                "{:.0} accelerators fail every {mean:.0} s, and saving takes {save:.0} s and starting again {:.0} s: such a run does not come forward",
                cluster.accelerators, cluster.restart_secs
            ),
            relax: format!(
                "use fewer than {:.0} accelerators, or save and restart faster",
                cluster.hours_between_failures * 3600.0 / (save / 2.0).max(cluster.restart_secs)
            ),
        });
    }
    let ratio = save / (2.0 * mean);
    let interval = (2.0 * save * mean).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - save;
    let interval = interval.max(1.0);
    // Time for `interval` of work: mean e^(restart / mean) (e^((interval + save) / mean) - 1).
    let paid = mean * (cluster.restart_secs / mean).exp() * (((interval + save) / mean).exp_m1());
    Ok(Reliability { secs_between_failures: mean, interval_secs: interval, goodput_ratio: interval / paid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goodput_at(cluster: &Cluster, interval: f64) -> f64 {
        let mean = cluster.hours_between_failures * 3600.0 / cluster.accelerators;
        interval / (mean * (cluster.restart_secs / mean).exp() * ((interval + cluster.checkpoint_secs) / mean).exp_m1())
    }

    #[test]
    fn no_other_interval_keeps_more() {
        for (accelerators, save) in [(8.0, 5.0), (512.0, 40.0), (16_384.0, 60.0)] {
            let cluster =
                Cluster { accelerators, hours_between_failures: HOURS_BETWEEN_FAILURES, checkpoint_secs: save, restart_secs: 600.0 };
            let best = plan(&cluster).unwrap();
            for shift in [0.5, 0.8, 1.25, 2.0] {
                assert!(goodput_at(&cluster, best.interval_secs * shift) <= best.goodput_ratio + 1e-9);
            }
        }
    }

    #[test]
    fn a_simulated_run_takes_the_time_that_the_formula_says() {
        let cluster =
            Cluster { accelerators: 16_384.0, hours_between_failures: HOURS_BETWEEN_FAILURES, checkpoint_secs: 60.0, restart_secs: 600.0 };
        let best = plan(&cluster).unwrap();
        // Failures from an exponential law, stops during restarts included, until 200 days of work are kept.
        let (mut state, mut paid, mut kept) = (1_u64, 0.0, 0.0);
        let mut next = || {
            state += 1;
            let uniform = (engine::mix(state.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 11) as f64 / (1_u64 << 53) as f64;
            -best.secs_between_failures * (1.0 - uniform).ln()
        };
        let mut left = next();
        while kept < 200.0 * 86_400.0 {
            let mut need = best.interval_secs + cluster.checkpoint_secs;
            while left < need {
                paid += left;
                left = next();
                need = cluster.restart_secs + best.interval_secs + cluster.checkpoint_secs;
            }
            paid += need;
            left -= need;
            kept += best.interval_secs;
        }
        assert!((kept / paid / best.goodput_ratio - 1.0).abs() < 0.02, "{} {}", kept / paid, best.goodput_ratio);
    }

    #[test]
    fn a_cluster_that_never_comes_forward_is_refused() {
        let hopeless = Cluster { accelerators: 1e6, hours_between_failures: 100.0, checkpoint_secs: 60.0, restart_secs: 600.0 };
        assert!(matches!(plan(&hopeless), Err(PlanError::Impossible { .. })));
    }
}
