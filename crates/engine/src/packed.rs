//! The CPU's packed bf16 copies of a matrix: how they are laid out, when they are made, and what they take.

use std::sync::{Mutex, OnceLock, PoisonError};

use kernels::gemm::{Mat, PackedRhs, Precision};

use crate::{ParamId, ParamTable, Shape};

/// Which product a packed copy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `y = x W^T`: inner axis `in`, outer axis `out`.
    Forward = 0,
    /// `dx = dy W`: inner axis `out`, outer axis `in`.
    Backward = 1,
}

impl Form {
    /// Of a parameter of `shape`: how many matrices, and rows and columns of the right side that a product reads.
    fn sizes(self, shape: Shape) -> (usize, [usize; 2]) {
        let [matrices, rows, cols] = shape.matrices();
        (matrices, if self == Self::Forward { [cols, rows] } else { [rows, cols] })
    }
}

/// The copies of one parameter.
#[derive(Default)]
pub(crate) struct Copies {
    /// Of each form, once asked for.
    fresh: [OnceLock<Vec<PackedRhs>>; 2],
    /// Memory of stale ones, to be packed into again.
    spare: [Mutex<Vec<PackedRhs>>; 2],
}

impl Copies {
    /// The values are about to change.
    pub(crate) fn forget(&mut self) {
        for (fresh, spare) in self.fresh.iter_mut().zip(&mut self.spare) {
            if let Some(stale) = fresh.take() {
                *spare.get_mut().unwrap_or_else(PoisonError::into_inner) = stale;
            }
        }
    }

    /// One copy for each matrix of `values`.
    pub(crate) fn of(&self, form: Form, shape: Shape, values: &[f32]) -> &[PackedRhs] {
        self.fresh[form as usize].get_or_init(|| {
            let (matrices, [k, n]) = form.sizes(shape);
            let mut copies = std::mem::take(&mut *self.spare[form as usize].lock().unwrap_or_else(PoisonError::into_inner));
            copies.resize_with(matrices, || PackedRhs::new(Precision::Bf16, k, n));
            for (copy, values) in copies.iter_mut().zip(values.chunks_exact((k * n).max(1))) {
                let weight = Mat::rows(values, shape.last());
                copy.pack(if form == Form::Forward { weight.transposed() } else { weight });
            }
            copies
        })
    }
}

/// Which packed copies there are of the parameters that a rank holds.
#[derive(Debug, Clone)]
pub struct Packed(Vec<[bool; 2]>);

impl Packed {
    /// None yet.
    #[must_use]
    pub fn of(table: &ParamTable) -> Self {
        Self(vec![[false; 2]; table.specs().len()])
    }

    /// There is one of `param` now.
    pub fn add(&mut self, param: ParamId, form: Form) {
        self.0[param.0][form as usize] = true;
    }

    /// They went with the parameter.
    pub fn forget(&mut self, param: ParamId) {
        self.0[param.0] = [false; 2];
    }

    #[must_use]
    pub fn bytes(&self, table: &ParamTable) -> u64 {
        let bytes = |form: Form, shape: Shape| {
            let (matrices, [k, n]) = form.sizes(shape);
            matrices * PackedRhs::bytes(Precision::Bf16, k, n)
        };
        let of = |forms: &[bool; 2], shape: Shape| {
            [Form::Forward, Form::Backward].into_iter().filter(|form| forms[*form as usize]).map(|form| bytes(form, shape)).sum::<usize>()
        };
        self.0.iter().zip(table.specs()).map(|(forms, spec)| of(forms, spec.shape) as u64).sum()
    }
}
