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

/// `K_beta` and the largest error of arXiv:1909.08593, section 2.2: an iteration moves the weight of the penalty by 2% at most. A divergence begins
/// at nothing, so a quicker one would take the penalty away before the policy has moved.
const GAIN: f64 = 0.1;
const MOST_ERROR: f64 = 0.2;

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
                before.kl_coef * (1.0 + (kl / target - 1.0).clamp(-MOST_ERROR, MOST_ERROR) * GAIN)
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
    #[test]
    fn the_weight_of_the_penalty_follows_the_divergence_by_two_percent_an_iteration() {
        let rules = Advantages::Gae { kl_coef: 0.1, kl_target: Some(2.0), gamma: 1.0, lambda: 1.0, whiten_rewards: false };
        let after = |kl: f32, count: usize| {
            let one = Rollout {
                prompt: String::new(),
                response: String::new(),
                tokens: vec![1, 2],
                first: 1,
                reward: 0.0,
                has_end: true,
                log_probs: vec![0.0],
                reference: vec![-kl],
                values: vec![0.0],
                advantages: vec![0.0],
                returns: vec![0.0],
            };
            let before = Iteration {
                key: String::new(),
                iteration: 0,
                kl_coef: 0.1,
                origin: [0.0, 1.0],
                stored_kl: None,
                rollouts: vec![one; count],
            };
            rules.kl_coef(Some(&before))
        };
        assert_eq!(rules.kl_coef(None), 0.1);
        for count in [10, 100, 10_000] {
            let [low, right, high] = [0.1, 2.0, 50.0].map(|kl| after(kl, count));
            assert!(
                (low - 0.098).abs() < 1e-6 && (right - 0.1).abs() < 1e-12 && (high - 0.102).abs() < 1e-6,
                "{count}: {low} {right} {high}"
            );
        }
    }
}
