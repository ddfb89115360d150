//! Attention in vectors: blocks of 96 queries and 96 keys, products straight from [`micro`].
//!
//! ```text
//! pack, once a key head:               K in panels of A, V in panels of B
//! forward task  (.., run of queries):  S^T = K Q^T, so that a lane is a query and softmax needs no sum across lanes;
//!                                      P^T = exp(S^T - max), two keys to a word of bf16; O += P V reads A from it as it lies
//! backward task (sequence, key head):  each query head, each 96 keys, each 96 queries that see them: S = Q K^T,
//!                                      P from lse and dS = P (dO V^T - delta), two queries to a word;
//!                                      dV += P^T dO and dK += dS^T Q read A from those as they lie, dQ += dS K packs it
//! ```
//! What lies beyond the last query or key is zeros in what was packed, and anything finite in the blocks: it reaches only
//! rows that are not copied out. Parts of a block that the mask hides are left out by panels.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Attention, Grads, Mask};
use crate::{
    Element, SharedMut,
    elementwise::put_body,
    gemm::{Gemm, Mat, NR, blocks, micro, with_packed},
    pack::{pack_here, pack_lhs},
    simd::{MOST, Vector},
};

/// Queries and keys of a block: whole panels of A and of B at every level.
const BLOCK: usize = 96;

/// Working space of one thread. Blocks of scores are `[BLOCK][BLOCK]`, sums `[BLOCK][head_dim, in whole panels]`.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    other: Vec<f32>,
    weights: Vec<f32>,
    slopes: Vec<f32>,
    sums: [Vec<f32>; 2],
    /// Panels of A: queries and their gradients.
    left: [Vec<f32>; 2],
    /// Panels of B: queries and their gradients; K^T, V^T and K.
    right: [Vec<f32>; 2],
    keys: [Vec<f32>; 3],
    packed: Vec<f32>,
    /// Sums of gradients that are stored in fewer bits.
    beside: [Vec<f32>; 3],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One block of queries of one head.
#[derive(Clone, Copy)]
struct Queries {
    b: usize,
    head: usize,
    start: usize,
    rows: usize,
}

impl Attention {
    pub(super) fn forward_in_vectors<T: Element>(&self, [q, k, v]: [&[T]; 3], out: SharedMut<T>, lse: SharedMut) {
        let group = self.heads / self.kv_heads;
        let per_head = self.packed_words();
        with_packed(self.all_packed_words(), |packed| {
            packed.par_chunks_exact_mut(per_head).enumerate().for_each(|(t, packed)| pack_head(self, t, k, v, packed));
            self.each_part(BLOCK, |b, kv_head, queries| {
                let packed = &packed[(b * self.kv_heads + kv_head) * per_head..][..per_head];
                SCRATCH.with_borrow_mut(|s| {
                    for head in kv_head * group..(kv_head + 1) * group {
                        for start in queries.clone().step_by(BLOCK) {
                            let queries = Queries { b, head, start, rows: BLOCK.min(self.q_len - start) };
                            forward_block(self, queries, q, packed, out, lse, s);
                        }
                    }
                });
            });
        });
    }

    pub(super) fn backward_in_vectors<T: Element>(
        &self,
        b: usize,
        kv_head: usize,
        read: [&[T]; 4],
        stats: [&[f32]; 2],
        grads: [SharedMut<T>; 3],
        keep: [bool; 3],
    ) {
        SCRATCH.with_borrow_mut(|s| {
            let (d, [_, k, v, _]) = (self.head_dim, read);
            let (k, v) = (self.kv(k, b, kv_head, 0), self.kv(v, b, kv_head, 0));
            let [keys_turned, values_turned, keys] = &mut s.keys;
            for words in [&mut *keys_turned, &mut *values_turned, &mut *keys] {
                words.clear();
            }
            pack_here(self.precision, k.transposed(), d, self.kv_len, keys_turned);
            pack_here(self.precision, v.transposed(), d, self.kv_len, values_turned);
            self.pack_blocks(k, self.kv_len, keys);
            let (first, mut beside) = (kv_head * (self.heads / self.kv_heads), std::mem::take(&mut s.beside));
            // SAFETY: this task alone writes this key head of `dk` and `dv`, and its query heads of `dq`.
            unsafe {
                self.each_query_head(b, kv_head, grads, &mut beside, |head, grads| {
                    let adds = [keep[1] || head > first, keep[2] || head > first];
                    backward_head(self, b, head, [read[0], read[3]], stats, grads, adds, s);
                });
            }
            s.beside = beside;
        });
    }

    /// Words of all key heads, packed once for all queries.
    pub(super) fn all_packed_words(&self) -> usize {
        self.batch * self.kv_heads * self.packed_words()
    }

    /// Words of one key head: V in blocks, then K in panels of A, then room for one more vector.
    fn packed_words(&self) -> usize {
        let blocks = self.kv_len.div_ceil(BLOCK);
        blocks * (self.block_words() + BLOCK * self.precision.words(self.head_dim)) + MOST
    }

    /// Words of one block `[BLOCK, head_dim]` in panels of B.
    fn block_words(&self) -> usize {
        self.precision.words(BLOCK) * self.width()
    }

    /// `head_dim` in whole panels of B.
    fn width(&self) -> usize {
        self.head_dim.next_multiple_of(NR)
    }

    /// `x` `[rows, head_dim]` in panels of B, block by block.
    fn pack_blocks<T: Element>(&self, x: Mat<'_, T>, rows: usize, words: &mut Vec<f32>) {
        for start in (0..rows).step_by(BLOCK) {
            let block = Mat { data: &x.data[start * x.row_stride..], ..x };
            pack_here(self.precision, block, BLOCK.min(rows - start), self.head_dim, words);
        }
    }

    /// How many of `rows` queries from `start` on come before the first that sees key `j`.
    fn blind(&self, start: usize, rows: usize, j: usize) -> usize {
        if self.mask == Mask::Full { 0 } else { j.saturating_sub(start + self.q_offset).min(rows) }
    }

    /// How many keys from `j` on, of `cols`, the query `i` and those before it see at most.
    fn seen(&self, i: usize, j: usize, cols: usize) -> usize {
        if self.mask == Mask::Full { cols } else { (i + self.q_offset + 1).saturating_sub(j).min(cols) }
    }

    /// Whether the mask hides something of this block, or a slope changes it.
    fn is_bent(&self, at: Queries, j: usize, cols: usize) -> bool {
        let (first, last) = (at.start + self.q_offset, at.start + at.rows - 1 + self.q_offset);
        let hides = match self.mask {
            Mask::Full => false,
            Mask::Causal => j + cols > first + 1,
            Mask::Window(w) => j + cols > first + 1 || j + w <= last,
        };
        hides || self.alibi
    }

    /// To scores `[keys][BLOCK queries]` what [`Attention::mask_row`] does to those of one query.
    fn mask_turned(&self, scores: &mut [f32], at: Queries, j: usize, cols: usize) {
        let mut column = [0.0; BLOCK];
        for r in 0..at.rows {
            for (c, x) in column.iter_mut().enumerate().take(cols) {
                *x = scores[c * BLOCK + r];
            }
            self.mask_row(&mut column[..cols], at.head, at.start + r, j);
            for (c, x) in column.iter().enumerate().take(cols) {
                scores[c * BLOCK + r] = *x;
            }
        }
    }
}

simd_fn! {
    /// Pack key head `t`, counted over all sequences.
    fn pack_head<T>(a: &Attention, t: usize, k: &[T], v: &[T], packed: &mut [f32]) = pack_head_body;
}

#[inline(always)]
fn pack_head_body<V: Vector, T: Element>(a: &Attention, t: usize, k: &[T], v: &[T], packed: &mut [f32]) {
    let (b, kv_head) = (t / a.kv_heads, t % a.kv_heads);
    let mut values = Vec::with_capacity(a.kv_len.div_ceil(BLOCK) * a.block_words());
    a.pack_blocks(a.kv(v, b, kv_head, 0), a.kv_len, &mut values);
    let (first, keys) = packed.split_at_mut(a.kv_len.div_ceil(BLOCK) * a.block_words());
    first[..values.len()].copy_from_slice(&values);
    let keys_of = a.kv(k, b, kv_head, 0);
    if V::N == 16 { pack_left::<V, T, 12>(a, keys_of, a.kv_len, keys) } else { pack_left::<V, T, 6>(a, keys_of, a.kv_len, keys) }
}

/// `x` `[rows, head_dim]` in panels of A.
#[inline(always)]
fn pack_left<V: Vector, T: Element, const MR: usize>(a: &Attention, x: Mat<'_, T>, rows: usize, words: &mut [f32]) {
    let depth = a.precision.words(a.head_dim);
    for r in (0..rows).step_by(MR) {
        pack_lhs::<V, _, MR>(a.precision, x, r, MR.min(rows - r), 0, depth, a.head_dim, &mut words[r * depth..][..MR * depth + V::N]);
    }
}

simd_fn! {
    fn forward_block<T>(
        a: &Attention, at: Queries, q: &[T], packed: &[f32], out: SharedMut<T>, lse: SharedMut, s: &mut Scratch,
    ) = forward_block_body;
}

#[inline(always)]
fn forward_block_body<V: Vector, T: Element>(
    a: &Attention,
    at: Queries,
    q: &[T],
    packed: &[f32],
    out: SharedMut<T>,
    lse: SharedMut,
    s: &mut Scratch,
) {
    if V::N == 16 {
        forward_panels::<V, T, 12>(a, at, q, packed, out, lse, s)
    } else {
        forward_panels::<V, T, 6>(a, at, q, packed, out, lse, s)
    }
}

#[inline(always)]
fn forward_panels<V: Vector, T: Element, const MR: usize>(
    a: &Attention,
    at: Queries,
    q: &[T],
    packed: &[f32],
    out: SharedMut<T>,
    lse: SharedMut,
    s: &mut Scratch,
) {
    let (d, width, rows, depth) = (a.head_dim, a.width(), at.rows, a.precision.words(a.head_dim));
    let (values, packed_keys) = packed.split_at(a.kv_len.div_ceil(BLOCK) * a.block_words());
    let Scratch { scores, weights, sums: [sums, _], right: [queries, _], .. } = s;
    queries.clear();
    pack_here(a.precision, a.q(q, at.b, at.head, at.start).transposed(), d, rows, queries);
    scores.resize(BLOCK * BLOCK, 0.0);
    weights.resize(BLOCK * BLOCK, 0.0);
    sums.clear();
    sums.resize(BLOCK * width, 0.0);
    let (mut most, mut total, mut factor) = ([f32::NEG_INFINITY; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
    let keys = a.keys_of(at.start, rows, BLOCK);
    for j in keys.clone().step_by(BLOCK) {
        let cols = BLOCK.min(keys.end - j);
        for panel in (0..rows).step_by(NR) {
            let last = at.start + panel + NR.min(rows - panel) - 1;
            for p in (0..a.seen(last, j, cols)).step_by(MR) {
                for half in (0..NR).step_by(2 * V::N) {
                    // SAFETY: K is packed in whole blocks, Q^T in whole panels, and the block of scores has room for all.
                    unsafe {
                        let (left, right) = (&packed_keys[(j + p) * depth..], &queries[panel * depth + half..]);
                        let to = scores.as_mut_ptr().add(p * BLOCK + panel + half);
                        micro::<V, MR>(a.precision, depth, left.as_ptr(), MR, right.as_ptr(), to, BLOCK, false);
                    }
                }
            }
        }
        a.soften(&mut scores[..cols * BLOCK]);
        if a.is_bent(at, j, cols) {
            a.mask_turned(scores, at, j, cols);
        }
        softmax_lanes::<V>(a, rows, cols, scores, weights, [&mut most, &mut total, &mut factor]);
        let block = &values[j / BLOCK * a.block_words()..];
        // A panel of V is as deep as the block was when it was packed.
        let panel_words = a.precision.words(BLOCK.min(a.kv_len - j));
        for (r, factor) in factor.iter().enumerate().take(rows).filter(|(_, factor)| **factor != 1.0) {
            scale::<V>(&mut sums[r * width..][..width], *factor);
        }
        for p in (0..rows).step_by(MR) {
            let words = a.seen(at.start + rows.min(p + MR) - 1, j, cols).div_ceil(a.precision.per_word());
            for n in (0..width).step_by(2 * V::N) {
                // SAFETY: `words` rows of weights and of the panel were written; sums has BLOCK rows of `width`.
                unsafe {
                    let right = block.as_ptr().add(n / NR * NR * panel_words + n % NR);
                    let to = sums.as_mut_ptr().add(p * width + n);
                    micro::<V, MR>(a.precision, words, weights.as_ptr().add(p), BLOCK, right, to, width, true);
                }
            }
        }
    }
    for r in 0..rows {
        let row = &mut sums[r * width..][..width];
        scale::<V>(row, if total[r] > 0.0 { 1.0 / total[r] } else { 0.0 });
        // SAFETY: this row of this head of `out` and `lse` is this task's alone.
        unsafe {
            *lse.at((at.b * a.heads + at.head) * a.q_len + at.start + r) = most[r] + total[r].ln();
            let out = std::slice::from_raw_parts_mut(out.at(a.q_at(at.b, at.head, at.start + r)), d);
            put_body::<V, f32, T>(&row[..d], out, false);
        }
    }
}

/// `row *= factor`; whole vectors.
#[inline(always)]
fn scale<V: Vector>(row: &mut [f32], factor: f32) {
    for x in row.chunks_exact_mut(V::N) {
        // SAFETY: a chunk is one vector.
        unsafe { V::load(x.as_ptr()).mul(V::splat(factor)).store(x.as_mut_ptr()) };
    }
}

/// `weights = e^(scale scores - max)` in words along the keys, each lane a query, with the running maximum and total
/// brought up to date, and the factor for what was summed under the old maximum.
#[inline(always)]
fn softmax_lanes<V: Vector>(
    a: &Attention,
    rows: usize,
    cols: usize,
    scores: &[f32],
    weights: &mut [f32],
    [most, total, factor]: [&mut [f32; BLOCK]; 3],
) {
    let (by, zero) = (V::splat(a.scale), V::splat(0.0));
    assert!(rows <= BLOCK && cols <= BLOCK && scores.len() >= BLOCK * BLOCK && weights.len() >= BLOCK * BLOCK);
    for lane in (0..rows).step_by(V::N) {
        // SAFETY: BLOCK is a multiple of N, so a whole vector starts at `lane` in each row; rows are below `cols`.
        unsafe {
            let at = scores.as_ptr().add(lane);
            let old = V::load(most.as_ptr().add(lane));
            let mut tops = [old; 2];
            for c in 0..cols {
                tops[c % 2] = tops[c % 2].max(V::load(at.add(c * BLOCK)).mul(by));
            }
            let top = tops[0].max(tops[1]);
            // Where nothing is seen yet, any number but -inf, whose difference from itself is none.
            let minus = zero.sub(top.max(V::splat(f32::MIN)));
            let shrink = old.add(minus).exp();
            let mut sums = [V::load(total.as_ptr().add(lane)).mul(shrink), zero];
            let to = weights.as_mut_ptr().add(lane);
            if a.precision.per_word() == 1 {
                for c in 0..cols {
                    let e = V::load(at.add(c * BLOCK)).fma(by, minus).exp();
                    sums[0] = sums[0].add(e);
                    e.store(to.add(c * BLOCK));
                }
            } else {
                for c in (0..cols).step_by(2) {
                    let low = V::load(at.add(c * BLOCK)).fma(by, minus).exp();
                    let high = if c + 1 < cols { V::load(at.add((c + 1) * BLOCK)).fma(by, minus).exp() } else { zero };
                    sums = [sums[0].add(low), sums[1].add(high)];
                    V::bf16_words(low, high).store(to.add(c / 2 * BLOCK));
                }
            }
            top.store(most.as_mut_ptr().add(lane));
            sums[0].add(sums[1]).store(total.as_mut_ptr().add(lane));
            shrink.store(factor.as_mut_ptr().add(lane));
        }
    }
}

simd_fn! {
    /// Gradients of one query head; `adds`: to what `dk` and `dv` hold. `dq` holds something always.
    fn backward_head<T>(
        a: &Attention, b: usize, head: usize, read: [&[T]; 2], stats: [&[f32]; 2], grads: Grads, adds: [bool; 2], s: &mut Scratch,
    ) = backward_head_body;
}

#[inline(always)]
fn backward_head_body<V: Vector, T: Element>(
    a: &Attention,
    b: usize,
    head: usize,
    read: [&[T]; 2],
    stats: [&[f32]; 2],
    grads: Grads,
    adds: [bool; 2],
    s: &mut Scratch,
) {
    if V::N == 16 {
        backward_panels::<V, T, 12>(a, b, head, read, stats, grads, adds, s);
    } else {
        backward_panels::<V, T, 6>(a, b, head, read, stats, grads, adds, s);
    }
}

#[inline(always)]
fn backward_panels<V: Vector, T: Element, const MR: usize>(
    a: &Attention,
    b: usize,
    head: usize,
    read: [&[T]; 2],
    [lse, delta]: [&[f32]; 2],
    grads: Grads,
    adds: [bool; 2],
    s: &mut Scratch,
) {
    let (d, width, depth) = (a.head_dim, a.width(), a.precision.words(a.head_dim));
    let per_word = a.precision.per_word();
    for (i, x) in read.into_iter().enumerate() {
        let x = a.q(x, b, head, 0);
        let room = a.q_len.next_multiple_of(BLOCK) * depth + V::N;
        s.left[i].resize(s.left[i].len().max(room), 0.0);
        pack_left::<V, T, MR>(a, x, a.q_len, &mut s.left[i]);
        s.right[i].clear();
        a.pack_blocks(x, a.q_len, &mut s.right[i]);
    }
    for block in [&mut s.scores, &mut s.other, &mut s.weights, &mut s.slopes] {
        block.resize(BLOCK * BLOCK, 0.0);
    }
    for j in (0..a.kv_len).step_by(BLOCK) {
        let cols = BLOCK.min(a.kv_len - j);
        for sums in &mut s.sums {
            sums.clear();
            sums.resize(BLOCK * width, 0.0);
        }
        let first = a.blind(0, a.q_len, j) / BLOCK * BLOCK;
        for start in (first..a.q_len).step_by(BLOCK) {
            let at = Queries { b, head, start, rows: BLOCK.min(a.q_len - start) };
            let rows = at.rows;
            if !a.keys_of(start, rows, BLOCK).contains(&j) {
                continue;
            }
            for panel in (0..cols).step_by(NR) {
                for p in (a.blind(start, rows, j + panel) / MR * MR..rows).step_by(MR) {
                    for half in (0..NR).step_by(2 * V::N) {
                        for (i, to) in [&mut s.scores, &mut s.other].into_iter().enumerate() {
                            let (left, right) = (&s.left[i][(start + p) * depth..], &s.keys[i][(j + panel) * depth + half..]);
                            // SAFETY: panels are whole, and the block of scores has room for all.
                            unsafe {
                                let to = to.as_mut_ptr().add(p * BLOCK + panel + half);
                                micro::<V, MR>(a.precision, depth, left.as_ptr(), MR, right.as_ptr(), to, BLOCK, false);
                            }
                        }
                    }
                }
            }
            a.soften(&mut s.scores[..rows * BLOCK]);
            if a.is_bent(at, j, cols) {
                for r in 0..rows {
                    a.mask_row(&mut s.scores[r * BLOCK..][..cols], head, start + r, j);
                }
            }
            let stat = (b * a.heads + head) * a.q_len + start;
            slopes::<V>(a, rows, cols, &lse[stat..], &delta[stat..], [&mut s.scores, &mut s.other, &mut s.weights, &mut s.slopes]);
            let panel_words = a.precision.words(rows);
            for p in (0..cols).step_by(MR) {
                let skip = a.blind(start, rows, j + p) / per_word;
                let words = rows.div_ceil(per_word) - skip;
                for n in (0..width).step_by(2 * V::N) {
                    for (i, left) in [&s.slopes, &s.weights].into_iter().enumerate() {
                        let block = &s.right[i][start / BLOCK * a.block_words()..];
                        // SAFETY: `words` rows of weights and of the panel were written; sums has BLOCK rows of `width`.
                        unsafe {
                            let left = left.as_ptr().add(skip * BLOCK + p);
                            let right = block.as_ptr().add(n / NR * NR * panel_words + skip * NR + n % NR);
                            let to = s.sums[i].as_mut_ptr().add(p * width + n);
                            micro::<V, MR>(a.precision, words, left, BLOCK, right, to, width, true);
                        }
                    }
                }
            }
            let gemm = Gemm { m: rows, n: d, k: cols, precision: a.precision, accumulate: true };
            let keys = &s.keys[2][j / BLOCK * a.block_words()..];
            // SAFETY: this task alone writes this head of `dq`.
            unsafe {
                let to = grads.dq.at(start * grads.q_stride);
                blocks::<V, _, MR>(gemm, Mat::rows(&s.scores, BLOCK), keys, None, to, grads.q_stride, &mut s.packed);
            }
        }
        for ((sums, grad), adds) in s.sums.iter().zip([grads.dk, grads.dv]).zip(adds) {
            for c in 0..cols {
                // SAFETY: this task alone writes this key head of `dk` and `dv`.
                let row = unsafe { std::slice::from_raw_parts_mut(grad.at((j + c) * grads.stride), d) };
                for (x, sum) in row.iter_mut().zip(&sums[c * width..]) {
                    *x = if adds { *x + sum } else { *sum };
                }
            }
        }
    }
}

/// From scores and dP, `[BLOCK queries][BLOCK keys]` each: `p = e^(scale score - lse)` and `ds = p (dp - delta) scale`, the slope of
/// a cap in it, in words along the queries; `ds` also in place of the scores.
#[inline(always)]
fn slopes<V: Vector>(a: &Attention, rows: usize, cols: usize, lse: &[f32], delta: &[f32], blocks: [&mut [f32]; 4]) {
    assert!(rows <= BLOCK && cols <= BLOCK && lse.len() >= rows && delta.len() >= rows);
    assert!(blocks.iter().all(|block| block.len() >= BLOCK * BLOCK));
    let [scores, dp, weights, slopes] = blocks.map(<[f32]>::as_mut_ptr);
    let (by, one, per_word) = (V::splat(a.scale), V::splat(1.0), a.precision.per_word());
    for r in (0..rows).step_by(per_word) {
        for c in (0..cols).step_by(V::N) {
            let mut both = [[V::splat(0.0); 2]; 2];
            // SAFETY: BLOCK is a multiple of N, so a whole vector starts at `c` in each row; rows are below BLOCK.
            unsafe {
                for (i, both) in both.iter_mut().enumerate().take(per_word.min(rows - r)) {
                    let at = (r + i) * BLOCK + c;
                    let score = V::load(scores.add(at));
                    let p = score.fma(by, V::splat(-lse[r + i])).exp();
                    let mut ds = p.mul(V::load(dp.add(at)).sub(V::splat(delta[r + i]))).mul(by);
                    if let Some(tanh_of) = a.tanh_of() {
                        // What is hidden is -inf.
                        let tanh = score.mul(V::splat(tanh_of)).max(V::splat(-1.0));
                        ds = ds.mul(one.sub(tanh.mul(tanh)));
                    }
                    ds.store(scores.add(at));
                    *both = [p, ds];
                }
                let to = r / per_word * BLOCK + c;
                let [[p, ds], [p_below, ds_below]] = both;
                if per_word == 1 {
                    p.store(weights.add(to));
                    ds.store(slopes.add(to));
                } else {
                    V::bf16_words(p, p_below).store(weights.add(to));
                    V::bf16_words(ds, ds_below).store(slopes.add(to));
                }
            }
        }
    }
}
