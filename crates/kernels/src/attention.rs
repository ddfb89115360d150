//! Attention over blocks of queries and keys with online softmax; *FlashAttention-2*, arXiv:2307.08691, algorithms 1, 2.
//!
//! Two ways through the blocks: [`vectors`] on every CPU, [`tiles`] for bf16 on matrix tiles. Few queries (one token of a
//! text being written) are dot products along the keys as they lie: nothing is packed. A task owns all that it writes, so
//! nothing is shared and the bits are fixed. Blocks that the mask hides are skipped.

mod paged;
mod rows;
mod tiles;
mod vectors;

use std::ops::Range;

use memory::Dtype;
pub use paged::{Paged, Query};
use rayon::prelude::*;
use rows::SCORES;

use crate::{
    Element, SharedMut, activation,
    elementwise::put,
    gemm::{Mat, Precision},
    gemv::dot,
    simd::{Vector, stride},
};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    Full,
    /// Those at its place and before.
    Causal,
    /// The last so many of those, its own place counted.
    Window(usize),
}

/// Sizes and choices. `q`, `out` `[batch, q_len, heads, head_dim]`; `k`, `v` `[batch, kv_len, kv_heads, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// The place of query 0 among the keys.
    pub q_offset: usize,
    pub mask: Mask,
    pub scale: f32,
    /// Add `slope * (key place - query place)` to scores.
    pub alibi: bool,
    /// Scores become `cap tanh(score / cap)` before the mask; *Gemma 2*, arXiv:2408.00118, section 2. Not beside `alibi`.
    pub softcap: Option<f32>,
    /// The number of head 0 among all, and how many there are in all: slopes follow from them.
    pub first_head: usize,
    pub all_heads: usize,
    pub precision: Precision,
}

/// Up to so many queries nothing is packed.
pub const FEW: usize = 4;
/// The number of tasks that a forward pass is cut into, if it has as many blocks.
const TASKS: usize = 64;

/// Slope of one head; *Train Short, Test Long*, arXiv:2108.12409, and its code for heads that are no power of two.
#[must_use]
pub fn alibi_slope(head: usize, heads: usize) -> f32 {
    let power = 1_usize << heads.max(1).ilog2();
    let of = |heads: usize, i: usize| 2_f32.powf(-8.0 * (i as f32 + 1.0) / heads as f32);
    if head < power { of(power, head) } else { of(2 * power, 2 * (head - power)) }
}

impl Attention {
    /// `out = softmax(scale q k^T + mask) v`; `lse` `[batch, heads, q_len]` is the log of each row's denominator.
    pub fn forward<T: Element>(&self, q: &[T], k: &[T], v: &[T], out: &mut [T], lse: &mut [f32]) {
        self.check(q, k, v, out);
        let (out, lse) = (SharedMut::new(out), SharedMut::new(lse));
        if self.q_len <= FEW {
            for t in 0..self.batch * self.heads * self.q_len {
                let (i, head, b) = (t % self.q_len, t / self.q_len % self.heads, t / self.q_len / self.heads);
                SCORES.with_borrow_mut(|scores| self.forward_row(b, head, i, [q, k, v], out, lse, scores));
            }
        } else if self.precision.is_on_tiles() {
            self.forward_on_tiles([q, k, v], out, lse);
        } else {
            self.forward_in_vectors([q, k, v], out, lse);
        }
    }

    /// Bytes into which the forward pass packs keys and values, on the thread that asks for it.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        if self.q_len <= FEW || self.precision.is_on_tiles() { 0 } else { 4 * self.all_packed_words() }
    }

    /// Call `task(sequence, key head, queries)`, in parallel, for runs of queries that begin at whole blocks.
    fn each_part(&self, block: usize, task: impl Fn(usize, usize, Range<usize>) + Sync) {
        let blocks = self.q_len.div_ceil(block);
        let pairs = self.batch * self.kv_heads;
        let parts = TASKS.div_ceil(pairs.max(1)).clamp(1, blocks.max(1));
        let per_part = blocks.div_ceil(parts) * block;
        (0..pairs * parts).into_par_iter().with_max_len(1).for_each(|t| {
            // Later blocks see more keys: they go first, so that the last task to end is a short one.
            let (part, kv_head, b) = (parts - 1 - t % parts, t / parts % self.kv_heads, t / parts / self.kv_heads);
            let queries = part * per_part..((part + 1) * per_part).min(self.q_len);
            if !queries.is_empty() {
                task(b, kv_head, queries);
            }
        });
    }

    /// Gradients of all three, each added to what it holds where `accumulate` says so. `delta` `[batch, heads, q_len]`
    /// is working space.
    pub fn backward<T: Element>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        out: &[T],
        lse: &[f32],
        dout: &[T],
        dq: &mut [T],
        dk: &mut [T],
        dv: &mut [T],
        delta: &mut [f32],
        accumulate: [bool; 3],
    ) {
        self.backward_on(self.precision.is_on_tiles(), q, k, v, out, lse, dout, dq, dk, dv, delta, accumulate);
    }

    fn backward_on<T: Element>(
        &self,
        tiles: bool,
        q: &[T],
        k: &[T],
        v: &[T],
        out: &[T],
        lse: &[f32],
        dout: &[T],
        dq: &mut [T],
        dk: &mut [T],
        dv: &mut [T],
        delta: &mut [f32],
        accumulate: [bool; 3],
    ) {
        self.check(q, k, v, out);
        for (i, grad) in [&mut *dq, &mut *dk, &mut *dv].into_iter().enumerate() {
            // In vectors, keys' and values' gradients are written whole.
            if !accumulate[i] && (i == 0 || tiles) {
                grad.par_chunks_mut(1 << 14).for_each(|g| g.fill(T::zeroed()));
            }
        }
        // delta = sum over head_dim of out * dout
        delta.par_chunks_mut(self.q_len).enumerate().for_each(|(t, delta)| {
            let (b, head) = (t / self.heads, t % self.heads);
            for (r, delta) in delta.iter_mut().enumerate() {
                let at = self.q_at(b, head, r);
                *delta = dot(&out[at..at + self.head_dim], &dout[at..at + self.head_dim]);
            }
        });
        let (dq, dk, dv) = (SharedMut::new(dq), SharedMut::new(dk), SharedMut::new(dv));
        let delta = &*delta;
        (0..self.batch * self.kv_heads).into_par_iter().with_max_len(1).for_each(|t| {
            let (b, kv_head) = (t / self.kv_heads, t % self.kv_heads);
            let (read, stats, grads) = ([q, k, v, dout], [lse, delta], [dq, dk, dv]);
            if tiles {
                self.backward_on_tiles(b, kv_head, read, stats, grads);
            } else {
                self.backward_in_vectors(b, kv_head, read, stats, grads, accumulate);
            }
        });
    }

    /// Call `backward` with each query head of a key head, and with where its gradients are summed.
    /// # Safety
    /// These heads of the gradients are inside them and this call's alone.
    unsafe fn each_query_head<T: Element>(
        &self,
        b: usize,
        kv_head: usize,
        [dq, dk, dv]: [SharedMut<T>; 3],
        [beside_q, beside_k, beside_v]: &mut [Vec<f32>; 3],
        mut backward: impl FnMut(usize, Grads),
    ) {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let of_keys = [(b * self.kv_len * self.kv_heads + kv_head) * d, self.kv_heads * d, self.kv_len, d];
        // SAFETY: the caller's promise.
        unsafe {
            with_sums(dk, of_keys, beside_k, |dk, stride| {
                with_sums(dv, of_keys, beside_v, |dv, _| {
                    for head in kv_head * group..(kv_head + 1) * group {
                        let of_queries = [self.q_at(b, head, 0), self.heads * d, self.q_len, d];
                        with_sums(dq, of_queries, beside_q, |dq, q_stride| backward(head, Grads { dq, q_stride, dk, dv, stride }));
                    }
                });
            });
        }
    }

    /// Multiplications and additions of the pairs that the mask lets through.
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        let most = match self.mask {
            Mask::Full => return 4 * (self.q_len * self.kv_len * self.batch * self.heads * self.head_dim) as u64,
            Mask::Causal => self.kv_len,
            Mask::Window(w) => self.kv_len.min(w),
        };
        // The first queries see one key more each, the others see `most`.
        let rising = most.saturating_sub(self.q_offset + 1).min(self.q_len);
        let pairs = (rising * (self.q_offset + 1) + rising * rising.saturating_sub(1) / 2 + (self.q_len - rising) * most) as u64;
        4 * pairs * (self.batch * self.heads * self.head_dim) as u64
    }

    fn check<T>(&self, q: &[T], k: &[T], v: &[T], out: &[T]) {
        let (q_len, kv_len) =
            (self.batch * self.q_len * self.heads * self.head_dim, self.batch * self.kv_len * self.kv_heads * self.head_dim);
        assert!(q.len() == q_len && out.len() == q_len && k.len() == kv_len && v.len() == kv_len, "attention: {self:?}");
        assert!(self.heads.is_multiple_of(self.kv_heads), "attention: whole groups");
        assert!(self.softcap.is_none() || !self.alibi, "attention: slopes are not capped");
    }

    fn q_at(&self, b: usize, head: usize, row: usize) -> usize {
        ((b * self.q_len + row) * self.heads + head) * self.head_dim
    }

    fn q<'a, T: Element>(&self, x: &'a [T], b: usize, head: usize, row: usize) -> Mat<'a, T> {
        Mat::rows(&x[self.q_at(b, head, row)..], self.heads * self.head_dim)
    }

    fn kv<'a, T: Element>(&self, x: &'a [T], b: usize, kv_head: usize, row: usize) -> Mat<'a, T> {
        Mat::rows(&x[((b * self.kv_len + row) * self.kv_heads + kv_head) * self.head_dim..], self.kv_heads * self.head_dim)
    }

    /// The keys that some query of `start..start + rows` sees, from the start of a block on.
    fn keys_of(&self, start: usize, rows: usize, block: usize) -> Range<usize> {
        let (first_query, last_query) = (start + self.q_offset, start + rows - 1 + self.q_offset);
        let (first, end) = match self.mask {
            Mask::Full => (0, self.kv_len),
            Mask::Causal => (0, (last_query + 1).min(self.kv_len)),
            Mask::Window(w) => ((first_query + 1).saturating_sub(w), (last_query + 1).min(self.kv_len)),
        };
        first / block * block..end
    }

    /// Cap scores that are not scaled yet.
    fn soften(&self, scores: &mut [f32]) {
        if let Some(cap) = self.softcap {
            activation::softcap(scores, self.scale / cap, cap / self.scale);
        }
    }

    /// `scale score / cap` is the tanh that a capped score was made of: what it is multiplied by for that.
    fn tanh_of(&self) -> Option<f32> {
        self.softcap.map(|cap| self.scale / cap)
    }

    /// To scores of query `i` with keys from `j` on, not scaled yet, add the slope, and hide what the mask hides.
    fn mask_row(&self, row: &mut [f32], head: usize, i: usize, j: usize) {
        let place = i + self.q_offset;
        if self.alibi {
            let slope = alibi_slope(self.first_head + head, self.all_heads) / self.scale;
            for (c, x) in row.iter_mut().enumerate() {
                *x += slope * ((j + c) as f32 - place as f32);
            }
        }
        let (first, end) = match self.mask {
            Mask::Full => return,
            Mask::Causal => (0, place + 1),
            Mask::Window(w) => ((place + 1).saturating_sub(w), place + 1),
        };
        let hide = |from: usize, to: usize, row: &mut [f32]| {
            let clamp = |at: usize, len: usize| at.saturating_sub(j).min(len);
            let (from, to) = (clamp(from, row.len()), clamp(to, row.len()));
            row[from..to.max(from)].fill(f32::NEG_INFINITY);
        };
        hide(0, first, row);
        hide(end, usize::MAX, row);
    }
}

/// Where the gradients of one query head and of its key head are summed: rows of `head_dim` numbers.
#[derive(Clone, Copy)]
struct Grads {
    dq: SharedMut,
    q_stride: usize,
    dk: SharedMut,
    dv: SharedMut,
    stride: usize,
}

/// Let `sum` add to the `rows` rows of a gradient, `d` numbers each, that begin at `first` and lie `stride` apart: where they are stored, or
/// where they have fewer bits, in f32 beside them, and rounded once. It is given where the rows are and how far apart.
/// # Safety
/// The rows are inside the gradient and this call's alone.
unsafe fn with_sums<T: Element>(
    grad: SharedMut<T>,
    [first, stride, rows, d]: [usize; 4],
    beside: &mut Vec<f32>,
    sum: impl FnOnce(SharedMut, usize),
) {
    if T::DTYPE == Dtype::F32 {
        // SAFETY: the caller's promise; the type is f32.
        return sum(unsafe { grad.at(first) }.cast::<f32>().into(), stride);
    }
    beside.resize(beside.len().max(rows * d), 0.0);
    // SAFETY: the caller's promise.
    let stored = |r: usize| unsafe { std::slice::from_raw_parts_mut(grad.at(first + r * stride), d) };
    for (r, wide) in beside.chunks_exact_mut(d).enumerate().take(rows) {
        put(stored(r), wide, false);
    }
    sum(SharedMut::new(beside), d);
    for (r, wide) in beside.chunks_exact(d).enumerate().take(rows) {
        put(wide, stored(r), false);
    }
}

simd_fn! {
    /// `row = e^(scale row - max)` with the running maximum and total brought up to date; returns the factor for what was
    /// summed under the old maximum.
    fn online_softmax(row: &mut [f32], scale: f32, most: &mut f32, total: &mut f32) -> f32 = online_softmax_body;
}

#[inline(always)]
fn online_softmax_body<V: Vector>(row: &mut [f32], scale: f32, most: &mut f32, total: &mut f32) -> f32 {
    let (n, at) = (row.len(), row.as_mut_ptr());
    let (mut top, mut single) = (V::splat(f32::NEG_INFINITY), *most);
    // SAFETY of all closures: a whole vector starts at `i`, or `i < n`.
    #[allow(clippy::undocumented_unsafe_blocks)]
    stride::<V>(
        n,
        |i| top = top.max(unsafe { V::load(at.add(i)) }.mul(V::splat(scale))),
        |i| single = single.max(scale * unsafe { *at.add(i) }),
    );
    let new = top.largest().max(single);
    if new == f32::NEG_INFINITY {
        // Nothing seen yet.
        row.fill(0.0);
        return 1.0;
    }
    let factor = (*most - new).exp();
    let (mut sums, mut sum) = (V::splat(0.0), 0.0);
    #[allow(clippy::undocumented_unsafe_blocks)]
    stride::<V>(
        n,
        |i| unsafe {
            let e = V::load(at.add(i)).fma(V::splat(scale), V::splat(-new)).exp();
            sums = sums.add(e);
            e.store(at.add(i));
        },
        |i| unsafe {
            let e = (scale * *at.add(i) - new).exp();
            sum += e;
            *at.add(i) = e;
        },
    );
    *total = *total * factor + sums.sum() + sum;
    *most = new;
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gemm::rounded, naive::noise};

    #[test]
    fn flops_are_those_of_the_pairs_that_the_mask_lets_through() {
        let masks = [Mask::Full, Mask::Causal, Mask::Window(1), Mask::Window(3), Mask::Window(40)];
        let sizes = [(1, 1, 0), (7, 7, 0), (5, 9, 4), (9, 5, 0), (8, 20, 12), (6, 4, 30)];
        for (mask, (q_len, kv_len, q_offset)) in masks.into_iter().flat_map(|mask| sizes.map(|size| (mask, size))) {
            let a = Attention {
                first_head: 0,
                all_heads: 2,
                batch: 3,
                q_len,
                kv_len,
                heads: 2,
                kv_heads: 1,
                head_dim: 4,
                q_offset,
                mask,
                scale: 1.0,
                alibi: false,
                softcap: None,
                precision: Precision::F32,
            };
            let sees = |i: usize, j: usize| match mask {
                Mask::Full => true,
                Mask::Causal => j <= i + q_offset,
                Mask::Window(w) => j <= i + q_offset && j + w > i + q_offset,
            };
            let pairs = (0..q_len).map(|i| (0..kv_len).filter(|j| sees(i, *j)).count() as u64).sum::<u64>();
            if q_offset + q_len <= kv_len || !matches!(mask, Mask::Window(_)) {
                assert_eq!(a.forward_flops(), 4 * pairs * 3 * 2 * 4, "{mask:?} {q_len} {kv_len} {q_offset}");
            }
        }
    }

    /// Output and gradients by definition, in f64: `[out, dq, dk, dv]`.
    fn twin(a: &Attention, [q, k, v, dout]: [&[f32]; 4]) -> [Vec<f64>; 4] {
        let (d, group) = (a.head_dim, a.heads / a.kv_heads);
        let [mut out, mut dq] = [vec![0.0; q.len()], vec![0.0; q.len()]];
        let [mut dk, mut dv] = [vec![0.0; k.len()], vec![0.0; k.len()]];
        let dot = |x: &[f32], i: usize, y: &[f32], j: usize| (0..d).map(|c| f64::from(x[i + c]) * f64::from(y[j + c])).sum::<f64>();
        for (b, head, i) in (0..a.batch * a.heads * a.q_len).map(|n| (n / a.q_len / a.heads, n / a.q_len % a.heads, n % a.q_len)) {
            let (q_at, place) = (a.q_at(b, head, i), i + a.q_offset);
            let k_at = |j: usize| ((b * a.kv_len + j) * a.kv_heads + head / group) * d;
            let seen: Vec<usize> = (0..a.kv_len)
                .filter(|j| match a.mask {
                    Mask::Full => true,
                    Mask::Causal => *j <= place,
                    Mask::Window(w) => *j <= place && j + w > place,
                })
                .collect();
            let slope = if a.alibi { f64::from(alibi_slope(a.first_head + head, a.all_heads)) } else { 0.0 };
            let capped = |j: &usize| {
                let score = dot(q, q_at, k, k_at(*j)) * f64::from(a.scale);
                a.softcap.map_or([score, 1.0], |cap| {
                    let tanh = (score / f64::from(cap)).tanh();
                    [f64::from(cap) * tanh, 1.0 - tanh * tanh]
                })
            };
            let weight = |j: &usize| (capped(j)[0] + slope * (*j as f64 - place as f64)).exp();
            let weights: Vec<f64> = seen.iter().map(weight).collect();
            let total: f64 = weights.iter().sum();
            let gain: Vec<f64> = seen.iter().map(|j| dot(dout, q_at, v, k_at(*j))).collect();
            let mean = weights.iter().zip(&gain).map(|(w, g)| w / total * g).sum::<f64>();
            for ((j, w), g) in seen.iter().zip(&weights).zip(&gain) {
                let (p, at) = (w / total, k_at(*j));
                let ds = p * (g - mean) * f64::from(a.scale) * capped(j)[1];
                for c in 0..d {
                    out[q_at + c] += p * f64::from(v[at + c]);
                    dv[at + c] += p * f64::from(dout[q_at + c]);
                    dq[q_at + c] += ds * f64::from(k[at + c]);
                    dk[at + c] += ds * f64::from(q[q_at + c]);
                }
            }
        }
        [out, dq, dk, dv]
    }

    /// Through the way that the level takes, and through that of matrix tiles, which every level can go.
    fn check(a: Attention) {
        check_way(a, |q, k, v, out, lse| a.forward(q, k, v, out, lse), false);
        if a.q_len > FEW {
            check_way(a, |q, k, v, out, lse| a.forward_on_tiles([q, k, v], SharedMut::new(out), SharedMut::new(lse)), true);
        }
        if a.precision == Precision::Bf16 {
            check_stored_in_16_bits(a, false);
            check_stored_in_16_bits(a, true);
        }
    }

    /// Numbers of 16 bits have the sums of the same numbers in 32 bits, rounded once.
    fn check_stored_in_16_bits(a: Attention, on_tiles: bool) {
        fn run<T: Element>(a: Attention, on_tiles: bool, out_of_16_bits: Option<&[f32]>) -> [Vec<f32>; 4] {
            let (q_len, kv_len) = (a.batch * a.q_len * a.heads * a.head_dim, a.batch * a.kv_len * a.kv_heads * a.head_dim);
            let stored = |x: &[f32]| x.iter().map(|x| T::rounded(rounded(*x))).collect::<Vec<T>>();
            let [q, k, v, dout] = [(1, q_len), (2, kv_len), (3, kv_len), (4, q_len)].map(|(seed, n)| stored(&noise(seed, n)));
            let [mut out, mut dq] = [stored(&noise(5, q_len)), stored(&noise(6, q_len))];
            let [mut dk, mut dv] = [stored(&noise(7, kv_len)), stored(&noise(8, kv_len))];
            let stats = || vec![0.0; a.batch * a.heads * a.q_len];
            let (mut lse, mut delta) = (stats(), stats());
            if on_tiles && a.q_len > FEW {
                a.forward_on_tiles([&q, &k, &v], SharedMut::new(&mut out), SharedMut::new(&mut lse));
            } else {
                a.forward(&q, &k, &v, &mut out, &mut lse);
            }
            let wide = |x: &[T]| x.iter().map(|x| rounded(x.wide())).collect::<Vec<f32>>();
            let told = wide(&out);
            let out = out_of_16_bits.map_or(out, stored);
            a.backward_on(on_tiles, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv, &mut delta, [true, false, true]);
            [told, wide(&dq), wide(&dk), wide(&dv)]
        }
        let short = run::<half::bf16>(a, on_tiles, None);
        let long = run::<f32>(a, on_tiles, Some(&short[0]));
        for ((short, long), what) in short.iter().zip(&long).zip(["out", "dq", "dk", "dv"]) {
            assert!(short == long, "{what}: {a:?} {on_tiles}");
        }
    }

    fn check_way(a: Attention, forward: impl Fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]), on_tiles: bool) {
        let (q_len, kv_len) = (a.batch * a.q_len * a.heads * a.head_dim, a.batch * a.kv_len * a.kv_heads * a.head_dim);
        let (q, k, v, dout) = (noise(1, q_len), noise(2, kv_len), noise(3, kv_len), noise(4, q_len));
        let stats = || vec![0.0; a.batch * a.heads * a.q_len];
        let (mut out, mut lse, mut delta) = (vec![0.0; q_len], stats(), stats());
        forward(&q, &k, &v, &mut out, &mut lse);
        let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q_len], vec![f32::NAN; kv_len], vec![f32::NAN; kv_len]);
        a.backward_on(
            on_tiles || a.precision.is_on_tiles(),
            &q,
            &k,
            &v,
            &out,
            &lse,
            &dout,
            &mut dq,
            &mut dk,
            &mut dv,
            &mut delta,
            [false; 3],
        );
        let bound = if a.precision == Precision::F32 { 1e-5 } else { 2e-2 };
        for ((got, want), what) in [out, dq, dk, dv].iter().zip(twin(&a, [&q, &k, &v, &dout])).zip(["out", "dq", "dk", "dv"]) {
            // A gradient that cancels to nothing keeps the rounding of its terms, which are of the order of 1.
            let largest = want.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((f64::from(*got) - want).abs() <= bound * largest, "{what}[{i}] is {got}, not {want}: {a:?}");
            }
        }
    }

    #[test]
    fn agrees_with_the_definition_across_the_borders_of_blocks_parts_and_packs() {
        let lengths: [(usize, usize); 11] =
            [(1, 1), (1, 70), (4, 70), (5, 70), (63, 64), (65, 65), (130, 130), (100, 130), (70, 200), (130, 97), (193, 290)];
        for (q_len, kv_len) in lengths {
            let none = None;
            let ways =
                [(Mask::Full, false, none), (Mask::Causal, true, none), (Mask::Window(40), false, none), (Mask::Causal, false, Some(0.7))];
            for (mask, alibi, softcap) in ways {
                for (precision, head_dim) in [(Precision::F32, 8), (Precision::F32, 40), (Precision::Bf16, 40)] {
                    let q_offset = kv_len.saturating_sub(q_len);
                    let sizes = Attention {
                        batch: 2,
                        q_len,
                        kv_len,
                        heads: 4,
                        kv_heads: 2,
                        head_dim,
                        q_offset,
                        mask,
                        scale: 0.5,
                        alibi,
                        softcap,
                        first_head: 1,
                        all_heads: 7,
                        precision,
                    };
                    if q_len <= kv_len || mask == Mask::Full {
                        check(sizes);
                    }
                }
            }
        }
    }
}
