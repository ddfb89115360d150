//! f32 copies for ops whose kernels read and write no bf16, taken from the pool for as long as a pass of the op runs. Devices of other kinds
//! than a CPU convert in registers and need none.

use super::Tape;
use crate::{
    Buffer, Dtype, EngineError, Kind, Reals, RealsMut, Tensor,
    ops::{Class, Op},
    reals::convert,
};

/// The f32 copy of a buffer, or none where the op reads and writes the buffer itself.
pub(super) struct Wide(Option<Buffer>);

impl Wide {
    pub(super) fn read<'a>(&'a self, buffer: Option<&'a Buffer>) -> Option<&'a Buffer> {
        self.0.as_ref().or(buffer)
    }

    pub(super) fn reals<'a>(&'a self, buffer: &'a Buffer) -> Reals<'a> {
        self.0.as_ref().unwrap_or(buffer).reals()
    }

    pub(super) fn write<'a>(&'a mut self, buffer: &'a mut Buffer) -> RealsMut<'a> {
        self.0.as_mut().unwrap_or(buffer).reals_mut()
    }

    /// Round what was written to the copy, which ends here.
    pub(super) fn settle(self, buffer: &mut Buffer) {
        if let Some(copy) = self.0 {
            convert(copy.reals(), buffer.reals_mut());
        }
    }
}

impl Tape<'_> {
    /// What the output of `op` is stored as. Numbers of 32 bits give numbers of 32 bits (a loss of a loss, a constant turned about) until a
    /// product makes activations of them.
    pub(super) fn dtype_of(&self, op: &impl Op, inputs: &[&Tensor]) -> Dtype {
        let makes_activations = matches!(op.class(), Class::Product | Class::Convolution | Class::Attention);
        let mut read = inputs.iter().filter_map(|t| t.buffer()).map(Buffer::dtype).filter(|dtype| *dtype != Dtype::U32).peekable();
        let is_wide = !makes_activations && read.peek().is_some() && read.all(|dtype| dtype == Dtype::F32);
        op.writes().unwrap_or(if is_wide { Dtype::F32 } else { self.activations() })
    }

    /// Whether `op` reads and writes 16 bits here: all that it can read so, and its output, are stored so.
    pub(super) fn runs_in_bf16(&self, op: &impl Op, inputs: &[&Tensor], output: Dtype) -> bool {
        let is_bf16 = |i: &usize| inputs.get(*i).is_none_or(|t| t.buffer().is_some_and(|b| b.dtype() == Dtype::Bf16));
        output == Dtype::Bf16 && !op.reads_bf16().is_empty() && op.reads_bf16().iter().all(is_bf16)
    }

    /// The f32 copy of `buffer`, with its numbers if it `is_read`, unless the op takes the buffer as it `is_stored`.
    pub(super) fn wide(&self, buffer: Option<&Buffer>, is_stored: bool, is_read: bool) -> Result<Wide, EngineError> {
        let Some(buffer) = buffer.filter(|b| !is_stored && b.dtype() == Dtype::Bf16 && self.device.kind() == Kind::Cpu) else {
            return Ok(Wide(None));
        };
        let mut copy = self.pool.take(Dtype::F32, buffer.elements())?;
        if is_read {
            convert(buffer.reals(), copy.reals_mut());
        }
        Ok(Wide(Some(copy)))
    }
}
