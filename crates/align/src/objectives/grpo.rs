//! Group relative policy optimisation (arXiv:2402.03300, section 4.1): several responses to each prompt, the advantage of each how far
//! its reward lies above the group's mean, in its deviations; no value, and the divergence from the reference in the loss itself.

use std::sync::Arc;

use serde::Deserialize;
use train::{TrainError, feed::Feed, objective::Kind, recipe::Recipe};

use super::policy::Policy;
use crate::rollouts::{Advantages, Kl, Rollouts, Writing};

pub(super) const KIND: Kind = Kind {
    name: "grpo",
    build: |recipe| {
        let (writing, options): (Writing, Options) = super::with_writing(recipe)?;
        writing.check(recipe, options.group)?;
        let rows = writing.rows();
        let kl_coef = if writing.kl == Kl::Stored { 0.0 } else { options.kl_coef };
        Ok(Arc::new(Policy { clip: options.clip, value_clip: 0.0, value_coef: None, kl_coef, rows }))
    },
    feed,
};

/// The table `[objective]`: what is written and judged ([`Writing`]), and
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Responses to each prompt.
    #[serde(default = "eight")]
    group: usize,
    /// Weight of the divergence from the reference.
    #[serde(default = "usual_kl")]
    kl_coef: f64,
    #[serde(default = "fifth")]
    clip: f64,
}

fn eight() -> usize {
    8
}

fn usual_kl() -> f64 {
    0.04
}

fn fifth() -> f64 {
    0.2
}

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    let (writing, options): (Writing, Options) = super::with_writing(recipe)?;
    Ok(Arc::new(Rollouts::open(recipe, writing, options.group, Advantages::Group, options.kl_coef)?))
}
