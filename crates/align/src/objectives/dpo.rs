//! Direct preference optimisation (arXiv:2305.18290, eq. 7): `-ln sigmoid(beta ((ln p - ln p_ref) of the better - of the worse))`, where
//! the reference is the model that training begins with. `label_smoothing` takes a share of the pairs for ranked the wrong way round
//! (arXiv:2305.18290, section 7 of the appendix; "conservative" DPO).

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{EngineError, Inputs, ShapeError, Tape, Tensor};
use models::Model;
use serde::Deserialize;
use train::{
    TrainError,
    feed::Feed,
    metric::MetricKind,
    objective::{Kind, Objective},
    recipe::Recipe,
    run::Loaded,
};

use super::{
    f32s,
    samples::{self, Batch, Sample, Samples},
    sigmoid, softplus,
};
use crate::{
    passes::Asked,
    rows::{self, Encoder, Row},
};

pub(super) const KIND: Kind = Kind {
    name: "dpo",
    build: |recipe| {
        let Options { beta, label_smoothing, .. } = super::options(recipe)?;
        if !(beta > 0.0 && (0.0..0.5).contains(&label_smoothing)) {
            let problem = format!("beta {beta} and label_smoothing {label_smoothing} mean nothing");
            return Err(TrainError::Value { key: "objective", problem, help: "beta above 0, label_smoothing from 0 to below 0.5".into() });
        }
        Ok(Arc::new(Dpo { beta, label_smoothing }))
    },
    feed,
};

/// The table `[objective]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A file of rankings; of more than two responses the best and the worst are a pair.
    preferences: PathBuf,
    #[serde(default = "usual_beta")]
    beta: f64,
    #[serde(default)]
    label_smoothing: f64,
    #[serde(default = "super::sft::tenth")]
    held_out_ratio: f64,
}

fn usual_beta() -> f64 {
    0.1
}

/// See the head of this file.
pub struct Dpo {
    pub(super) beta: f64,
    pub(super) label_smoothing: f64,
}

impl Dpo {
    /// The loss of the pairs whose rows' log-likelihoods are `log_probs`, and its slope by each.
    pub(super) fn rule(&self, log_probs: &[f64], reference: &[f64]) -> (f64, Vec<f64>) {
        let (mut loss, mut slope) = (0.0, vec![0.0; log_probs.len()]);
        for (pair, rows) in (0..log_probs.len()).step_by(2).zip(reference.chunks_exact(2)) {
            let of = |i: usize| log_probs[pair + i] - rows[i];
            let ahead = self.beta * (of(0) - of(1));
            let smooth = self.label_smoothing;
            loss += (1.0 - smooth) * softplus(-ahead) + smooth * softplus(ahead);
            let pull = self.beta * (-(1.0 - smooth) * sigmoid(-ahead) + smooth * sigmoid(ahead));
            slope[pair] += pull;
            slope[pair + 1] -= pull;
        }
        (loss, slope)
    }

    fn nll<'m>(model: &'m dyn Model, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        let language = model.language().ok_or_else(|| ShapeError::new("dpo", "the model is none of text"))?;
        language.head_nll(tape, inputs, x)
    }
}

/// Log-likelihoods of rows of `seq`.
fn log_probs(nll: &[f32], seq: usize) -> Vec<f64> {
    nll.chunks_exact(seq).map(|row| -row.iter().map(|nll| f64::from(*nll)).sum::<f64>()).collect()
}

impl Objective for Dpo {
    fn loss<'m>(
        &'m self,
        model: &'m dyn Model,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        x: &Tensor,
        scale: f32,
    ) -> Result<Tensor, EngineError> {
        let nll = Self::nll(model, tape, inputs, x)?;
        let seq = nll.shape().last();
        let reference: Vec<f64> = f32s(inputs, "reference")?.into_iter().map(f64::from).collect();
        let rule = Self { beta: self.beta, label_smoothing: self.label_smoothing };
        tape.score(&nll, move |nll, slopes| {
            let (loss, slope) = rule.rule(&log_probs(nll, seq), &reference);
            for (slopes, slope) in slopes.chunks_exact_mut(seq).zip(slope) {
                slopes.fill((-f64::from(scale) * slope) as f32);
            }
            (f64::from(scale) * loss) as f32
        })
    }

    fn measure<'m>(&'m self, model: &'m dyn Model, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        let nll = Self::nll(model, tape, inputs, x)?;
        let (reference, seq) = (f32s(inputs, "reference")?, nll.shape().last());
        tape.read(&nll, nll.shape().elements() / seq.max(1) / 2, move |nll, right| {
            let log_probs = log_probs(nll, seq);
            for (i, right) in right.iter_mut().enumerate() {
                let of = |row: usize| log_probs[row] - f64::from(reference[row]);
                *right = f32::from(u8::from(of(2 * i) > of(2 * i + 1)));
            }
        })
    }

    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        &super::RANKING_ACCURACY
    }

    fn whole_samples(&self) -> Option<&'static str> {
        Some("a response is judged whole")
    }

    fn shapes(&self, _model: &dyn Model, batch: usize, length: usize) -> Inputs {
        rows::shapes(2 * batch, length).with_f32("reference", &[2 * batch], Vec::new())
    }

    fn made_up(&self, model: &dyn Model, first: usize, batch: usize, length: usize) -> Inputs {
        model.made_up(2 * first, 2 * batch, length).with_f32("reference", &[2 * batch], vec![-(length as f32); 2 * batch])
    }
}

struct Pairs {
    context: usize,
    reference: Mutex<Loaded>,
}

impl Batch for Pairs {
    fn inputs(&self, samples: &[&Sample], padding: u32) -> Result<Inputs, TrainError> {
        let all: Vec<Row> = samples.iter().flat_map(|sample| &sample.rows[..2]).cloned().collect();
        let said = Asked::of(&mut self.reference.lock().unwrap_or_else(PoisonError::into_inner)).say(&all)?;
        let reference = said.iter().map(|said| said.log_probs.iter().sum()).collect();
        let width = rows::width(&all, self.context);
        Ok(rows::inputs(&all.iter().collect::<Vec<_>>(), width, padding).with_f32("reference", &[all.len()], reference))
    }

    fn weight(&self, _sample: &Sample) -> u64 {
        1
    }
}

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    let options: Options = super::options(recipe)?;
    let encoder = Encoder::new(&super::tokenizer(recipe)?, recipe.batch.context)?;
    let (samples, notes) = samples::of_file(&encoder, &options.preferences, 2)?;
    let reference = Mutex::new(train::run::load(super::beginning(recipe)?)?);
    let batch = Pairs { context: recipe.batch.context, reference };
    Ok(Arc::new(Samples::new(recipe, &options.preferences, encoder, samples, options.held_out_ratio, batch, notes)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::differences;

    #[test]
    fn the_loss_agrees_with_its_differences_and_begins_at_the_logarithm_of_two() {
        for label_smoothing in [0.0, 0.2] {
            let dpo = Dpo { beta: 0.3, label_smoothing };
            differences::check(&[-3.0, -4.0, -2.5, -2.0], |x, slope| {
                let (loss, all) = dpo.rule(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &[-3.5, -3.0, -2.0, -2.0]);
                slope.iter_mut().zip(all).for_each(|(to, slope)| *to = slope as f32);
                loss as f32
            });
            let (loss, _) = dpo.rule(&[-3.0, -4.0], &[-3.0, -4.0]);
            assert!((loss - 2.0_f64.ln()).abs() < 1e-12);
        }
    }
}
