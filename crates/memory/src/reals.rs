//! Slices of real numbers in 32 or 16 bits: what an op reads and writes, whichever its activations are stored in.

use bytemuck::Pod;
use half::bf16;

use crate::Dtype;

/// One of the two types: f32, or bf16, which is its upper half.
pub trait Real: Pod + Send + Sync {
    const DTYPE: Dtype;
    fn wide(self) -> f32;
    /// To nearest even.
    fn rounded(x: f32) -> Self;
}

impl Real for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        x
    }
}

impl Real for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// Numbers to read; empty on `Meta`.
#[derive(Debug, Clone, Copy)]
pub enum Reals<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Numbers to write; empty on `Meta`.
#[derive(Debug)]
pub enum RealsMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl<'a> Reals<'a> {
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }

    /// As numbers of the type in which they are stored.
    /// # Panics
    /// When they are stored in the other.
    #[must_use]
    pub fn of<T: Real>(self) -> &'a [T] {
        match (self, T::DTYPE) {
            (Self::F32(numbers), Dtype::F32) => bytemuck::cast_slice(numbers),
            (Self::Bf16(numbers), Dtype::Bf16) => bytemuck::cast_slice(numbers),
            (_, dtype) => panic!("numbers of {:?} are read as {dtype:?}", self.dtype()),
        }
    }

    /// # Panics
    /// When they are stored in 16 bits.
    #[must_use]
    pub fn f32s(self) -> &'a [f32] {
        self.of()
    }
}

impl RealsMut<'_> {
    /// The same numbers, lent once more.
    #[must_use]
    pub fn reborrow(&mut self) -> RealsMut<'_> {
        match self {
            Self::F32(numbers) => RealsMut::F32(numbers),
            Self::Bf16(numbers) => RealsMut::Bf16(numbers),
        }
    }

    /// As numbers of the type in which they are stored.
    /// # Panics
    /// When they are stored in the other.
    #[must_use]
    pub fn of<T: Real>(&mut self) -> &mut [T] {
        match (self, T::DTYPE) {
            (Self::F32(numbers), Dtype::F32) => bytemuck::cast_slice_mut(numbers),
            (Self::Bf16(numbers), Dtype::Bf16) => bytemuck::cast_slice_mut(numbers),
            (Self::F32(_), dtype) => panic!("numbers of F32 are written as {dtype:?}"),
            (Self::Bf16(_), dtype) => panic!("numbers of Bf16 are written as {dtype:?}"),
        }
    }

    /// # Panics
    /// When they are stored in 16 bits.
    #[must_use]
    pub fn f32s(&mut self) -> &mut [f32] {
        self.of()
    }
}
