//! Losses between samples: what the whole batch, of all ranks, is told of each of its samples before any of them learns.
//!
//! A rank with one micro-batch meets the others in the middle of its pass, between trunk and loss. One with several runs the trunk of each
//! once more, ahead of all (Gao et al., arXiv:2101.06983), so that no more than one micro-batch is ever in memory. Either way an embedding
//! has the same bits, and so has all that follows.

use std::ops::Range;

use comm::{Job, Order};
use engine::{EngineError, Inputs};

use super::Trainer;
use crate::{
    TrainError,
    passes::{Handle, MicroBatch},
};

impl Trainer {
    /// The places among the batch's samples of those of each micro-batch; nothing where a sample's loss is its own.
    pub(super) fn shared_places(&self, micro_batches: &[MicroBatch<'_>], lanes: &[usize], batch: usize) -> Vec<Range<usize>> {
        if self.options.objective.shared_width(&*self.model).is_none() {
            return Vec::new();
        }
        let each = batch / (self.options.lanes * self.options.mesh.data);
        let mut taken = vec![0; lanes.len()];
        let mut place = |pass: &MicroBatch<'_>| {
            let first = lanes[pass.lane] * each + taken[pass.lane];
            taken[pass.lane] += pass.inputs.samples();
            first..first + pass.inputs.samples()
        };
        micro_batches.iter().map(&mut place).collect()
    }

    /// The inputs of micro-batches with what each is told, where there are several on this rank.
    pub(super) fn shared_ahead(
        &self,
        micro_batches: &[MicroBatch<'_>],
        places: &[Range<usize>],
        batch: usize,
    ) -> Result<Vec<Inputs>, TrainError> {
        if places.len() < 2 {
            return Ok(Vec::new());
        }
        let rows = self.stage_of(&self.pool).rows(micro_batches)?;
        let told = self.meet(&places.iter().cloned().zip(rows.iter().map(Vec::as_slice)).collect::<Vec<_>>(), batch)?;
        Ok(micro_batches.iter().zip(places).map(|(pass, own)| with_own(pass.inputs, &told, own)).collect())
    }

    /// What the batch's samples are told, from rows of this rank's and their places. All ranks call it.
    pub(super) fn meet(&self, own: &[(Range<usize>, &[f32])], batch: usize) -> Result<Inputs, EngineError> {
        let objective = &self.options.objective;
        let width = objective.shared_width(&*self.model).unwrap_or(0);
        let mut rows = Vec::new();
        if !self.pool.device().is_real() {
            // As many bytes on their way, and none of them here.
            for group in self.store.borrow_mut().groups() {
                group.run(Job::AllReduce(engine::Numbers::Counted(batch * width), Order::Tree)).map_err(EngineError::rank)?;
            }
        } else {
            rows.resize(batch * width, 0.0);
            for (places, values) in own {
                // A zero that others add leaves a number as it is, but for a zero's sign: one more zero sees to that.
                rows[places.start * width..].iter_mut().zip(*values).for_each(|(to, value)| *to = value + 0.0);
            }
            self.store.borrow_mut().sum(&mut rows)?;
        }
        objective.share(&*self.model, &mut Handle(self.store.clone()), rows)
    }
}

/// A micro-batch's inputs, with what all are told and which of all are its own.
pub(super) fn with_own(inputs: &Inputs, told: &Inputs, own: &Range<usize>) -> Inputs {
    inputs.clone().and(told).with_u32("own", &[own.len()], own.clone().map(|place| place as u32).collect())
}
