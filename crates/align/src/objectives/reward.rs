//! The reward model: a decoder that ends in one number, which is larger for the better of two responses.
//!
//! All responses to a prompt stand in one sample, as each of its pairs by itself would be overfitted (arXiv:2203.02155, section 3.5):
//! the loss of a sample is the mean over its pairs of `-ln sigmoid(r_better - r_worse - margin)` (eq. 1), or with
//! `loss = "plackett_luce"` that of the whole order (Plackett 1975; Luce 1959). The reward stands at the end of the response.

use std::{path::PathBuf, sync::Arc};

use engine::{EngineError, Inputs, ShapeError, Tape, Tensor};
use models::{Model, decoder::Head};
use serde::Deserialize;
use train::{
    TrainError,
    feed::Feed,
    metric::MetricKind,
    objective::{Kind, Objective},
    recipe::Recipe,
};

use super::{
    samples::{self, Batch, Sample, Samples},
    sigmoid, softplus, u32s,
};
use crate::rows::{self, Encoder, Row};

pub(super) const KIND: Kind = Kind {
    name: "reward",
    build: |recipe| {
        let options: Options = super::options(recipe)?;
        if !(2..=64).contains(&options.k) {
            let problem = format!("{} is not in 2..=64", options.k);
            return Err(TrainError::Value { key: "objective.k", problem, help: "as many responses as prompts have".into() });
        }
        Ok(Arc::new(Reward { k: options.k, loss: options.loss }))
    },
    feed,
};

/// The table `[objective]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A file of rankings, see [`crate::preferences`].
    preferences: PathBuf,
    /// Responses of a prompt that are compared, at most.
    #[serde(default = "four")]
    k: usize,
    #[serde(default)]
    loss: Loss,
    /// By how much the better is to be ahead where the ranker was sure.
    #[serde(default)]
    margin: f32,
    #[serde(default = "super::sft::tenth")]
    held_out_ratio: f64,
}

fn four() -> usize {
    4
}

/// Over what of a ranking the loss goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    #[default]
    Pairs,
    PlackettLuce,
}

/// See the head of this file.
pub struct Reward {
    k: usize,
    loss: Loss,
}

/// The rank of a row that is not there.
const ABSENT: u32 = u32::MAX;

impl Reward {
    fn scalars<'m>(&'m self, model: &'m dyn Model, tape: &mut Tape<'m>, x: &Tensor) -> Result<Tensor, EngineError> {
        let language = model.language().ok_or_else(|| ShapeError::new("reward", "the model is none of text"))?;
        language.head_scalars(tape, x)
    }
}

impl Objective for Reward {
    fn loss<'m>(
        &'m self,
        model: &'m dyn Model,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        x: &Tensor,
        scale: f32,
    ) -> Result<Tensor, EngineError> {
        let scalars = self.scalars(model, tape, x)?;
        let (ends, ranks, margins) = (u32s(inputs, "ends")?, u32s(inputs, "ranks")?, super::f32s(inputs, "margins")?);
        let (k, loss, seq) = (self.k, self.loss, scalars.shape().last());
        tape.score(&scalars, move |scalars, slopes| {
            let mut total = 0.0;
            for (sample, margin) in margins.iter().enumerate() {
                let rows = sample * k..(sample + 1) * k;
                let at: Vec<usize> = rows.clone().map(|row| row * seq + ends[row] as usize).collect();
                let rewards: Vec<f64> = at.iter().map(|at| f64::from(scalars[*at])).collect();
                let (sum, slope) = match loss {
                    Loss::Pairs => of_pairs(&rewards, &ranks[rows], f64::from(*margin)),
                    Loss::PlackettLuce => of_order(&rewards, &ranks[rows]),
                };
                total += sum;
                at.iter().zip(slope).for_each(|(at, slope)| slopes[*at] += (f64::from(scale) * slope) as f32);
            }
            (f64::from(scale) * total) as f32
        })
    }

    fn measure<'m>(&'m self, model: &'m dyn Model, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        let scalars = self.scalars(model, tape, x)?;
        let (ends, ranks) = (u32s(inputs, "ends")?, u32s(inputs, "ranks")?);
        let (k, seq) = (self.k, scalars.shape().last());
        tape.read(&scalars, scalars.shape().rows() / k, move |scalars, right| {
            for (sample, right) in right.iter_mut().enumerate() {
                let rows = sample * k..(sample + 1) * k;
                let rewards: Vec<f64> = rows.clone().map(|row| f64::from(scalars[row * seq + ends[row] as usize])).collect();
                *right = ordered_right(&rewards, &ranks[rows]) as f32;
            }
        })
    }

    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        &super::RANKING_ACCURACY
    }

    fn head(&self) -> Option<Head> {
        Some(Head::Scalar)
    }

    fn whole_samples(&self) -> Option<&'static str> {
        Some("a reward is that of a whole response")
    }

    fn shapes(&self, _model: &dyn Model, batch: usize, length: usize) -> Inputs {
        let rows = batch * self.k;
        rows::shapes(rows, length).with_u32("ends", &[rows], Vec::new()).with_u32("ranks", &[rows], Vec::new()).with_f32(
            "margins",
            &[batch],
            Vec::new(),
        )
    }

    fn made_up(&self, model: &dyn Model, first: usize, batch: usize, length: usize) -> Inputs {
        let (rows, k) = (batch * self.k, self.k as u32);
        model
            .made_up(first * self.k, rows, length)
            .with_u32("ends", &[rows], vec![length as u32 - 1; rows])
            .with_u32("ranks", &[rows], (0..rows as u32).map(|row| row % k).collect())
            .with_f32("margins", &[batch], vec![0.0; batch])
    }
}

fn pairs(ranks: &[u32]) -> Vec<(usize, usize)> {
    let all = (0..ranks.len()).flat_map(|a| (0..ranks.len()).map(move |b| (a, b)));
    all.filter(|(a, b)| ranks[*a] < ranks[*b] && ranks[*b] != ABSENT).collect()
}

/// The mean over pairs, and its slope by each reward.
pub(super) fn of_pairs(rewards: &[f64], ranks: &[u32], margin: f64) -> (f64, Vec<f64>) {
    let (mut loss, mut slope, pairs) = (0.0, vec![0.0; rewards.len()], pairs(ranks));
    let share = 1.0 / pairs.len().max(1) as f64;
    for (better, worse) in pairs {
        let ahead = rewards[better] - rewards[worse] - margin;
        loss += share * softplus(-ahead);
        let pull = share * sigmoid(-ahead);
        slope[better] -= pull;
        slope[worse] += pull;
    }
    (loss, slope)
}

/// `-ln` of the probability that the responses are drawn in their order, each draw in proportion to `e^r` among those that are left;
/// of responses that tie, each is drawn before those that are worse. The mean over draws that choose.
pub(super) fn of_order(rewards: &[f64], ranks: &[u32]) -> (f64, Vec<f64>) {
    let mut slope = vec![0.0; rewards.len()];
    let (mut loss, mut draws) = (0.0, 0);
    for best in (0..ranks.len()).filter(|i| ranks[*i] != ABSENT) {
        let rest: Vec<usize> = (0..ranks.len()).filter(|i| *i == best || ranks[*i] > ranks[best] && ranks[*i] != ABSENT).collect();
        if rest.len() < 2 {
            continue;
        }
        draws += 1;
        let most = rest.iter().map(|i| rewards[*i]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = rest.iter().map(|i| (rewards[*i] - most).exp()).sum();
        loss += most + sum.ln() - rewards[best];
        rest.iter().for_each(|i| slope[*i] += (rewards[*i] - most).exp() / sum);
        slope[best] -= 1.0;
    }
    let share = 1.0 / f64::from(draws.max(1));
    slope.iter_mut().for_each(|slope| *slope *= share);
    (loss * share, slope)
}

/// Share of the pairs that rewards order as ranks do; equal rewards count half.
pub(crate) fn ordered_right(rewards: &[f64], ranks: &[u32]) -> f64 {
    let pairs = pairs(ranks);
    let of = |(better, worse): &(usize, usize)| match rewards[*better].total_cmp(&rewards[*worse]) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    };
    pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64
}

pub(super) struct Ranked {
    pub(super) k: usize,
    pub(super) context: usize,
    pub(super) margin: f32,
}

impl Batch for Ranked {
    fn inputs(&self, samples: &[&Sample], padding: u32) -> Result<Inputs, TrainError> {
        let absent = Row { tokens: vec![padding, padding], first: 1 };
        let (mut all, mut ends, mut ranks, mut margins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            for i in 0..self.k {
                // The end of the response is read too; what follows it is padding.
                let row = sample.rows.get(i).map(|row| Row { tokens: [&row.tokens[..], &[padding]].concat(), first: row.first });
                ends.push(row.as_ref().map_or(0, |row| row.tokens.len() as u32 - 2));
                ranks.push(if row.is_some() { sample.ranks[i] } else { ABSENT });
                all.push(row.unwrap_or_else(|| absent.clone()));
            }
            margins.push(self.margin * sample.confidence);
        }
        let inputs = rows::inputs(&all.iter().collect::<Vec<_>>(), rows::width(&all, self.context), padding);
        let count = all.len();
        Ok(inputs.with_u32("ends", &[count], ends).with_u32("ranks", &[count], ranks).with_f32("margins", &[samples.len()], margins))
    }

    fn weight(&self, _sample: &Sample) -> u64 {
        1
    }
}

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    let options: Options = super::options(recipe)?;
    let context = recipe.batch.context;
    // A place for the end of the response, which is read here.
    let encoder = Encoder::new(&super::tokenizer(recipe)?, context.saturating_sub(1).max(1))?;
    let (samples, notes) = samples::of_file(&encoder, &options.preferences, options.k)?;
    let batch = Ranked { k: options.k, context, margin: options.margin };
    Ok(Arc::new(Samples::new(recipe, &options.preferences, encoder, samples, options.held_out_ratio, batch, notes)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::differences;

    #[test]
    fn both_losses_agree_with_their_differences() {
        let x = [0.3_f32, -0.8, 1.1, 0.2, 0.4];
        for ranks in [[0, 1, 2, 3, 4], [2, 0, 0, 1, ABSENT], [0, 0, 0, 1, 1]] {
            for rule in [|r: &[f64], k: &[u32]| of_pairs(r, k, 0.25), of_order] {
                differences::check(&x, |x, slope| {
                    let (loss, all) = rule(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &ranks);
                    slope.iter_mut().zip(all).for_each(|(to, slope)| *to = slope as f32);
                    loss as f32
                });
            }
        }
    }

    #[test]
    fn two_responses_give_the_logistic_loss_in_both_and_right_orders_are_counted() {
        let (pair, _) = of_pairs(&[1.0, -1.0], &[0, 1], 0.0);
        let (order, _) = of_order(&[1.0, -1.0], &[0, 1]);
        assert!((pair - (1.0 + (-2.0_f64).exp()).ln()).abs() < 1e-12 && (pair - order).abs() < 1e-12);
        assert_eq!(ordered_right(&[2.0, 1.0, 1.0], &[0, 1, 2]), 2.5 / 3.0);
    }
}
