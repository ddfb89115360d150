//! Attention of single queries: dot products along the keys as they lie, nothing packed.

use std::cell::RefCell;

use super::{Attention, online_softmax};
use crate::{Element, SharedMut, elementwise::put, simd::Vector};

thread_local! {
    pub(super) static SCORES: RefCell<Vec<f32>> = RefCell::default();
}

impl Attention {
    /// One query against the keys and values as they lie.
    pub(super) fn forward_row<T: Element>(
        &self,
        b: usize,
        head: usize,
        i: usize,
        [q, k, v]: [&[T]; 3],
        out: SharedMut<T>,
        lse: SharedMut,
        scores: &mut Vec<f32>,
    ) {
        let (d, at, kv_head) = (self.head_dim, self.q_at(b, head, i), head / (self.heads / self.kv_heads));
        let first = (b * self.kv_len * self.kv_heads + kv_head) * d;
        // SAFETY: this row of this head of `out` and `lse` is this task's alone.
        let (out, lse) = unsafe {
            let row = std::slice::from_raw_parts_mut(out.at(at), d);
            (row, &mut *lse.at((b * self.heads + head) * self.q_len + i))
        };
        let (width, mut sums) = (self.kv_heads * d, vec![0.0; d]);
        *lse = self.row(head, i, &q[at..at + d], [k, v], (|j| first + j * width, usize::MAX), &mut sums, scores);
        put(&sums, out, false);
    }

    /// Query `i` of one head, `q`, into `out`; gives the log of its denominator. The key and value of place `j` begin at `at(j)` of `k` and `v`,
    /// and those of places `run * n..run * (n + 1)` follow one another.
    pub(super) fn row<T: Element>(
        &self,
        head: usize,
        i: usize,
        q: &[T],
        [k, v]: [&[T]; 2],
        (at, run): (impl Fn(usize) -> usize, usize),
        out: &mut [f32],
        scores: &mut Vec<f32>,
    ) -> f32 {
        let (keys, width) = (self.keys_of(i, 1, 1), self.kv_heads * self.head_dim);
        let runs = || {
            let mut from = keys.start;
            std::iter::from_fn(move || {
                let to = (from / run + 1).saturating_mul(run).min(keys.end);
                let places = from..to;
                from = to;
                (!places.is_empty()).then_some(places)
            })
        };
        scores.resize(scores.len().max(keys.len()), 0.0);
        let scores = &mut scores[..keys.len()];
        for places in runs() {
            dots(q, &k[at(places.start)..], width, &mut scores[places.start - keys.start..places.end - keys.start]);
        }
        self.soften(scores);
        self.mask_row(scores, head, i, keys.start);
        let (mut most, mut total) = (f32::NEG_INFINITY, 0.0);
        online_softmax(scores, self.scale, &mut most, &mut total);
        let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
        scores.iter_mut().for_each(|p| *p *= inverse);
        out.fill(0.0);
        for places in runs() {
            add_weighted(&scores[places.start - keys.start..places.end - keys.start], &v[at(places.start)..], width, out);
        }
        most + total.ln()
    }
}

simd_fn! {
    /// `out[j] = q . rows[j]`, rows `stride` apart.
    fn dots<T>(q: &[T], rows: &[T], stride: usize, out: &mut [f32]) = dots_body;
}

#[inline(always)]
fn dots_body<V: Vector, T: Element>(q: &[T], rows: &[T], stride: usize, out: &mut [f32]) {
    const TOGETHER: usize = 4;
    let (d, n) = (q.len(), out.len());
    assert!(n == 0 || rows.len() >= (n - 1) * stride + d, "attention: rows fit");
    let end = d - d % V::N;
    for first in (0..n).step_by(TOGETHER) {
        let count = TOGETHER.min(n - first);
        let mut sums = [V::splat(0.0); TOGETHER];
        for i in (0..end).step_by(V::N) {
            // SAFETY: `i + V::N <= d`, and every row has `d` numbers; a row past the last is the last once more.
            unsafe {
                let q: V = T::load(q.as_ptr().add(i));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let row = first + r.min(count - 1);
                    *sum = q.fma(T::load(rows.as_ptr().add(row * stride + i)), *sum);
                }
            }
        }
        for r in 0..count {
            let row = &rows[(first + r) * stride..][..d];
            out[first + r] = (end..d).fold(sums[r].sum(), |sum, i| sum + q[i].wide() * row[i].wide());
        }
    }
}

simd_fn! {
    /// `out += sum over j of weights[j] rows[j]`, in their order, rows `stride` apart.
    fn add_weighted<T>(weights: &[f32], rows: &[T], stride: usize, out: &mut [f32]) = add_weighted_body;
}

#[inline(always)]
fn add_weighted_body<V: Vector, T: Element>(weights: &[f32], rows: &[T], stride: usize, out: &mut [f32]) {
    const TOGETHER: usize = 4;
    let d = out.len();
    assert!(weights.is_empty() || rows.len() >= (weights.len() - 1) * stride + d, "attention: rows fit");
    let mut i = 0;
    while i + TOGETHER * V::N <= d {
        // SAFETY: so many numbers from `i` on are inside `out` and inside every row.
        unsafe {
            let mut sums: [V; TOGETHER] = std::array::from_fn(|s| V::load(out.as_ptr().add(i + s * V::N)));
            for (j, weight) in weights.iter().enumerate() {
                let (weight, row) = (V::splat(*weight), rows.as_ptr().add(j * stride + i));
                for (s, sum) in sums.iter_mut().enumerate() {
                    *sum = weight.fma(T::load(row.add(s * V::N)), *sum);
                }
            }
            for (s, sum) in sums.into_iter().enumerate() {
                sum.store(out.as_mut_ptr().add(i + s * V::N));
            }
        }
        i += TOGETHER * V::N;
    }
    while i + V::N <= d {
        // SAFETY: a whole vector from `i` on is inside `out` and inside every row.
        unsafe {
            let mut sum = V::load(out.as_ptr().add(i));
            for (j, weight) in weights.iter().enumerate() {
                sum = V::splat(*weight).fma(T::load(rows.as_ptr().add(j * stride + i)), sum);
            }
            sum.store(out.as_mut_ptr().add(i));
        }
        i += V::N;
    }
    for (j, weight) in weights.iter().enumerate() {
        (i..d).for_each(|i| out[i] += weight * rows[j * stride + i].wide());
    }
}
