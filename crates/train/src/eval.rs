//! Held-out loss in bits per byte: comparable between tokenizers, and with anything else that compresses text.

use data::{DataError, Dataset};
use engine::{Device, EngineError, Inputs, NoParams, Options, ParamStore, ParamTable, Pool, Precision, Tape, Tensor};
use models::{LanguageModel, Model};
use serde::{Deserialize, Serialize};

use crate::{TrainError, step::Trainer};

/// What one window of held-out text takes, in bits, and the bytes that its targets stand for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowLoss {
    pub bits: f64,
    pub bytes: u64,
}

/// A held-out loss, and what it is the mean of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    pub bits_per_byte: f64,
    pub windows: Vec<WindowLoss>,
}

impl HeldOut {
    /// Of windows that are measured.
    #[must_use]
    pub fn of(windows: Vec<WindowLoss>) -> Self {
        let bytes: u64 = windows.iter().map(|w| w.bytes).sum();
        Self { bits_per_byte: windows.iter().map(|w| w.bits).sum::<f64>() / bytes.max(1) as f64, windows }
    }

    /// Standard error of the loss, bits per byte, from how windows differ: that of a ratio of two sums (Cochran, *Sampling
    /// Techniques*, 1977, section 2.11). None of fewer than two windows.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        standard_error(&self.windows)
    }

    /// By how much this loss lies above that of `other`, and the standard error of that: over the same windows what is hard for
    /// both is no noise.
    #[must_use]
    pub fn above(&self, other: &Self) -> (f64, Option<f64>) {
        let is_paired =
            self.windows.len() == other.windows.len() && self.windows.iter().zip(&other.windows).all(|(a, b)| a.bytes == b.bytes);
        let error = if is_paired {
            let both = self.windows.iter().zip(&other.windows);
            standard_error(&both.map(|(a, b)| WindowLoss { bits: a.bits - b.bits, bytes: a.bytes }).collect::<Vec<_>>())
        } else {
            self.standard_error().zip(other.standard_error()).map(|(a, b)| a.hypot(b))
        };
        (self.bits_per_byte - other.bits_per_byte, error)
    }
}

fn standard_error(windows: &[WindowLoss]) -> Option<f64> {
    let (n, bytes) = (windows.len() as f64, windows.iter().map(|w| w.bytes).sum::<u64>() as f64);
    if n < 2.0 || bytes == 0.0 {
        return None;
    }
    let mean = windows.iter().map(|w| w.bits).sum::<f64>() / bytes;
    let squares: f64 = windows.iter().map(|w| (w.bits - mean * w.bytes as f64).powi(2)).sum();
    Some((n / (n - 1.0) * squares).sqrt() / bytes)
}

/// Options of a pass that does not train.
#[must_use]
pub fn inference(precision: Precision) -> Options {
    Options { precision, recompute: false, train: false, key: 0, trace: false }
}

/// Windows of held-out text, evenly spread, the same for every model of one context length.
/// # Errors
/// When a shard cannot be read.
pub fn held_out_windows(data: &Dataset, context: usize, windows: u64) -> Result<Vec<Vec<u32>>, DataError> {
    let all = data.held_out().windows(context, 1.0);
    let count = windows.min(all);
    (0..count).map(|i| data.held_out().window(i * all / count, context)).collect()
}

/// `tokens` and `targets` of windows of one length.
#[must_use]
pub fn inputs_of(windows: &[Vec<u32>]) -> Inputs {
    let seq = windows.first().map_or(0, |w| w.len() - 1);
    let column = |shift: usize| windows.iter().flat_map(|w| w[shift..shift + seq].to_vec()).collect::<Vec<u32>>();
    let dims = [windows.len(), seq];
    Inputs::new().with_u32("tokens", &dims, column(0)).with_u32("targets", &dims, column(1))
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
pub(crate) fn pool(need_bytes: u64) -> Result<Pool, TrainError> {
    let free_bytes = limits::available_bytes().unwrap_or(u64::MAX);
    if free_bytes < need_bytes { Err(TrainError::Memory { need_bytes, free_bytes }) } else { Ok(Pool::new(Device::Cpu, need_bytes)) }
}

/// Runs passes without gradients over one pool.
pub struct Evaluator {
    pool: Pool,
    batch: usize,
}

impl Evaluator {
    /// For passes of up to `batch` sequences of `context` tokens.
    /// # Errors
    /// When shapes do not fit, or the model is none of language.
    pub fn new(model: &dyn Model, batch: usize, context: usize, precision: Precision) -> Result<Self, TrainError> {
        let language = model.language().ok_or(TrainError::NotLanguage)?;
        let pool = pool_for(language, model.params(), precision, &model.shapes(batch, context), |language, tape, inputs| {
            language.token_nll(tape, inputs)
        })?;
        Ok(Self { pool, batch })
    }

    /// Held-out loss over `windows` of `data`.
    /// # Errors
    /// When shapes do not fit.
    pub fn held_out(
        &self,
        language: &dyn LanguageModel,
        table: &ParamTable,
        store: &mut dyn ParamStore,
        precision: Precision,
        data: &Dataset,
        windows: &[Vec<u32>],
    ) -> Result<HeldOut, TrainError> {
        let (mut nats, mut losses) = (Vec::new(), Vec::new());
        for batch in windows.chunks(self.batch) {
            let mut tape = Tape::new(&self.pool, store, table, inference(precision));
            let nll = language.token_nll(&mut tape, &inputs_of(batch))?;
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
            nats.push(sum(nll.f32s()));
            let each = nll.f32s().chunks(nll.f32s().len() / batch.len());
            losses.extend(
                batch
                    .iter()
                    .zip(each)
                    .map(|(window, values)| WindowLoss { bits: sum(values) / std::f64::consts::LN_2, bytes: data.target_bytes(window) }),
            );
        }
        Ok(HeldOut { bits_per_byte: per_byte(&nats, data, windows), windows: losses })
    }

    /// The same by a model in training; all ranks call it and get the same bits.
    /// # Errors
    /// When shapes do not fit, or a rank does not answer.
    pub fn of_trainer(&self, trainer: &mut Trainer, data: &Dataset, windows: &[Vec<u32>]) -> Result<f64, TrainError> {
        let nats = trainer.nats(&self.pool, &windows.chunks(self.batch).collect::<Vec<_>>())?;
        Ok(per_byte(&nats, data, windows))
    }

    /// The loss of each of `windows` by itself, in nats a token, by a model in training; all ranks call it and get the same.
    /// # Errors
    /// When shapes do not fit, or a rank does not answer.
    pub fn each_of_trainer(&self, trainer: &mut Trainer, windows: &[Vec<u32>]) -> Result<Vec<f64>, TrainError> {
        let nats = trainer.nats(&self.pool, &windows.chunks(1).collect::<Vec<_>>())?;
        Ok(nats.into_iter().zip(windows).map(|(nats, window)| nats / (window.len() - 1).max(1) as f64).collect())
    }
}

/// The end of a document stands for no bytes; it is counted all the same, as it has to be told.
fn per_byte(nats: &[f64], data: &Dataset, windows: &[Vec<u32>]) -> f64 {
    let bytes: u64 = windows.iter().map(|w| data.target_bytes(w)).sum();
    nats.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bits: &[f64]) -> HeldOut {
        HeldOut::of(bits.iter().map(|bits| WindowLoss { bits: *bits, bytes: 10 }).collect())
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
