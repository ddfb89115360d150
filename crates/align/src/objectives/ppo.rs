//! Proximal policy optimisation as InstructGPT uses it (arXiv:2203.02155, section 3.5 and eq. 2): the policy writes, a reward model or a
//! signal judges, and the reward is the judgement minus a penalty for leaving the model that training began with, token by token;
//! advantages by GAE over a value that is a second head of the policy; optionally the gradient of pretraining beside it.

use std::sync::Arc;

use serde::Deserialize;
use train::{TrainError, feed::Feed, objective::Kind, recipe::Recipe};

use super::policy::Policy;
use crate::rollouts::{Advantages, Kl, Rollouts, Writing};

pub(super) const KIND: Kind = Kind {
    name: "ppo",
    build: |recipe| {
        let (writing, options): (Writing, Options) = super::with_writing(recipe)?;
        writing.check(recipe, 1)?;
        if let (Kl::Stored, Some(target)) = (writing.kl, options.kl_target) {
            let problem = format!("{target} is followed by a penalty, and with `kl = \"stored\"` there is none");
            let help = "leave it out, or take `kl = \"per_token\"`".into();
            return Err(TrainError::Value { key: "objective.kl_target", problem, help });
        }
        Ok(Arc::new(Policy {
            clip: options.clip,
            value_clip: options.value_clip,
            value_coef: Some(options.value_coef),
            kl_coef: 0.0,
            rows: writing.rows(),
        }))
    },
    feed,
};

/// The table `[objective]`: what is written and judged ([`Writing`]), and
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Weight of the penalty for each token's `ln p - ln p_ref`; of each iteration, where `kl_target` is set, so that the
    /// divergence of a response comes near to that (arXiv:1909.08593, section 2.2).
    #[serde(default = "usual_kl")]
    kl_coef: f64,
    kl_target: Option<f64>,
    /// Of GAE (arXiv:1506.02438): how much later rewards count, and how far each reaches back.
    #[serde(default = "one")]
    gamma: f64,
    #[serde(default = "usual_lambda")]
    lambda: f64,
    /// Whether the rewards of an iteration's tokens, penalties among them, are divided by their deviation.
    #[serde(default)]
    whiten_rewards: bool,
    #[serde(default = "fifth")]
    clip: f64,
    #[serde(default = "fifth")]
    value_clip: f64,
    #[serde(default = "tenth")]
    value_coef: f64,
}

fn usual_kl() -> f64 {
    0.05
}

fn one() -> f64 {
    1.0
}

fn usual_lambda() -> f64 {
    0.95
}

fn fifth() -> f64 {
    0.2
}

fn tenth() -> f64 {
    0.1
}

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    let (writing, options): (Writing, Options) = super::with_writing(recipe)?;
    let Options { kl_coef, kl_target, gamma, lambda, whiten_rewards, .. } = options;
    let advantages = Advantages::Gae { kl_coef, kl_target, gamma, lambda, whiten_rewards };
    Ok(Arc::new(Rollouts::open(recipe, writing, 1, advantages, kl_coef)?))
}
