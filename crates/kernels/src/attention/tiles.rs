//! Attention on matrix tiles: blocks of 64 queries and 64 keys, each product through [`Gemm::tile`].
//!
//! ```text
//! forward task  (sequence, key head, run of queries):  pack K^T and V; each query head of the group, each 64 queries,
//!                                                      each 64 keys that they may see: S = Q K^T, P = exp(S - max), O += P V
//! backward task (sequence, key head):                  pack K^T, V^T and K; for the same blocks: P again from lse;
//!                                                      dV += P^T dO, dS = P (dO V^T - delta), dK += dS^T Q, dQ += dS K
//! ```
//! The tiles want A in an order of their own, so that P and dS are packed anew for each product; [`super::vectors`] reads
//! them as they were written.

use std::{cell::RefCell, ops::Range};

use super::{Attention, Grads, online_softmax};
use crate::{
    Element, SharedMut,
    elementwise::put,
    gemm::{Gemm, Mat, PackedRhs},
    pack::pack_here,
    simd::{Vector, stride},
};

pub(super) const BLOCK: usize = 64;

/// Working space of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    other: Vec<f32>,
    rows: Vec<f32>,
    keys: Vec<f32>,
    keys_turned: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    grads: Vec<f32>,
    sums: Vec<f32>,
    /// Sums of gradients that are stored in fewer bits.
    beside: [Vec<f32>; 3],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Attention {
    pub(super) fn forward_on_tiles<T: Element>(&self, qkv: [&[T]; 3], out: SharedMut<T>, lse: SharedMut) {
        self.each_part(BLOCK, |b, kv_head, queries| {
            SCRATCH.with_borrow_mut(|s| self.forward_part(b, kv_head, queries, qkv, out, lse, s));
        });
    }

    fn forward_part<T: Element>(
        &self,
        b: usize,
        kv_head: usize,
        queries: Range<usize>,
        qkv: [&[T]; 3],
        out: SharedMut<T>,
        lse: SharedMut,
        s: &mut Scratch,
    ) {
        let (d, group) = (self.head_dim, self.heads / self.kv_heads);
        let heads = kv_head * group..(kv_head + 1) * group;
        s.scores.resize(BLOCK * BLOCK, 0.0);
        let keys = self.keys_of(queries.start, queries.len(), BLOCK);
        s.keys_turned.clear();
        s.values.clear();
        if !keys.is_empty() {
            pack_here(self.precision, self.kv(qkv[1], b, kv_head, keys.start).transposed(), d, keys.len(), &mut s.keys_turned);
        }
        for j in keys.clone().step_by(BLOCK) {
            pack_here(self.precision, self.kv(qkv[2], b, kv_head, j), BLOCK.min(keys.end - j), d, &mut s.values);
        }
        for head in heads {
            for start in queries.clone().step_by(BLOCK) {
                self.forward_block(b, head, start, &keys, qkv[0], out, lse, s);
            }
        }
    }

    /// `packed`: the keys that were packed, from the start of a block on.
    fn forward_block<T: Element>(
        &self,
        b: usize,
        head: usize,
        start: usize,
        packed: &Range<usize>,
        q: &[T],
        out: SharedMut<T>,
        lse: SharedMut,
        s: &mut Scratch,
    ) {
        let (d, rows) = (self.head_dim, BLOCK.min(self.q_len - start));
        let (q_width, q_at) = (self.heads * d, self.q_at(b, head, start));
        s.sums.clear();
        s.sums.resize(BLOCK * d, 0.0);
        s.rows.clear();
        s.rows.resize(3 * BLOCK, 0.0);
        let (most, rest) = s.rows.split_at_mut(BLOCK);
        let (total, factor) = rest.split_at_mut(BLOCK);
        most.fill(f32::NEG_INFINITY);
        // SAFETY: rows `start..start + rows` of this head of `out` and `lse` are this task's alone.
        let (out, lse) = unsafe { (out.at(q_at), lse.at((b * self.heads + head) * self.q_len + start)) };
        for j in self.keys_of(start, rows, BLOCK).step_by(BLOCK) {
            // The last block is as wide as it was packed.
            let (at, cols) = (j - packed.start, BLOCK.min(packed.end - j));
            let (keys, values) = (&s.keys_turned[self.turned(at)..], &s.values[self.block(at)..]);
            // SAFETY: `scores` holds a block.
            unsafe { self.gemm(rows, cols, d, false).tile(self.q(q, b, head, start), keys, None, s.scores.as_mut_ptr(), BLOCK) };
            for r in 0..rows {
                let row = &mut s.scores[r * BLOCK..][..cols];
                self.soften(row);
                self.mask_row(row, head, start + r, j);
                factor[r] = online_softmax(row, self.scale, &mut most[r], &mut total[r]);
                if factor[r] != 1.0 {
                    s.sums[r * d..][..d].iter_mut().for_each(|o| *o *= factor[r]);
                }
            }
            // SAFETY: `sums` holds a block of rows.
            unsafe { self.gemm(rows, d, cols, true).tile(Mat::rows(&s.scores, BLOCK), values, None, s.sums.as_mut_ptr(), d) };
        }
        for (r, sums) in s.sums.chunks_exact_mut(d).enumerate().take(rows) {
            let inverse = if total[r] > 0.0 { 1.0 / total[r] } else { 0.0 };
            sums.iter_mut().for_each(|o| *o *= inverse);
            // SAFETY: as above.
            unsafe {
                *lse.add(r) = most[r] + total[r].ln();
                put(sums, std::slice::from_raw_parts_mut(out.add(r * q_width), d), false);
            }
        }
    }

    pub(super) fn backward_on_tiles<T: Element>(
        &self,
        b: usize,
        kv_head: usize,
        read: [&[T]; 4],
        stats: [&[f32]; 2],
        grads: [SharedMut<T>; 3],
    ) {
        SCRATCH.with_borrow_mut(|s| {
            self.pack_keys(self.kv(read[1], b, kv_head, 0), self.kv(read[2], b, kv_head, 0), s);
            let mut beside = std::mem::take(&mut s.beside);
            // SAFETY: this task alone writes this key head of `dk` and `dv`, and its query heads of `dq`.
            unsafe {
                self.each_query_head(b, kv_head, grads, &mut beside, |head, grads| {
                    self.backward_head(b, head, [read[0], read[3]], stats, grads, s);
                });
            }
            s.beside = beside;
        });
    }

    fn pack_keys<T: Element>(&self, k: Mat<'_, T>, v: Mat<'_, T>, s: &mut Scratch) {
        let d = self.head_dim;
        for words in [&mut s.keys_turned, &mut s.values, &mut s.keys] {
            words.clear();
        }
        pack_here(self.precision, k.transposed(), d, self.kv_len, &mut s.keys_turned);
        pack_here(self.precision, v.transposed(), d, self.kv_len, &mut s.values);
        for j in (0..self.kv_len).step_by(BLOCK) {
            pack_here(self.precision, k.from(j, 0), BLOCK.min(self.kv_len - j), d, &mut s.keys);
        }
    }

    /// Gradients of one query head, each added to what is there.
    fn backward_head<T: Element>(
        &self,
        b: usize,
        head: usize,
        [q, dout]: [&[T]; 2],
        [lse, delta]: [&[f32]; 2],
        to: Grads,
        s: &mut Scratch,
    ) {
        let d = self.head_dim;
        s.scores.resize(BLOCK * BLOCK, 0.0);
        s.other.resize(BLOCK * BLOCK, 0.0);
        for start in (0..self.q_len).step_by(BLOCK) {
            let rows = BLOCK.min(self.q_len - start);
            let stat = (b * self.heads + head) * self.q_len + start;
            let (queries, grads) = (self.q(q, b, head, start), self.q(dout, b, head, start));
            s.queries.clear();
            s.grads.clear();
            pack_here(self.precision, queries, rows, d, &mut s.queries);
            pack_here(self.precision, grads, rows, d, &mut s.grads);
            for j in self.keys_of(start, rows, BLOCK).step_by(BLOCK) {
                let cols = BLOCK.min(self.kv_len - j);
                // SAFETY: the sums of this head are this task's alone; the two blocks of scores are this thread's.
                unsafe {
                    let (p, ds) = (s.scores.as_mut_ptr(), s.other.as_mut_ptr());
                    let turned = self.turned(j);
                    self.gemm(rows, cols, d, false).tile(queries, &s.keys_turned[turned..], None, p, BLOCK);
                    self.gemm(rows, cols, d, false).tile(grads, &s.values[turned..], None, ds, BLOCK);
                    for r in 0..rows {
                        let row = &mut s.scores[r * BLOCK..][..cols];
                        self.soften(row);
                        self.mask_row(row, head, start + r, j);
                        let other = &mut s.other[r * BLOCK..][..cols];
                        backward_row(row, other, lse[stat + r], delta[stat + r], self.scale, self.tanh_of());
                    }
                    let (p, ds) = (Mat::rows(&s.scores, BLOCK), Mat::rows(&s.other, BLOCK));
                    let (dq, dk, dv) = (to.dq.at(start * to.q_stride), to.dk.at(j * to.stride), to.dv.at(j * to.stride));
                    self.gemm(cols, d, rows, true).tile(p.transposed(), &s.grads, None, dv, to.stride);
                    self.gemm(cols, d, rows, true).tile(ds.transposed(), &s.queries, None, dk, to.stride);
                    self.gemm(rows, d, cols, true).tile(ds, &s.keys[self.block(j)..], None, dq, to.q_stride);
                }
            }
        }
    }

    fn gemm(&self, m: usize, n: usize, k: usize, accumulate: bool) -> Gemm {
        Gemm { m, n, k, precision: self.precision, accumulate }
    }

    /// Where key `j`, counted from the first packed, starts among packed `[head_dim, keys]`.
    fn turned(&self, j: usize) -> usize {
        PackedRhs::bytes(self.precision, self.head_dim, j) / 4
    }

    /// Where the block of key `j`, counted from the first packed, starts among packed blocks `[64, head_dim]`.
    fn block(&self, j: usize) -> usize {
        j / BLOCK * (PackedRhs::bytes(self.precision, BLOCK, self.head_dim) / 4)
    }
}

simd_fn! {
    /// `p = e^(scale score - lse)` in the first row, `ds = p (dp - delta) scale`, the slope of a cap in it, in the second.
    fn backward_row(scores: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, scale: f32, tanh_of: Option<f32>) = backward_row_body;
}

#[inline(always)]
fn backward_row_body<V: Vector>(scores: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, scale: f32, tanh_of: Option<f32>) {
    let n = scores.len().min(dp.len());
    let (p_at, ds_at) = (scores.as_mut_ptr(), dp.as_mut_ptr());
    if let Some(tanh_of) = tanh_of {
        for (dp, score) in dp.iter_mut().zip(&*scores) {
            // In place of `dp` what gives its slope with the rest below; what is hidden is -inf, and its `p` is 0.
            let tanh = (score * tanh_of).max(-1.0);
            *dp = (*dp - delta) * (1.0 - tanh * tanh) + delta;
        }
    }
    // SAFETY of both closures: a whole vector starts at `i`, or `i < n`.
    #[allow(clippy::undocumented_unsafe_blocks)]
    stride::<V>(
        n,
        |i| unsafe {
            let p = V::load(p_at.add(i)).fma(V::splat(scale), V::splat(-lse)).exp();
            p.store(p_at.add(i));
            p.mul(V::load(ds_at.add(i)).sub(V::splat(delta))).mul(V::splat(scale)).store(ds_at.add(i));
        },
        |i| unsafe {
            let p = (scale * *p_at.add(i) - lse).exp();
            *p_at.add(i) = p;
            *ds_at.add(i) = p * (*ds_at.add(i) - delta) * scale;
        },
    );
}
