//! From rewards to advantages: how much better each token was than was to be expected.

use super::{Iteration, Rollout};

/// How advantages come about.
#[derive(Debug, Clone, Copy)]
pub enum Advantages {
    /// Over a value, with a penalty for leaving the reference: PPO's.
    Gae { kl_coef: f64, kl_target: Option<f64>, gamma: f64, lambda: f64, whiten_rewards: bool },
    /// Over the mean of the responses to one prompt: GRPO's.
    Group,
}

/// How far one iteration may move the weight of the penalty, and over how many responses it settles (arXiv:1909.08593, section 2.2).
const MOST_ERROR: f64 = 0.2;
const HORIZON: f64 = 100.0;

impl Advantages {
    /// The weight of the penalty after the iteration `before`.
    pub(super) fn kl_coef(&self, before: Option<&Iteration>) -> f64 {
        match (self, before) {
            (Self::Group, _) => 0.0,
            (Self::Gae { kl_coef, .. }, None) => *kl_coef,
            (Self::Gae { kl_target: None, .. }, Some(before)) => before.kl_coef,
            (Self::Gae { kl_target: Some(target), .. }, Some(before)) => {
                let count = before.rollouts.len() as f64;
                let kl = before.rollouts.iter().map(Rollout::kl).sum::<f64>() / count.max(1.0);
                before.kl_coef * (1.0 + (kl / target - 1.0).clamp(-MOST_ERROR, MOST_ERROR) * count / HORIZON)
            }
        }
    }

    /// Fill in advantages and returns; `group` consecutive rollouts are of one prompt.
    pub(crate) fn fill(&self, rollouts: &mut [Rollout], kl_coef: f64, group: usize) {
        match *self {
            Self::Group => {
                for group in rollouts.chunks_mut(group.max(1)) {
                    let count = group.len() as f64;
                    let mean = group.iter().map(|one| one.reward).sum::<f64>() / count;
                    let deviation = (group.iter().map(|one| (one.reward - mean).powi(2)).sum::<f64>() / count).sqrt();
                    for one in group {
                        one.advantages = vec![((one.reward - mean) / (deviation + 1e-4)) as f32; one.log_probs.len()];
                    }
                }
            }
            Self::Gae { gamma, lambda, whiten_rewards, .. } => {
                let mut all: Vec<Vec<f64>> = rollouts.iter().map(|one| token_rewards(one, kl_coef)).collect();
                if whiten_rewards {
                    let (_, deviation) = moments(all.iter().flatten().copied());
                    all.iter_mut().flatten().for_each(|reward| *reward /= deviation + 1e-8);
                }
                for (one, rewards) in rollouts.iter_mut().zip(&all) {
                    let values: Vec<f64> = one.values.iter().map(|value| f64::from(*value)).chain([0.0]).collect();
                    let advantages = gae(rewards, &values, gamma, lambda);
                    one.returns = advantages.iter().zip(&values).map(|(a, v)| (a + v) as f32).collect();
                    one.advantages = advantages.into_iter().map(|a| a as f32).collect();
                }
                whiten(rollouts);
            }
        }
    }
}

/// Generalised advantage estimates of one response: `A[t] = d[t] + gamma lambda A[t+1]` with `d[t] = r[t] + gamma V[t+1] - V[t]`
/// (*High-Dimensional Continuous Control Using GAE*, arXiv:1506.02438, eq. 16). `values` has one number more than `rewards`, 0 where
/// the response ended.
///
/// ```
/// // Without discount or value the advantage is the reward still to come.
/// assert_eq!(align::rollouts::gae(&[0.0, 0.0, 1.0], &[0.0; 4], 1.0, 1.0), [1.0, 1.0, 1.0]);
/// ```
#[must_use]
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    let mut advantages = vec![0.0; rewards.len()];
    let mut after = 0.0;
    for t in (0..rewards.len()).rev() {
        let surprise = rewards[t] + gamma * values[t + 1] - values[t];
        after = surprise + gamma * lambda * after;
        advantages[t] = after;
    }
    advantages
}

/// The penalty for the divergence at each token, and the judgement at the last.
fn token_rewards(one: &Rollout, kl_coef: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> = one.log_probs.iter().zip(&one.reference).map(|(p, r)| -kl_coef * f64::from(p - r)).collect();
    if let Some(last) = rewards.last_mut() {
        *last += one.reward;
    }
    rewards
}

/// Mean and deviation.
fn moments(all: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = all.clone().count().max(1) as f64;
    let mean = all.clone().sum::<f64>() / count;
    (mean, (all.map(|a| (a - mean).powi(2)).sum::<f64>() / count).sqrt())
}

/// Mean 0 and deviation 1 over all tokens of the iteration.
fn whiten(rollouts: &mut [Rollout]) {
    let (mean, deviation) = moments(rollouts.iter().flat_map(|one| &one.advantages).map(|a| f64::from(*a)));
    for advantage in rollouts.iter_mut().flat_map(|one| &mut one.advantages) {
        *advantage = ((f64::from(*advantage) - mean) / (deviation + 1e-8)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_those_by_hand() {
        // d = [1 + 0.9*0.5 - 0.2, 2 + 0 - 0.5] = [1.25, 1.5]; A = [1.25 + 0.9*0.8*1.5, 1.5].
        let got = gae(&[1.0, 2.0], &[0.2, 0.5, 0.0], 0.9, 0.8);
        assert!((got[0] - 2.33).abs() < 1e-12 && (got[1] - 1.5).abs() < 1e-12, "{got:?}");
    }
}
