//! Every rank holds every parameter; gradients are summed over lanes, then over ranks.
//! Per rank: 4 bytes a parameter for weights, 4 for each gradient that the lane tree holds, and in bf16 two packed
//! copies of each matrix.

use std::sync::Arc;

use comm::Communicator;
use engine::{BlockId, EngineError, ParamId, ParamStore, ParamTable, Weight};

use crate::lanes::{LaneSum, copies};

/// See the head of this file.
pub struct Replicated<C> {
    table: ParamTable,
    weights: Vec<Arc<Weight>>,
    grads: Vec<LaneSum>,
    /// Whether the pass at work is the last of its lane.
    ends_lane: bool,
    comm: C,
}

impl<C: Communicator> Replicated<C> {
    /// All parameters of `table` at their starting values for `seed`.
    #[must_use]
    pub fn new(table: &ParamTable, seed: u64, comm: C) -> Self {
        Self::with_values(table, comm, |id| table.initial(id, seed))
    }

    /// All parameters of `table` at the values that `value` gives.
    #[must_use]
    pub fn with_values(table: &ParamTable, comm: C, mut value: impl FnMut(ParamId) -> Vec<f32>) -> Self {
        let weights = table.ids().map(|id| Arc::new(Weight::new(value(id), table.spec(id).shape))).collect();
        let grads = table.ids().map(|_| LaneSum::default()).collect();
        Self { table: table.clone(), weights, grads, ends_lane: true, comm }
    }

    /// Bytes that a rank holds for weights, and for the gradients of `lanes` lanes.
    #[must_use]
    pub fn bytes(table: &ParamTable, lanes: usize) -> StoreBytes {
        let weights = 4 * table.elements();
        StoreBytes { weights, grads: weights * copies(lanes) }
    }

    /// Bytes that it really holds now, packed copies included.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let weights: u64 = self.weights.iter().map(|w| 4 * w.values().len() as u64 + w.held_packed_bytes()).sum();
        weights + self.grads.iter().map(LaneSum::held_bytes).sum::<u64>()
    }

    #[must_use]
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    #[must_use]
    pub fn value(&self, id: ParamId) -> &[f32] {
        self.weights[id.0].values()
    }

    /// Forget the last step's gradients.
    pub fn begin_step(&mut self) {
        self.grads.iter_mut().for_each(LaneSum::clear);
    }

    /// A forward and backward pass begins; `ends_lane` when it is the last micro-batch of its lane.
    pub fn begin_pass(&mut self, ends_lane: bool) {
        self.ends_lane = ends_lane;
    }

    /// All lanes are done: sum over ranks. Afterwards [`Replicated::grad`] is the gradient of the global batch.
    /// # Errors
    /// When a rank does not answer.
    pub fn end_step(&mut self) -> Result<(), EngineError> {
        for (grad, spec) in self.grads.iter_mut().zip(self.table.specs()) {
            if grad.total().is_empty() {
                // No op of the model used this parameter.
                grad.end_lane(spec.shape.elements());
            }
            self.comm.all_reduce(grad.total_mut(), comm::Order::Tree).map_err(|e| EngineError::Rank(Box::new(e)))?;
        }
        Ok(())
    }

    /// The sum over ranks of something small that is no gradient.
    /// # Errors
    /// When a rank does not answer.
    pub fn all_reduce_sum(&mut self, data: &mut [f32]) -> Result<(), EngineError> {
        self.comm.all_reduce(data, comm::Order::Tree).map_err(|e| EngineError::Rank(Box::new(e)))
    }

    /// This rank and their number.
    #[must_use]
    pub fn rank(&self) -> (usize, usize) {
        (self.comm.rank(), self.comm.ranks())
    }

    /// The gradient over the global batch, after [`Replicated::end_step`].
    #[must_use]
    pub fn grad(&self, id: ParamId) -> &[f32] {
        self.grads[id.0].total()
    }

    /// Values and gradient of one parameter.
    pub fn value_and_grad(&mut self, id: ParamId) -> (&mut [f32], &mut [f32]) {
        of_optimiser(&mut self.weights[id.0], &mut self.grads[id.0])
    }

    /// Values and gradients of all, in the order of the table, for the optimiser.
    pub fn values_and_grads(&mut self) -> Vec<(&mut [f32], &mut [f32])> {
        self.weights.iter_mut().zip(&mut self.grads).map(|(weight, grad)| of_optimiser(weight, grad)).collect()
    }
}

fn of_optimiser<'a>(weight: &'a mut Arc<Weight>, grad: &'a mut LaneSum) -> (&'a mut [f32], &'a mut [f32]) {
    let weight = Arc::get_mut(weight).expect("no tape holds a weight between steps");
    (weight.values_mut(), grad.total_mut())
}

/// See [`Replicated::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreBytes {
    pub weights: u64,
    pub grads: u64,
}

impl<C: Communicator> ParamStore for Replicated<C> {
    fn gather(&mut self, _block: BlockId) -> Result<(), EngineError> {
        Ok(()) // always here
    }
    fn release(&mut self, _block: BlockId) {}
    fn weight(&self, param: ParamId) -> Arc<Weight> {
        self.weights[param.0].clone()
    }
    fn take_grad(&mut self, param: ParamId) -> Vec<f32> {
        self.grads[param.0].take(self.table.spec(param).shape.elements())
    }
    fn put_grad(&mut self, param: ParamId, grad: Vec<f32>) {
        self.grads[param.0].put(grad);
    }
    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError> {
        if self.ends_lane {
            self.grads[param.0].end_lane(self.table.spec(param).shape.elements());
        }
        Ok(())
    }
}
