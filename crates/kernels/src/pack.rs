//! The sides of a product in the order in which its loops read them: [`crate::gemm`].

use rayon::prelude::*;

use crate::{
    Element,
    product::{Gemm, Mat, NR, Precision},
    simd::{MOST, Vector, word},
};

/// Numbers of a cache line, and how many ahead are asked for: the CPU's own prefetcher does not follow so many columns.
const LINE: usize = 16;
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 64;

/// All of B `[k, n]` in panels.
pub struct PackedRhs {
    pub(crate) words: Vec<f32>,
    pub(crate) precision: Precision,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl PackedRhs {
    #[must_use]
    pub fn new(precision: Precision, k: usize, n: usize) -> Self {
        Self { words: vec![0.0; Self::bytes(precision, k, n) / 4], precision, k, n }
    }

    /// Bytes that a packed `[k, n]` takes.
    #[must_use]
    pub fn bytes(precision: Precision, k: usize, n: usize) -> usize {
        4 * precision.words(k) * n.next_multiple_of(NR)
    }

    /// Pack `b` `[k, n]`.
    pub fn pack<T: Element>(&mut self, b: Mat<'_, T>) {
        pack_rhs(self.precision, b, self.k, self.n, &mut self.words);
    }
}

pub(crate) fn pack_rhs<T: Element>(precision: Precision, b: Mat<'_, T>, k: usize, n: usize, words: &mut [f32]) {
    let panel_words = precision.words(k) * NR;
    if panel_words == 0 {
        return;
    }
    let pack = |(p, panel): (usize, &mut [f32])| pack_panel(precision, b, k, p * NR, NR.min(n - p * NR), panel);
    if n * k < 1 << 14 {
        words.chunks_exact_mut(panel_words).enumerate().for_each(pack);
    } else {
        words.par_chunks_exact_mut(panel_words).enumerate().for_each(pack);
    }
}

simd_fn! {
    /// Columns `j..j + cols` of B, `[words][NR]`, zeros in the columns beyond.
    fn pack_panel<T>(precision: Precision, b: Mat<'_, T>, k: usize, j: usize, cols: usize, panel: &mut [f32]) = pack_panel_body;
}

#[inline(always)]
fn pack_panel_body<V: Vector, T: Element>(precision: Precision, b: Mat<'_, T>, k: usize, j: usize, cols: usize, panel: &mut [f32]) {
    let data = &b.data[j * b.col_stride..];
    let words = precision.words(k);
    // Words that are made of whole vectors; the rest, and whatever lies otherwise, goes one by one.
    let mut done = 0;
    if cols == NR && b.col_stride == 1 {
        let per_word = if precision == Precision::F32 { 1 } else { 2 };
        done = k / per_word;
        for (p, words) in panel.chunks_exact_mut(NR).enumerate().take(done) {
            for c in (0..NR).step_by(V::N) {
                // SAFETY: rows `p * per_word` and the next are inside B, with NR columns.
                unsafe {
                    let at = data.as_ptr().add(per_word * p * b.row_stride + c);
                    let low: V = T::load(at);
                    let words_of = if per_word == 1 { low } else { V::bf16_words(low, T::load(at.add(b.row_stride))) };
                    words_of.store(words.as_mut_ptr().add(c));
                }
            }
        }
    } else if cols == NR && b.row_stride == 1 {
        let per_block = if precision == Precision::F32 { V::N } else { 2 * V::N };
        done = k / per_block * V::N;
        // A cache line of each of a few columns at a time: where columns lie a power of two apart, more would evict each other.
        let line = LINE.max(V::N);
        for from in (0..done).step_by(line) {
            for c in (0..NR).step_by(V::N) {
                for p in (from..done.min(from + line)).step_by(V::N) {
                    let mut block = [V::splat(0.0); MOST];
                    // SAFETY: `per_block` numbers of each of `N` columns are inside B; `N` rows of NR words inside the panel.
                    unsafe {
                        for (i, column) in block.iter_mut().enumerate().take(V::N) {
                            let at = data.as_ptr().add((c + i) * b.col_stride);
                            #[cfg(target_arch = "x86_64")]
                            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.wrapping_add(p + AHEAD).cast());
                            *column = if precision == Precision::F32 { T::load(at.add(p)) } else { T::bf16_run(at.add(2 * p)) };
                        }
                        V::transpose(&mut block);
                        for (i, row) in block.iter().enumerate().take(V::N) {
                            row.store(panel.as_mut_ptr().add((p + i) * NR + c));
                        }
                    }
                }
            }
        }
    }
    let at = |p: usize, c: usize| if p < k && c < cols { data[p * b.row_stride + c * b.col_stride].wide() } else { 0.0 };
    for p in done..words {
        for c in 0..NR {
            panel[p * NR + c] = match precision {
                Precision::F32 => at(p, c),
                Precision::Bf16 => word(at(2 * p, c), at(2 * p + 1, c)),
            };
        }
    }
}

/// `b` `[k, n]` in panels, on this thread; `words` grows to hold them.
pub(crate) fn pack_here<T: Element>(precision: Precision, b: Mat<'_, T>, k: usize, n: usize, words: &mut Vec<f32>) {
    let start = words.len();
    words.resize(start + PackedRhs::bytes(precision, k, n) / 4, 0.0);
    for (p, panel) in words[start..].chunks_exact_mut((precision.words(k) * NR).max(1)).enumerate() {
        pack_panel(precision, b, k, p * NR, NR.min(n - p * NR), panel);
    }
}

/// Rows `i..i + rows` of A, words `start..start + depth`, as `[depth][MR]`, zeros in the rows beyond. Room for one more
/// vector follows the panel.
#[inline(always)]
pub(crate) fn pack_lhs<V: Vector, A: Element, const MR: usize>(
    precision: Precision,
    a: Mat<'_, A>,
    i: usize,
    rows: usize,
    start: usize,
    depth: usize,
    k: usize,
    panel: &mut [f32],
) {
    let data = &a.data[i * a.row_stride..];
    let (per_word, first) = if precision == Precision::F32 { (1, start) } else { (2, 2 * start) };
    // Words that are made of whole vectors; the rest, and whatever lies otherwise, goes one by one.
    let mut done = 0;
    if a.col_stride == 1 {
        done = (depth.min((k - first) / per_word)) / V::N * V::N;
        for p in (0..done).step_by(V::N) {
            let mut block = [V::splat(0.0); MOST];
            // SAFETY: row `r` holds `per_word * N` numbers from `first + per_word * p` on. A row of the transposed block
            // is stored whole: what it has beyond MR lanes, the next one covers, and the last the room behind the panel.
            unsafe {
                for (r, row) in block.iter_mut().enumerate().take(rows) {
                    let at = data.as_ptr().add(r * a.row_stride + first + per_word * p);
                    *row = if per_word == 1 { A::load(at) } else { A::bf16_run(at) };
                }
                V::transpose(&mut block);
                for (q, row) in block.iter().enumerate().take(V::N) {
                    row.store(panel.as_mut_ptr().add((p + q) * MR));
                }
            }
        }
    }
    let at = |r: usize, p: usize| if p < k && r < rows { data[r * a.row_stride + p * a.col_stride].wide() } else { 0.0 };
    for p in done..depth {
        for r in 0..MR {
            let q = first + per_word * p;
            panel[p * MR + r] = if per_word == 1 { at(r, q) } else { word(at(r, q), at(r, q + 1)) };
        }
    }
}

/// As [`pack_lhs`], for all panels of an A whose columns lie as runs: each column is read once, along memory. Rows beyond
/// the last may be anything.
#[inline(always)]
pub(crate) fn pack_turned<V: Vector, A: Element, const MR: usize>(
    g: Gemm,
    a: Mat<'_, A>,
    start: usize,
    depth: usize,
    panel_room: usize,
    packed: &mut [f32],
) {
    let (panels, per_word) = (g.m.div_ceil(MR), g.precision.per_word());
    let at = |r: usize, q: usize| if q < g.k && r < g.m { a.data[r + q * a.col_stride].wide() } else { 0.0 };
    for p in 0..depth {
        let q = per_word * (start + p);
        let last_end = (q + per_word - 1) * a.col_stride + (panels - 1) * MR + V::N;
        if q + per_word <= g.k && last_end <= a.data.len() {
            for panel in 0..panels {
                // SAFETY: the bound above; what a store has beyond MR lanes, the next one covers, and the last the room.
                unsafe {
                    let from = a.data.as_ptr().add(q * a.col_stride + panel * MR);
                    let low: V = A::load(from);
                    let words = if per_word == 1 { low } else { V::bf16_words(low, A::load(from.add(a.col_stride))) };
                    words.store(packed.as_mut_ptr().add(panel * panel_room + p * MR));
                }
            }
        } else {
            for r in 0..panels * MR {
                let to = r / MR * panel_room + p * MR + r % MR;
                packed[to] = if per_word == 1 { at(r, q) } else { word(at(r, q), at(r, q + 1)) };
            }
        }
    }
}
