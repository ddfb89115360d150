//! Tensors: counted handles to what is on a tape.

use std::{borrow::Cow, rc::Rc};

use crate::{Buffer, EngineError, ParamId, Shape, reals::widened};

/// A dense array on the tape: a counted handle to a buffer, or a parameter of the store.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) shape: Shape,
    pub(crate) storage: Storage,
    /// Where its gradient is kept.
    pub(crate) value: usize,
    pub(crate) needs_grad: bool,
}

#[derive(Clone)]
pub(crate) enum Storage {
    Buffer(Rc<Buffer>),
    Param(ParamId),
}

impl Tensor {
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The numbers, in f32 whatever they are stored as; empty on `Meta` and for parameters, which the store holds.
    #[must_use]
    pub fn f32s(&self) -> Cow<'_, [f32]> {
        match &self.storage {
            Storage::Buffer(buffer) => widened(buffer.reals()),
            Storage::Param(_) => Cow::default(),
        }
    }

    /// The same numbers in the same order under another shape.
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self, EngineError> {
        let shape = Shape::new(dims);
        if shape.elements() != self.shape.elements() {
            return Err(crate::ShapeError::new("reshape", format!("{} does not fill {shape}", self.shape)).into());
        }
        Ok(Self { shape, ..self.clone() })
    }
}

impl Tensor {
    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        match &self.storage {
            Storage::Buffer(buffer) => Some(buffer),
            Storage::Param(_) => None,
        }
    }

    pub(crate) fn param_id(&self) -> Option<ParamId> {
        match self.storage {
            Storage::Param(param) => Some(param),
            Storage::Buffer(_) => None,
        }
    }
}
