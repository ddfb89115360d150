//! What a tape begins with: parameters, inputs, constants, and leaves whose gradient is asked for.

use std::borrow::Cow;

use super::Tape;
use crate::{
    Array, Dtype, EngineError, Inputs, ParamId, Reals, Shape,
    reals::{convert, widened},
    tensor::{Storage, Tensor},
};

impl Tape<'_> {
    /// A parameter as a tensor.
    #[must_use]
    pub fn param(&self, param: ParamId) -> Tensor {
        let shape = self.table.spec(param).shape;
        Tensor { shape, storage: Storage::Param(param), value: usize::MAX, needs_grad: self.options.train }
    }

    /// Put the input called `name` on the tape.
    /// # Errors
    /// [`EngineError::Input`] when the batch lacks it, [`EngineError::PoolFull`].
    pub fn input(&mut self, inputs: &Inputs, name: &'static str) -> Result<Tensor, EngineError> {
        match inputs.get(name)? {
            Array::U32(shape, data) => self.tokens(*shape, data),
            Array::F32(shape, data) => self.constant(*shape, data),
        }
    }

    /// Whole numbers (tokens, positions) on the tape.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn tokens(&mut self, shape: Shape, data: &[u32]) -> Result<Tensor, EngineError> {
        let mut buffer = self.pool.take(Dtype::U32, shape.elements())?;
        if self.device.is_real() {
            fits("tokens", shape, data.len())?;
            buffer.u32s_mut().copy_from_slice(data);
        }
        Ok(self.tensor(shape, buffer, false))
    }

    /// Whole numbers that `data` gives; it is not asked where there are no numbers.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn tokens_of(&mut self, shape: Shape, data: impl FnOnce() -> Vec<u32>) -> Result<Tensor, EngineError> {
        let data = if self.device.is_real() { data() } else { Vec::new() };
        self.tokens(shape, &data)
    }

    /// Numbers that take no gradient and that `data` gives; it is not asked where there are none.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn constant_of(&mut self, shape: Shape, data: impl FnOnce() -> Vec<f32>) -> Result<Tensor, EngineError> {
        let data = if self.device.is_real() { data() } else { Vec::new() };
        self.constant(shape, &data)
    }

    /// Numbers that take no gradient.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn constant(&mut self, shape: Shape, data: &[f32]) -> Result<Tensor, EngineError> {
        self.numbers(Dtype::F32, shape, data, false)
    }

    /// Numbers that stand for an activation (what an earlier stage gave), and are stored as one. Their gradient, if they need one, can be
    /// read with [`Tape::grad`] after the backward pass.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn leaf(&mut self, shape: Shape, data: &[f32], needs_grad: bool) -> Result<Tensor, EngineError> {
        self.numbers(self.activations(), shape, data, needs_grad)
    }

    fn numbers(&mut self, dtype: Dtype, shape: Shape, data: &[f32], needs_grad: bool) -> Result<Tensor, EngineError> {
        let mut buffer = self.pool.take(dtype, shape.elements())?;
        if self.device.is_real() {
            fits("input", shape, data.len())?;
            convert(Reals::F32(data), buffer.reals_mut());
        }
        Ok(self.tensor(shape, buffer, needs_grad))
    }

    /// The gradient that reached a leaf.
    #[must_use]
    pub fn grad(&self, tensor: &Tensor) -> Option<Cow<'_, [f32]>> {
        self.grads.get(tensor.value)?.as_ref().map(|buffer| widened(buffer.reals()))
    }
}

pub(super) fn fits(op: &'static str, shape: Shape, len: usize) -> Result<(), EngineError> {
    if shape.elements() == len {
        return Ok(());
    }
    Err(crate::ShapeError::new(op, format!("{len} numbers do not fill {shape}")).into())
}
