//! The seam behind which a strategy decides who holds parameters.
//!
//! ```text
//! Model -> ParamTable (names, shapes, starts) -> ParamStore (values, gradients) <- Tape
//! ```
//! A model names parameters and never ranks. The tape asks the store to `gather` a block before it runs and to
//! `release` it after, reads weights, adds to gradients, and says `reduce` as soon as a gradient is final. The trait
//! stands here, below the strategies that implement it, because the tape is its caller.

use std::sync::Arc;

use crate::{BlockId, EngineError, Form, Numbers, ParamId, Weight};

/// Where in a step a forward and backward pass stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassAt {
    /// It is the last micro-batch of its lane.
    pub ends_lane: bool,
    /// And of this rank's last lane.
    pub ends_step: bool,
    /// The blocks `first..end` that it runs.
    pub first: usize,
    pub end: usize,
}

impl PassAt {
    /// The only pass of a step, through all blocks.
    pub const ONLY: Self = Self { ends_lane: true, ends_step: true, first: 0, end: usize::MAX };
}

/// Who holds a parameter, when it is gathered, where its gradient goes. A strategy is one file that implements this.
pub trait ParamStore {
    /// Gradients come now from this pass.
    fn begin_pass(&mut self, _pass: PassAt) {}

    /// No more gradients come from it.
    /// # Errors
    /// When a rank does not answer.
    fn end_pass(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Make the parameters of `block` readable.
    /// # Errors
    /// When a rank that holds a part of them does not answer.
    fn gather(&mut self, block: BlockId) -> Result<(), EngineError>;

    /// The parameters of `block` are not read until the next `gather`.
    fn release(&mut self, block: BlockId);

    /// A product reads `param`, which is gathered, from the packed copy of this form; from now on there is one.
    fn pack(&mut self, param: ParamId, form: Form);

    /// The values of a gathered parameter.
    fn weight(&self, param: ParamId) -> Arc<Weight>;

    /// The gradient accumulator of the lane at work, taken out while an op adds to it.
    fn take_grad(&mut self, param: ParamId) -> Numbers;

    /// Put back what [`ParamStore::take_grad`] took.
    fn put_grad(&mut self, param: ParamId, grad: Numbers);

    /// This backward pass adds no more to the gradient of `param`.
    /// # Errors
    /// When the gradient has to go to a rank that does not answer.
    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError>;
}

/// A store with nothing in it, for `Meta`.
pub struct NoParams;

impl ParamStore for NoParams {
    fn gather(&mut self, _block: BlockId) -> Result<(), EngineError> {
        Ok(())
    }
    fn release(&mut self, _block: BlockId) {}
    fn pack(&mut self, _param: ParamId, _form: Form) {}
    fn weight(&self, param: ParamId) -> Arc<Weight> {
        unreachable!("no op reads parameter {} on Meta", param.0)
    }
    fn take_grad(&mut self, _param: ParamId) -> Numbers {
        Numbers::default()
    }
    fn put_grad(&mut self, _param: ParamId, _grad: Numbers) {}
    fn reduce(&mut self, _param: ParamId) -> Result<(), EngineError> {
        Ok(())
    }
}
