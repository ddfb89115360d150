//! What a model is worth on samples that it never learns from: the metric of its objective, with the noise of the samples.

use engine::{Device, EngineError, Inputs, NoParams, Options, ParamStore, ParamTable, Pool, Precision, Tape, Tensor};
use models::{LanguageModel, Model};

pub use crate::held_out::{HeldOut, SampleLoss};
use crate::{
    TrainError,
    feed::Feed,
    metric::Metric,
    objective::Objective,
    step::{Trainer, split},
};

/// Options of a pass that does not train.
#[must_use]
pub fn inference(precision: Precision) -> Options {
    Options { precision, recompute: false, train: false, key: 0, trace: false }
}

/// What a language model computes from tokens.
pub type LanguagePass = for<'m> fn(&'m dyn LanguageModel, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>;

/// A pool for `pass` over `inputs`, as large as `Meta` says that it takes.
/// # Errors
/// When shapes do not fit.
pub fn pool_for(
    language: &dyn LanguageModel,
    table: &ParamTable,
    precision: Precision,
    inputs: &Inputs,
    pass: LanguagePass,
) -> Result<Pool, TrainError> {
    let (meta, mut none) = (Pool::meta(), NoParams);
    pass(language, &mut Tape::new(&meta, &mut none, table, inference(precision)), inputs)?;
    pool(meta.usage().high_water_bytes)
}

/// A pool of so many bytes.
/// # Errors
/// [`TrainError::Memory`] where this process may not have them: the allocator could only abort.
pub fn pool(need_bytes: u64) -> Result<Pool, TrainError> {
    let free_bytes = limits::available_bytes().unwrap_or(u64::MAX);
    if free_bytes < need_bytes { Err(TrainError::Memory { need_bytes, free_bytes }) } else { Ok(Pool::new(Device::Cpu, need_bytes)) }
}

/// Trunk and head: the figures of an objective.
pub(crate) fn figures<'m>(
    model: &'m dyn Model,
    objective: &'m dyn Objective,
    tape: &mut Tape<'m>,
    inputs: &Inputs,
) -> Result<Tensor, EngineError> {
    let x = model.trunk(tape, inputs, None, 0..model.params().blocks().len())?;
    objective.measure(model, tape, inputs, &x)
}

/// Runs passes without gradients over one pool.
pub struct Evaluator {
    pool: Pool,
    batch: usize,
}

impl Evaluator {
    /// For passes of up to `batch` samples of length `context`.
    /// # Errors
    /// When shapes do not fit.
    pub fn new(
        model: &dyn Model,
        objective: &dyn Objective,
        batch: usize,
        context: usize,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let (meta, mut none) = (Pool::meta(), NoParams);
        let mut tape = Tape::new(&meta, &mut none, model.params(), inference(precision));
        figures(model, objective, &mut tape, &objective.shapes(model, batch, context))?;
        drop(tape);
        Ok(Self { pool: pool(meta.usage().high_water_bytes)?, batch })
    }

    /// The metric of the held-out samples of `feed`, and what each adds to it.
    /// # Errors
    /// When shapes do not fit, or a sample cannot be read.
    pub fn held_out(
        &self,
        model: &dyn Model,
        objective: &dyn Objective,
        store: &mut dyn ParamStore,
        precision: Precision,
        feed: &dyn Feed,
    ) -> Result<HeldOut, TrainError> {
        if let Some(judged) = feed.judge(model, store, precision)? {
            return Ok(judged);
        }
        let kind = objective.metric(model);
        let (mut sums, mut samples) = (Vec::new(), Vec::new());
        for batch in batches(feed, self.batch) {
            let mut tape = Tape::new(&self.pool, store, model.params(), inference(precision));
            let figures = figures(model, objective, &mut tape, &feed.held_out_inputs(batch.clone())?)?;
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
            sums.push(sum(&figures.f32s()));
            let count = (batch.end - batch.start) as usize;
            // Where there is one figure for all of them, each is taken to have an equal part.
            let each: Vec<f64> = if figures.f32s().len() < count {
                vec![sum(&figures.f32s()) / count as f64; count]
            } else {
                figures.f32s().chunks(figures.f32s().len() / count).map(sum).collect()
            };
            let of = |(sample, loss): (u64, f64)| SampleLoss { loss: loss / kind.divisor, weight: feed.held_out_weight(sample) };
            samples.extend(batch.zip(each).map(of));
        }
        Ok(HeldOut { metric: kind.of(&sums, samples.iter().map(|sample| sample.weight).sum()), samples })
    }

    /// The metric of the held-out samples of `feed` by a model in training; all ranks call it and get the same bits.
    /// # Errors
    /// When shapes do not fit, a sample cannot be read, or a rank does not answer.
    pub fn of_trainer(&self, trainer: &mut Trainer, feed: &dyn Feed) -> Result<Metric, TrainError> {
        if feed.is_judge() {
            return judged(trainer, feed);
        }
        let batches = batches(feed, self.batch);
        let sums = trainer.figures(&self.pool, batches.len(), &mut |at| feed.held_out_inputs(batches[at].clone()))?;
        Ok(trainer.metric().of(&sums, (0..feed.held_out()).map(|sample| feed.held_out_weight(sample)).sum()))
    }

    /// The figure of each of `inputs` by a model in training; all ranks call it and get the same.
    /// # Errors
    /// When shapes do not fit, or a rank does not answer.
    pub fn each_of_trainer(&self, trainer: &mut Trainer, inputs: &[Inputs]) -> Result<Vec<f64>, TrainError> {
        trainer.figures(&self.pool, inputs.len(), &mut |at| Ok(inputs[at].clone()))
    }
}

/// What `feed` finds of the model on the first rank, told to all.
fn judged(trainer: &mut Trainer, feed: &dyn Feed) -> Result<Metric, TrainError> {
    let whole = trainer.whole()?;
    let precision = trainer.options().precision;
    let found = match whole {
        Some(mut store) => feed.judge(trainer.model(), &mut store, precision)?.map_or(f64::NAN, |found| found.metric.value),
        None => 0.0,
    };
    let mut parts = split(found);
    trainer.sum(&mut parts)?;
    Ok(Metric { kind: trainer.metric(), value: parts.iter().map(|part| f64::from(*part)).sum() })
}

/// Runs of held-out samples.
fn batches(feed: &dyn Feed, each: usize) -> Vec<std::ops::Range<u64>> {
    let (count, each) = (feed.held_out(), each as u64);
    (0..count).step_by(each as usize).map(|first| first..(first + each).min(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bits: &[f64]) -> HeldOut {
        HeldOut::of(&crate::metric::BITS_PER_BYTE, bits.iter().map(|bits| SampleLoss { loss: *bits, weight: 10 }).collect())
    }

    #[test]
    fn the_error_is_that_of_a_mean_and_pairs_take_out_what_both_find_hard() {
        // Of equal windows: deviation over the root of their number; 20, 24 and 28 bits of 10 bytes, by hand.
        let one = of(&[20.0, 24.0, 28.0]);
        assert!((one.standard_error().unwrap() - 0.4 / 3.0_f64.sqrt()).abs() < 1e-12);
        let (above, error) = of(&[21.0, 25.0, 29.0]).above(&one);
        assert!((above - 0.1).abs() < 1e-12 && error.unwrap() < 1e-12, "each window by as much");
        let (_, unpaired) = of(&[21.0, 25.0]).above(&one);
        assert!(unpaired.unwrap() > one.standard_error().unwrap());
        assert_eq!(of(&[20.0]).standard_error(), None);
    }
}
