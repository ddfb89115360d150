//! What a product of matrices is: its sides, its sizes and its precision, whichever loop computes it.

use half::bf16;
use rayon::prelude::*;

use crate::Element;

/// What operands are rounded to; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    /// Nearest even. Where the CPU has no instruction for it, slower than f32 and as exact.
    Bf16,
}

impl Precision {
    /// How many words `k` numbers take; in bf16 whole steps of the matrix tiles, on every CPU.
    pub(crate) fn words(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Bf16 => k.div_ceil(32) * 16,
        }
    }

    /// How many numbers are in a word.
    pub(crate) const fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }

    pub(crate) fn is_on_tiles(self) -> bool {
        self == Self::Bf16 && crate::level() == crate::Level::Amx
    }
}

/// A matrix somewhere in a slice: element `(i, j)` is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a, T = f32> {
    pub data: &'a [T],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T: Element> Mat<'a, T> {
    /// Row-major, `cols` to a row.
    #[must_use]
    pub fn rows(data: &'a [T], cols: usize) -> Self {
        Self { data, row_stride: cols, col_stride: 1 }
    }

    #[must_use]
    pub fn transposed(self) -> Self {
        Self { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    /// Without its first `row` rows and `col` columns; empty where there are no more.
    pub(crate) fn from(self, row: usize, col: usize) -> Self {
        Self { data: self.data.get(row * self.row_stride + col * self.col_stride..).unwrap_or(&[]), ..self }
    }

    /// The number at row `i` and column `j`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_stride + j * self.col_stride].wide()
    }

    pub(crate) fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// Width of a panel of B, in numbers; the same at every level, so that sizes can be told without a CPU.
pub(crate) const NR: usize = 32;

/// Words of k in one pass: a panel of B of that depth is 24 KiB and stays in the first cache.
pub(crate) const KC: usize = 192;

/// Columns of C in one task, where all rows are.
pub(crate) const STRIP: usize = 128;

/// One product's sizes and how to do it: `A` `[m, k]`, `B` `[k, n]`, `C` `[m, n]` row-major.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub precision: Precision,
    /// Add to what C holds.
    pub accumulate: bool,
}

impl Gemm {
    /// Do each of `count` tasks, on many threads where the product is large enough to be worth it.
    pub(crate) fn each(&self, count: usize, task: impl Fn(usize) + Send + Sync) {
        if self.m * self.n * self.k < 1 << 16 {
            (0..count).for_each(task);
        } else {
            (0..count).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}

/// The first `rows` by `cols` of `sums` into C, with the bias of its columns.
/// # Safety
/// `c` points to `rows` rows of `cols` numbers, `ldc` apart.
#[inline(always)]
pub(crate) unsafe fn put_block<C: Element>(
    sums: &[[f32; NR]],
    rows: usize,
    cols: usize,
    bias: Option<&[f32]>,
    adds: bool,
    c: *mut C,
    ldc: usize,
) {
    for (r, sums) in sums.iter().enumerate().take(rows) {
        for (s, sum) in sums.iter().enumerate().take(cols) {
            let bias = bias.map_or(0.0, |bias| bias[s]);
            // SAFETY: the caller's promise.
            unsafe {
                let c = c.add(r * ldc + s);
                *c = C::rounded(if adds { (*c).wide() + sum + bias } else { sum + bias });
            }
        }
    }
}

/// `x` rounded to bf16 and back.
#[must_use]
pub fn rounded(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}
