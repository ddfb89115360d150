//! Where gradients are written and added up, each stored as its value is.

use std::rc::Rc;

use super::{Tape, wide::Wide};
use crate::{
    Buffer, EngineError, Numbers, ParamId, RealsMut, Shape,
    ops::GradOut,
    reals::{add_assign, convert},
};

impl Tape<'_> {
    /// Where an op writes a gradient: the store's accumulator of a parameter, or a buffer of a value's own, with what is there if it `adds`;
    /// the op takes it as it `is_stored`, or an f32 copy.
    pub(super) fn grad_target(
        &mut self,
        param: Option<ParamId>,
        value: usize,
        shape: Shape,
        [adds, is_stored]: [bool; 2],
    ) -> Result<Target, EngineError> {
        if let Some(param) = param {
            return Ok(Target::Param(param, self.store.take_grad(param)));
        }
        let old = if adds { self.grads[value].take() } else { None };
        let accumulate = old.is_some();
        let buffer = match old {
            Some(buffer) => self.unique(buffer)?,
            None => Rc::new(self.pool.take(self.dtypes[value], shape.elements())?),
        };
        let wide = self.wide(Some(&buffer), is_stored, accumulate)?;
        Ok(Target::Value { buffer, accumulate, wide })
    }

    pub(super) fn give_back(&mut self, target: Target, value: usize) -> Result<(), EngineError> {
        match self.settle(target) {
            Some(buffer) => self.merge(value, buffer),
            None => Ok(()),
        }
    }

    /// A parameter's gradient goes back to the store; a value's is rounded to what it is stored as, and stays with the tape.
    pub(super) fn settle(&mut self, target: Target) -> Option<Rc<Buffer>> {
        match target {
            Target::Param(param, grad) => {
                self.store.put_grad(param, grad);
                None
            }
            Target::Value { mut buffer, wide, .. } => {
                wide.settle(Rc::get_mut(&mut buffer).expect("a gradient being written has one owner"));
                Some(buffer)
            }
        }
    }

    /// Add `part` to the gradient of `value`.
    pub(super) fn merge(&mut self, value: usize, part: Rc<Buffer>) -> Result<(), EngineError> {
        let sum = match self.grads[value].take() {
            None if part.dtype() == self.dtypes[value] => part,
            None => {
                let mut sum = self.pool.take(self.dtypes[value], part.elements())?;
                convert(part.reals(), sum.reals_mut());
                Rc::new(sum)
            }
            Some(sum) => {
                let mut sum = self.unique(sum)?;
                if self.device.is_real()
                    && let Some(sum) = Rc::get_mut(&mut sum)
                {
                    add_assign(part.reals(), sum.reals_mut());
                }
                sum
            }
        };
        self.grads[value] = Some(sum);
        Ok(())
    }

    /// The buffer itself if nobody else holds it, or a copy.
    pub(super) fn unique(&mut self, buffer: Rc<Buffer>) -> Result<Rc<Buffer>, EngineError> {
        if Rc::strong_count(&buffer) == 1 {
            return Ok(buffer);
        }
        let mut copy = self.pool.take(buffer.dtype(), buffer.elements())?;
        convert(buffer.reals(), copy.reals_mut());
        Ok(Rc::new(copy))
    }
}

pub(super) enum Target {
    Param(ParamId, Numbers),
    Value { buffer: Rc<Buffer>, accumulate: bool, wide: Wide },
}

impl Target {
    pub(super) fn out(&mut self) -> GradOut<'_> {
        match self {
            Self::Param(_, grad) => GradOut { data: RealsMut::F32(grad.values_mut()), accumulate: true },
            Self::Value { buffer, accumulate, wide } => {
                let buffer = Rc::get_mut(buffer).expect("a gradient being written has one owner");
                GradOut { data: wide.write(buffer), accumulate: *accumulate }
            }
        }
    }
}
