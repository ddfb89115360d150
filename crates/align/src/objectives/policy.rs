//! The clipped objective of policies (arXiv:1707.06347, eq. 7), for PPO with a value (eq. 9) and for GRPO without (arXiv:2402.03300,
//! eq. 3): what a step does with rollouts that were judged before it.
//!
//! Of each row: `old` log-probabilities, `advantages`, `returns`, `values` and `reference` at its tokens, `counted` their weights. Rows
//! of plain text learn `plain` times the loss of their tokens: pretraining gradients (arXiv:2203.02155, eq. 2), and the divergence from
//! stored originals.

use engine::{EngineError, Inputs, ShapeError, Tape, Tensor};
use models::{Model, decoder::Head};
use train::{metric::MetricKind, objective::Objective};

use super::f32s;
use crate::rows;

/// See the head of this file.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How far a probability may move from where it was sampled, as a share.
    pub clip: f64,
    /// How far a value may move, in units of reward.
    pub value_clip: f64,
    /// Weight of the value's loss; without a value none.
    pub value_coef: Option<f64>,
    /// Weight of the divergence from the reference in the loss itself.
    pub kl_coef: f64,
    /// Rows of a sample: of a rollout, and of plain text.
    pub rows: usize,
}

/// The arrays of a batch beside tokens and targets, each `[rows, seq]`.
pub const ARRAYS: [&str; 7] = ["old", "advantages", "returns", "values", "reference", "counted", "plain"];

impl Policy {
    /// The loss of one token and its slope by `-ln p`.
    pub(super) fn token(&self, nll: f64, old: f64, advantage: f64, reference: f64) -> (f64, f64) {
        let log_ratio = (-nll - old).clamp(-20.0, 20.0);
        let ratio = log_ratio.exp();
        let (free, held) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - self.clip, 1.0 + self.clip));
        let (mut loss, mut slope) = if free >= held { (free, advantage * ratio) } else { (held, 0.0) };
        if self.kl_coef > 0.0 {
            // The estimate of low variance: e^d - d - 1 with d = ln p_ref - ln p.
            let apart = (reference + nll).clamp(-20.0, 20.0);
            loss += self.kl_coef * (apart.exp() - apart - 1.0);
            slope += self.kl_coef * (apart.exp() - 1.0);
        }
        (loss, slope)
    }

    /// The loss of one value and its slope.
    pub(super) fn value(&self, value: f64, old: f64, target: f64) -> (f64, f64) {
        let held = old + (value - old).clamp(-self.value_clip, self.value_clip);
        let (free_error, held_error) = (value - target, held - target);
        if free_error.powi(2) >= held_error.powi(2) {
            (0.5 * free_error.powi(2), free_error)
        } else {
            let moves = (value - old).abs() < self.value_clip;
            (0.5 * held_error.powi(2), if moves { held_error } else { 0.0 })
        }
    }
}

impl Objective for Policy {
    fn loss<'m>(
        &'m self,
        model: &'m dyn Model,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        x: &Tensor,
        scale: f32,
    ) -> Result<Tensor, EngineError> {
        let language = model.language().ok_or_else(|| ShapeError::new("policy", "the model is none of text"))?;
        let (policy, factor) = (*self, f64::from(scale));
        let [old, advantages, returns, values, reference, counted, plain] = ARRAYS.map(|name| f32s(inputs, name));
        let (old, advantages, reference, plain) = (old?, advantages?, reference?, plain?);
        let (returns, values, counted) = (returns?, values?, counted?);
        let weights = counted.clone();
        let of_policy = move |nll: &[f32], slopes: &mut [f32]| {
            let mut loss = 0.0;
            for (i, nll) in nll.iter().enumerate() {
                let (weight, plain) = (f64::from(weights[i]), f64::from(plain[i]));
                let nll = f64::from(*nll);
                let mut slope = plain;
                loss += plain * nll;
                if weight > 0.0 {
                    let (token, by) = policy.token(nll, f64::from(old[i]), f64::from(advantages[i]), f64::from(reference[i]));
                    loss += weight * token;
                    slope += weight * by;
                }
                slopes[i] = (factor * slope) as f32;
            }
            (factor * loss) as f32
        };
        let Some(coef) = self.value_coef else {
            let nll = language.head_nll(tape, inputs, x)?;
            return tape.score(&nll, of_policy);
        };
        let [nll, scalars] = language.head_nll_and_scalars(tape, inputs, x)?;
        let of_policy = tape.score(&nll, of_policy)?;
        let of_value = tape.score(&scalars, move |scalars, slopes| {
            let mut loss = 0.0;
            for (i, value) in scalars.iter().enumerate().filter(|(i, _)| counted[*i] > 0.0) {
                let (error, slope) = policy.value(f64::from(*value), f64::from(values[i]), f64::from(returns[i]));
                let weight = factor * coef * f64::from(counted[i]);
                loss += weight * error;
                slopes[i] = (weight * slope) as f32;
            }
            loss as f32
        })?;
        tape.add(&of_policy, &of_value)
    }

    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        &super::REWARD
    }

    fn head(&self) -> Option<Head> {
        self.value_coef.map(|_| Head::TokensAndScalar)
    }

    fn whole_samples(&self) -> Option<&'static str> {
        Some("a response is judged whole")
    }

    fn shapes(&self, _model: &dyn Model, batch: usize, length: usize) -> Inputs {
        let dims = [batch * self.rows, length];
        ARRAYS.iter().fold(rows::shapes(dims[0], length), |inputs, name| inputs.with_f32(name, &dims, Vec::new()))
    }

    fn made_up(&self, model: &dyn Model, first: usize, batch: usize, length: usize) -> Inputs {
        let dims = [batch * self.rows, length];
        let inputs = model.made_up(first * self.rows, dims[0], length);
        let value = |name: &str| match name {
            "old" | "reference" => -8.0,
            "counted" => 1.0 / length as f32,
            _ => 0.1,
        };
        ARRAYS.iter().fold(inputs, |inputs, name| inputs.with_f32(name, &dims, vec![value(name); dims[0] * dims[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::differences;

    const PPO: Policy = Policy { clip: 0.2, value_clip: 0.2, value_coef: Some(0.1), kl_coef: 0.0, rows: 1 };

    #[test]
    fn tokens_and_values_agree_with_their_differences() {
        for policy in [PPO, Policy { kl_coef: 0.3, ..PPO }] {
            for (old, advantage, reference) in [(-1.0, 0.7, -1.2), (-1.0, -0.7, -0.9), (-1.6, 0.5, -1.0), (-1.6, -0.5, -1.0)] {
                differences::check(&[1.05], |x, slope| {
                    let (loss, by) = policy.token(f64::from(x[0]), old, advantage, reference);
                    slope[0] = by as f32;
                    loss as f32
                });
            }
        }
        for (old, target) in [(0.5, 1.0), (0.5, 0.3), (0.1, 1.0), (0.9, 0.0)] {
            differences::check(&[0.55], |x, slope| {
                let (loss, by) = PPO.value(f64::from(x[0]), old, target);
                slope[0] = by as f32;
                loss as f32
            });
        }
    }

    #[test]
    fn a_probability_that_moved_too_far_the_right_way_is_pulled_no_further() {
        assert_eq!(PPO.token(0.5, -1.0, 1.0, 0.0).1, 0.0, "more likely, and that was good");
        assert_eq!(PPO.token(1.5, -1.0, -1.0, 0.0).1, 0.0, "less likely, and that was bad");
        assert!(PPO.token(1.5, -1.0, 1.0, 0.0).1 > 0.0, "less likely, though it was good");
    }
}
