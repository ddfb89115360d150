//! Passes without gradients over many samples, a few at a time: features, embeddings, what a denoiser says.

use std::ops::Range;

use engine::{EngineError, Inputs, NoParams, ParamStore, Pool, Precision, Tape, Tensor};
use models::Model;
use train::{
    TrainError,
    eval::{inference, pool},
};

/// Samples at a time.
const BATCH: u64 = 32;

/// What `pass` gives of `count` samples, one after the other.
pub(crate) fn run<M: Model>(
    model: &M,
    store: &mut dyn ParamStore,
    precision: Precision,
    count: u64,
    inputs: impl FnMut(Range<u64>) -> Result<Inputs, TrainError>,
    pass: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>,
) -> Result<Vec<f32>, TrainError> {
    let mut all = Vec::new();
    each(model, store, precision, count, inputs, pass, |said| all.extend_from_slice(&said.f32s()))?;
    Ok(all)
}

/// The same, a batch at a time.
pub(crate) fn each<M: Model>(
    model: &M,
    store: &mut dyn ParamStore,
    precision: Precision,
    count: u64,
    mut inputs: impl FnMut(Range<u64>) -> Result<Inputs, TrainError>,
    pass: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>,
    mut take: impl FnMut(&Tensor),
) -> Result<(), TrainError> {
    let mut space: Option<Pool> = None;
    for first in (0..count).step_by(BATCH as usize) {
        let inputs = inputs(first..(first + BATCH).min(count))?;
        // The first batch is the largest.
        let space = match &mut space {
            Some(space) => space,
            None => {
                let (meta, mut none) = (Pool::meta(), NoParams);
                pass(model, &mut Tape::new(&meta, &mut none, model.params(), inference(precision)), &inputs)?;
                space.insert(pool(meta.usage().high_water_bytes)?)
            }
        };
        let mut tape = Tape::new(space, &mut *store, model.params(), inference(precision));
        take(&pass(model, &mut tape, &inputs)?);
    }
    Ok(())
}
