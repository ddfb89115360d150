//! f32 products with few rows, as when many texts are written together: `C^T = B^T A^T`, so that the rows of a weight are read once where
//! they lie, as the left side would be, and the few rows of A are what is packed.
//!
//! ```text
//! A^T in panels: [m / 32][k][32]      C^T of a strip: [m / 32][columns of C][32], in cache
//! for MR columns of C, for each run of k: MR numbers of B by two vectors of A^T, in registers
//! ```
//! Each sum is taken in the order in which blocks take it ([`crate::gemm`]), so it has the same bits.

use std::cell::Cell;

use crate::{
    Element, SharedMut,
    product::{Gemm, KC, Mat, NR, STRIP},
    simd::{MOST, Vector},
};

/// Columns of C whose sums are in registers at once, with vectors of 16 numbers; half with others.
const COLUMNS: usize = 12;

/// Numbers of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;

thread_local! {
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `b` has its columns as runs of memory; `a` is A^T in panels.
pub(crate) fn product<B: Element, C: Element>(g: &Gemm, a: &[f32], b: Mat<'_, B>, bias: Option<&[f32]>, c: &mut [C]) {
    let shared = SharedMut::new(c);
    // As many strips for each thread, for no thread has work to spare where rows are few.
    let strips = g.n.div_ceil(STRIP).max(1).next_multiple_of(rayon::current_num_threads());
    let width = g.n.div_ceil(strips).max(1).next_multiple_of(COLUMNS);
    g.each(g.n.div_ceil(width), |task| {
        let j = task * width;
        let strip = Gemm { n: width.min(g.n - j), ..*g };
        let b = Mat { data: &b.data[j * b.col_stride..], ..b };
        let mut sums = SUMS.take();
        // SAFETY: the columns from `j` on are this task's alone, in each of `m` rows of `g.n` numbers.
        let c = unsafe { shared.at(j) };
        columns(strip, a, b, bias.map(|bias| &bias[j..]), c, g.n, &mut sums);
        SUMS.set(sums);
    });
}

simd_fn! {
    /// All of the strip `g`; `c` points to `m` rows of `n` numbers, `ldc` apart, that are this call's alone.
    fn columns<B, C>(g: Gemm, a: &[f32], b: Mat<'_, B>, bias: Option<&[f32]>, c: *mut C, ldc: usize, sums: &mut Vec<f32>) = columns_body;
}

#[inline(always)]
fn columns_body<V: Vector, B: Element, C: Element>(
    g: Gemm,
    a: &[f32],
    b: Mat<'_, B>,
    bias: Option<&[f32]>,
    c: *mut C,
    ldc: usize,
    sums: &mut Vec<f32>,
) {
    if V::N == 16 {
        strip::<V, B, C, COLUMNS>(g, a, b, bias, c, ldc, sums)
    } else {
        strip::<V, B, C, { COLUMNS / 2 }>(g, a, b, bias, c, ldc, sums)
    }
}

#[inline(always)]
fn strip<V: Vector, B: Element, C: Element, const MR: usize>(
    g: Gemm,
    a: &[f32],
    b: Mat<'_, B>,
    bias: Option<&[f32]>,
    c: *mut C,
    ldc: usize,
    sums: &mut Vec<f32>,
) {
    let (panels, width, room) = (g.m.div_ceil(NR), 2 * V::N, g.n.next_multiple_of(MR));
    sums.resize(sums.len().max(panels * room * NR), 0.0);
    for j in (0..g.n).step_by(MR) {
        // Columns beyond the last are the last again, and are not written.
        let at = |r: usize| (j + r).min(g.n - 1) * b.col_stride;
        for start in (0..g.k).step_by(KC) {
            let depth = KC.min(g.k - start);
            for panel in 0..panels {
                for half in (0..NR).step_by(width).filter(|half| panel * NR + half < g.m) {
                    let mut block = [[V::splat(0.0); 2]; MR];
                    // SAFETY: each column of B holds `k` numbers, the panel `k` runs of NR, the sums `room` runs of NR.
                    unsafe {
                        let columns: [*const B; MR] = std::array::from_fn(|r| b.data.as_ptr().add(at(r) + start));
                        let a = a.as_ptr().add((panel * g.k + start) * NR + half);
                        for p in 0..depth {
                            // The CPU's own prefetcher stops at each page, and follows fewer columns.
                            #[cfg(target_arch = "x86_64")]
                            if p % LINE == 0 && panel == 0 && half == 0 {
                                for column in columns {
                                    let next = column.wrapping_add(p + MR * b.col_stride);
                                    std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(next.cast());
                                }
                            }
                            let (a0, a1) = (V::load(a.add(p * NR)), V::load(a.add(p * NR + V::N)));
                            for r in 0..MR {
                                let b = V::splat((*columns[r].add(p)).wide());
                                block[r] = [b.fma(a0, block[r][0]), b.fma(a1, block[r][1])];
                            }
                        }
                        for r in 0..MR {
                            let to = sums.as_mut_ptr().add((panel * room + j + r) * NR + half);
                            for (half, sum) in block[r].into_iter().enumerate() {
                                let to = to.add(half * V::N);
                                let sum = if start > 0 { V::load(to).add(sum) } else { sum };
                                sum.store(to);
                            }
                        }
                    }
                }
            }
            if start == 0 && (g.accumulate || bias.is_some()) {
                for r in 0..MR.min(g.n - j) {
                    for i in 0..g.m {
                        let sum = &mut sums[(i / NR * room + j + r) * NR + i % NR];
                        let bias = bias.map_or(0.0, |bias| bias[j + r]);
                        // SAFETY: row `i` and column `j + r` are inside C.
                        *sum = if g.accumulate { unsafe { (*c.add(i * ldc + j + r)).wide() + *sum + bias } } else { *sum + bias };
                    }
                }
            }
        }
    }
    // Back from columns to rows, a square of vectors at a time.
    let at = |i: usize, j: usize| (i / NR * room + j) * NR + i % NR;
    for i in (0..g.m).step_by(V::N) {
        let rows = V::N.min(g.m - i);
        let whole = g.n / V::N * V::N;
        for j in (0..whole).step_by(V::N) {
            let mut block = [V::splat(0.0); MOST];
            // SAFETY: a panel of sums is a whole number of vectors wide; `rows` rows from `i` and `N` columns from `j` are inside C.
            unsafe {
                for (s, column) in block.iter_mut().enumerate().take(V::N) {
                    *column = V::load(sums.as_ptr().add(at(i, j + s)));
                }
                V::transpose(&mut block);
                for (r, row) in block.into_iter().enumerate().take(rows) {
                    C::store(row, c.add((i + r) * ldc + j));
                }
            }
        }
        for (r, j) in (i..i + rows).flat_map(|r| (whole..g.n).map(move |j| (r, j))) {
            // SAFETY: row `r` and column `j` are inside C.
            unsafe { *c.add(r * ldc + j) = C::rounded(sums[at(r, j)]) };
        }
    }
}
