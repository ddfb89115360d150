//! What is learnt from people's, models' or signals' judgements: one file an objective, each with its rule, its inputs and its feed.
//!
//! To add one: a file with an `Objective` and a feed, and its kind in [`KINDS`].

pub mod dpo;
#[cfg(test)]
mod golden;
pub mod grpo;
pub mod policy;
pub mod ppo;
pub mod reward;
pub mod samples;
pub mod sft;
#[cfg(test)]
mod ten_steps;

use std::path::{Path, PathBuf};

use engine::{Array, EngineError, Inputs};
use serde::de::DeserializeOwned;
use train::{
    TrainError,
    metric::{Better, MetricKind},
    objective::Kind,
    recipe::Recipe,
};

use crate::rollouts::Writing;

/// Every objective of this crate.
pub(crate) const KINDS: &[Kind] = &[sft::KIND, reward::KIND, dpo::KIND, ppo::KIND, grpo::KIND];

/// What they are judged by.
pub(crate) const METRICS: &[MetricKind] = &[RANKING_ACCURACY, REWARD];

/// Share of the pairs of held-out rankings that a model orders as the ranker did.
pub const RANKING_ACCURACY: MetricKind =
    MetricKind { name: "ranking_accuracy", unit: "of pairs ordered right", better: Better::Higher, divisor: 1.0 };

/// Mean reward of what a policy writes after held-out prompts.
pub const REWARD: MetricKind = MetricKind { name: "reward", unit: "mean reward", better: Better::Higher, divisor: 1.0 };

/// The table `[objective]` without its kind.
fn options<T: DeserializeOwned>(recipe: &Recipe) -> Result<T, TrainError> {
    let mut table = recipe.objective.clone();
    table.remove("kind");
    table.try_into().map_err(|e: toml::de::Error| TrainError::Recipe { origin: "[objective]".into(), problem: e.message().to_owned() })
}

/// The table `[objective]` of a policy: what is written and judged, and the rest.
fn with_writing<T: DeserializeOwned>(recipe: &Recipe) -> Result<(Writing, T), TrainError> {
    let (mut own, mut writing) = (recipe.objective.clone(), toml::Table::new());
    for key in Writing::KEYS {
        if let Some(value) = own.remove(*key) {
            writing.insert((*key).to_owned(), value);
        }
    }
    let of = |table| options(&Recipe { objective: table, ..recipe.clone() });
    let writing = of(writing)?;
    let own = options(&Recipe { objective: own, ..recipe.clone() })?;
    Ok((writing, own))
}

/// What the policy of a recipe writes, and who judges it.
pub(crate) fn writing(recipe: &Recipe) -> Result<Writing, TrainError> {
    Ok(with_writing::<toml::Table>(recipe)?.0)
}

/// The weights that a recipe of these objectives begins with.
pub(crate) fn beginning(recipe: &Recipe) -> Result<&Path, TrainError> {
    recipe.from.as_ref().map(|from| from.path.as_path()).ok_or_else(|| TrainError::Value {
        key: "from.path",
        problem: "this objective begins with a trained model, and none is named".into(),
        help: "add `--from RUN`, or `[from] path = \"RUN\"` to the recipe".into(),
    })
}

/// The `tokenizer.json` of the weights that a recipe begins with.
fn tokenizer(recipe: &Recipe) -> Result<PathBuf, TrainError> {
    train::run::tokenizer_of(beginning(recipe)?)
}

/// Numbers of an input; none on `Meta`.
fn u32s(inputs: &Inputs, name: &'static str) -> Result<Vec<u32>, EngineError> {
    match inputs.get(name)? {
        Array::U32(_, data) => Ok(data.clone()),
        Array::F32(..) => Err(EngineError::Input { name, have: "numbers with fractions".into() }),
    }
}

fn f32s(inputs: &Inputs, name: &'static str) -> Result<Vec<f32>, EngineError> {
    match inputs.get(name)? {
        Array::F32(_, data) => Ok(data.clone()),
        Array::U32(..) => Err(EngineError::Input { name, have: "whole numbers".into() }),
    }
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
pub(crate) mod differences {
    /// Hold the gradient that `rule` writes against differences of its loss.
    pub fn check(x: &[f32], rule: impl Fn(&[f32], &mut [f32]) -> f32) {
        let mut slope = vec![0.0; x.len()];
        rule(x, &mut slope);
        for i in 0..x.len() {
            let at = |shift: f32| {
                let mut x = x.to_vec();
                x[i] += shift;
                f64::from(rule(&x, &mut vec![0.0; x.len()]))
            };
            let step = 1e-2;
            let difference = (at(step) - at(-step)) / (2.0 * f64::from(step));
            assert!((difference - f64::from(slope[i])).abs() < 2e-3 * (1.0 + difference.abs()), "{i}: {difference} and {}", slope[i]);
        }
    }
}
