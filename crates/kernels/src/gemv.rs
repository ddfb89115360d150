//! Products with few rows, as when a text is written token by token: limited by reading B once, so nothing is packed
//! and no block kept.

use rayon::prelude::*;

use crate::{
    Element, SharedMut,
    product::{Gemm, Mat, NR, put_block},
    simd::{Vector, word},
};

/// Up to so many rows blocks for the caches only cost.
pub(crate) const FEW: usize = 4;

/// Each output is a dot product of two runs of memory; packing would cost more than it saves.
pub(crate) fn plain<A: Element, B: Element, C: Element>(g: &Gemm, a: Mat<'_, A>, b: Mat<'_, B>, bias: Option<&[f32]>, c: &mut [C]) {
    for (i, c) in c.chunks_exact_mut(g.n).take(g.m).enumerate() {
        let row = &a.data[i * a.row_stride..][..g.k];
        c.par_chunks_mut(64).enumerate().for_each(|(chunk, c)| {
            for (j, c) in c.iter_mut().enumerate() {
                let j = chunk * 64 + j;
                let sum = dot(row, &b.data[j * b.col_stride..][..g.k]) + bias.map_or(0.0, |bias| bias[j]);
                *c = C::rounded(if g.accumulate { c.wide() + sum } else { sum });
            }
        });
    }
}

/// Every packed word of B is read once, panel by panel.
pub(crate) fn packed<A: Element, C: Element>(g: &Gemm, a: Mat<'_, A>, b: &[f32], bias: Option<&[f32]>, c: &mut [C]) {
    let words = g.precision.words(g.k);
    let at = |r: usize, p: usize| if p < g.k { a.at(r, p) } else { 0.0 };
    let rows: Vec<f32> = (0..g.m).flat_map(|r| (0..words).map(move |w| word(at(r, 2 * w), at(r, 2 * w + 1)))).collect();
    let shared = SharedMut::new(c);
    (0..g.n.div_ceil(NR)).into_par_iter().with_min_len(2).for_each(|panel| {
        let j = panel * NR;
        let mut sums = [[0.0; NR]; FEW];
        few_sums(&rows, words, &b[j * words..][..NR * words], &mut sums);
        // SAFETY: the columns from `j` on are this panel's alone.
        unsafe { put_block(&sums, g.m, NR.min(g.n - j), bias.map(|bias| &bias[j..]), g.accumulate, shared.at(j), g.n) };
    });
}

/// Words of k that are asked for before they are needed.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 24;

simd_fn! {
    /// `sums[r] = sum over words of rows[r] panel`, for as many rows as there are.
    fn few_sums(rows: &[f32], words: usize, panel: &[f32], sums: &mut [[f32; NR]; FEW]) = few_sums_body;
}

#[inline(always)]
fn few_sums_body<V: Vector>(rows: &[f32], words: usize, panel: &[f32], sums: &mut [[f32; NR]; FEW]) {
    for (row, sums) in rows.chunks_exact(words.max(1)).zip(sums) {
        for c in (0..NR).step_by(2 * V::N) {
            // Two chains of additions for each vector, so that one does not wait for the other.
            let mut acc = [[V::splat(0.0); 2]; 2];
            // SAFETY: the panel holds `words` rows of NR, and `words` is a multiple of 16.
            unsafe {
                for w in (0..words).step_by(2) {
                    for q in 0..2 {
                        // The CPU's own prefetcher stops at each page.
                        #[cfg(target_arch = "x86_64")]
                        for line in [0, 16] {
                            let ahead = panel.as_ptr().wrapping_add((w + q + AHEAD) * NR + line);
                            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ahead.cast());
                        }
                        let (a, b) = (V::splat(row[w + q]), panel.as_ptr().add((w + q) * NR + c));
                        acc[q] = [V::dot_bf16(a, V::load(b), acc[q][0]), V::dot_bf16(a, V::load(b.add(V::N)), acc[q][1])];
                    }
                }
                for half in 0..2 {
                    acc[0][half].add(acc[1][half]).store(sums.as_mut_ptr().add(c + half * V::N));
                }
            }
        }
    }
}

simd_fn! {
    /// `sum a[i] b[i]`
    pub(crate) fn dot<A, B>(a: &[A], b: &[B]) -> f32 = dot_body;
}

#[inline(always)]
fn dot_body<V: Vector, A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    let n = a.len().min(b.len());
    let mut sums = [V::splat(0.0); 4];
    let step = 4 * V::N;
    let end = n - n % step;
    for i in (0..end).step_by(step) {
        for (s, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `i + step <= n`.
            *sum = unsafe { A::load::<V>(a.as_ptr().add(i + s * V::N)).fma(B::load(b.as_ptr().add(i + s * V::N)), *sum) };
        }
    }
    let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    (end..n).fold(sum, |sum, i| sum + a[i].wide() * b[i].wide())
}
