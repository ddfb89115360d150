//! Held-out loss in bits per byte: comparable between tokenizers, and with anything else that compresses text.

use data::{DataError, Dataset};
use engine::{Device, EngineError, Inputs, NoParams, Options, ParamStore, ParamTable, Pool, Precision, Tape, Tensor};
use models::{LanguageModel, Model};

use crate::{TrainError, step::Trainer};

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

    /// Bits per byte over `windows` of `data`.
    /// # Errors
    /// When shapes do not fit.
    pub fn bits_per_byte(
        &self,
        language: &dyn LanguageModel,
        table: &ParamTable,
        store: &mut dyn ParamStore,
        precision: Precision,
        data: &Dataset,
        windows: &[Vec<u32>],
    ) -> Result<f64, TrainError> {
        let mut nats = Vec::new();
        for batch in windows.chunks(self.batch) {
            let mut tape = Tape::new(&self.pool, store, table, inference(precision));
            let nll = language.token_nll(&mut tape, &inputs_of(batch))?;
            nats.push(nll.f32s().iter().map(|v| f64::from(*v)).sum());
        }
        Ok(per_byte(&nats, data, windows))
    }

    /// The same by a model in training; all ranks call it and get the same bits.
    /// # Errors
    /// When shapes do not fit, or a rank does not answer.
    pub fn of_trainer(&self, trainer: &mut Trainer, data: &Dataset, windows: &[Vec<u32>]) -> Result<f64, TrainError> {
        let nats = trainer.nats(&self.pool, &windows.chunks(self.batch).collect::<Vec<_>>())?;
        Ok(per_byte(&nats, data, windows))
    }
}

/// The end of a document stands for no bytes; it is counted all the same, as it has to be told.
fn per_byte(nats: &[f64], data: &Dataset, windows: &[Vec<u32>]) -> f64 {
    let bytes: u64 = windows.iter().map(|w| data.target_bytes(w)).sum();
    nats.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes.max(1) as f64
}
