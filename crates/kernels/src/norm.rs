//! RMSNorm and LayerNorm over rows. Sums over rows (`dw`, `db`) are made per block of rows and added in order.

use rayon::prelude::*;

use crate::{
    Element,
    simd::{Vector, stride},
};

/// Rows in one task, and in one partial sum of `dw`.
const ROWS: usize = 64;

/// `y = w x inv_rms`, `inv_rms = 1 / sqrt(mean(x^2) + eps)` `[rows]`.
pub fn rms_norm<T: Element>(x: &[T], w: &[f32], eps: f32, y: &mut [T], inv_rms: &mut [f32]) {
    let n = w.len();
    let blocks = y.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * n)).zip(inv_rms.par_chunks_mut(ROWS));
    blocks.for_each(|((y, x), inv_rms)| rms_rows(x, w, eps, y, inv_rms));
}

simd_fn! { fn rms_rows<T>(x: &[T], w: &[f32], eps: f32, y: &mut [T], inv_rms: &mut [f32]) = rms_rows_body; }

#[inline(always)]
fn rms_rows_body<V: Vector, T: Element>(x: &[T], w: &[f32], eps: f32, y: &mut [T], inv_rms: &mut [f32]) {
    let n = w.len();
    for ((x, y), s) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(inv_rms) {
        *s = 1.0 / (sum_products::<V, _, _>(x, 0.0, x, 0.0) / n as f32 + eps).sqrt();
        scale_into::<V, _, _>(x, w, *s, y);
    }
}

/// `sum (a - am) (b - bm)` over two rows of one length.
#[inline(always)]
fn sum_products<V: Vector, A: Element, B: Element>(a: &[A], am: f32, b: &[B], bm: f32) -> f32 {
    let n = a.len();
    assert!(b.len() == n);
    let (mut sums, mut i) = ([V::splat(0.0); 2], 0);
    let (va, vb) = (V::splat(am), V::splat(bm));
    while i + V::N <= n {
        // SAFETY: a whole vector starts at `i` in both.
        let (x, y) = unsafe { (A::load::<V>(a.as_ptr().add(i)), B::load::<V>(b.as_ptr().add(i))) };
        let at = i / V::N % 2;
        sums[at] = x.sub(va).fma(y.sub(vb), sums[at]);
        i += V::N;
    }
    let sum = sums[0].add(sums[1]).sum();
    (i..n).fold(sum, |sum, i| sum + (a[i].wide() - am) * (b[i].wide() - bm))
}

#[inline(always)]
fn scale_into<V: Vector, A: Element, B: Element>(x: &[A], w: &[f32], s: f32, y: &mut [B]) {
    let (n, scale) = (w.len(), V::splat(s));
    assert!(x.len() == n && y.len() == n);
    let out = y.as_mut_ptr();
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`; lengths are checked above.
        |i| unsafe { B::store(A::load::<V>(x.as_ptr().add(i)).mul(scale).mul(V::load(w.as_ptr().add(i))), out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) = B::rounded(x[i].wide() * s * w[i]) },
    );
}

/// `dx = s w dy - x s^3 mean(x w dy)`, `dw += sum over rows of x s dy`, with `s = inv_rms`.
pub fn rms_norm_backward<T: Element>(x: &[T], w: &[f32], inv_rms: &[f32], dy: &[T], dx: &mut [T], dw: &mut [f32], accumulate_dx: bool) {
    backward(Rows { x, w, mean: &[], inv: inv_rms, dy }, dx, dw, None, accumulate_dx);
}

/// `y = w (x - mean) inv_std + b`, with mean and `inv_std` `[rows]` kept.
pub fn layer_norm<T: Element>(x: &[T], w: &[f32], b: Option<&[f32]>, eps: f32, y: &mut [T], mean: &mut [f32], inv_std: &mut [f32]) {
    let n = w.len();
    let stats = mean.par_chunks_mut(ROWS).zip(inv_std.par_chunks_mut(ROWS));
    let blocks = y.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * n)).zip(stats);
    blocks.for_each(|((y, x), (mean, inv_std))| layer_rows(x, w, b, eps, y, mean, inv_std));
}

simd_fn! {
    fn layer_rows<T>(
        x: &[T], w: &[f32], b: Option<&[f32]>, eps: f32, y: &mut [T], mean: &mut [f32], inv_std: &mut [f32],
    ) = layer_rows_body;
}

#[inline(always)]
fn layer_rows_body<V: Vector, T: Element>(
    x: &[T],
    w: &[f32],
    b: Option<&[f32]>,
    eps: f32,
    y: &mut [T],
    mean: &mut [f32],
    inv_std: &mut [f32],
) {
    let n = w.len();
    assert!(b.is_none_or(|b| b.len() == n), "norm: a bias for each column");
    for (r, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
        let m = sum::<V, _>(x) / n as f32;
        let s = 1.0 / (sum_products::<V, _, _>(x, m, x, m) / n as f32 + eps).sqrt();
        (mean[r], inv_std[r]) = (m, s);
        let (x, w, out) = (x.as_ptr(), w.as_ptr(), y.as_mut_ptr());
        let (vm, vs) = (V::splat(m), V::splat(s));
        // SAFETY of all four closures: a whole vector starts at `i`, or `i < n`; rows, `w` and `b` are `n` long.
        #[allow(clippy::undocumented_unsafe_blocks)]
        if let Some(b) = b {
            let b = b.as_ptr();
            stride::<V>(
                n,
                |i| unsafe { T::store(T::load::<V>(x.add(i)).sub(vm).mul(vs).fma(V::load(w.add(i)), V::load(b.add(i))), out.add(i)) },
                |i| unsafe { *out.add(i) = T::rounded(((*x.add(i)).wide() - m) * s * *w.add(i) + *b.add(i)) },
            );
        } else {
            stride::<V>(
                n,
                |i| unsafe { T::store(T::load::<V>(x.add(i)).sub(vm).mul(vs).mul(V::load(w.add(i))), out.add(i)) },
                |i| unsafe { *out.add(i) = T::rounded(((*x.add(i)).wide() - m) * s * *w.add(i)) },
            );
        }
    }
}

#[inline(always)]
fn sum<V: Vector, T: Element>(x: &[T]) -> f32 {
    let (mut sums, mut single) = (V::splat(0.0), 0.0);
    stride::<V>(
        x.len(),
        // SAFETY: a whole vector starts at `i`.
        |i| sums = sums.add(unsafe { T::load(x.as_ptr().add(i)) }),
        |i| single += x[i].wide(),
    );
    sums.sum() + single
}

/// With `h = (x - mean) s` and `g = w dy`: `dx = s (g - mean(g) - h mean(g h))`, `dw += h dy`, `db += dy`.
pub fn layer_norm_backward<T: Element>(
    x: &[T],
    w: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dy: &[T],
    dx: &mut [T],
    dw: &mut [f32],
    db: Option<&mut [f32]>,
    accumulate_dx: bool,
) {
    backward(Rows { x, w, mean, inv: inv_std, dy }, dx, dw, db, accumulate_dx);
}

/// Rows of either norm; `mean` is empty for RMSNorm, whose mean is taken as zero.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    x: &'a [T],
    w: &'a [f32],
    mean: &'a [f32],
    inv: &'a [f32],
    dy: &'a [T],
}

fn backward<T: Element>(all: Rows<'_, T>, dx: &mut [T], dw: &mut [f32], db: Option<&mut [f32]>, accumulate: bool) {
    let n = all.w.len();
    let block = |i: usize| {
        let rows = i * ROWS..((i + 1) * ROWS).min(all.inv.len());
        let span = rows.start * n..rows.end * n;
        let mean = if all.mean.is_empty() { all.mean } else { &all.mean[rows.clone()] };
        Rows { x: &all.x[span.clone()], dy: &all.dy[span], inv: &all.inv[rows], mean, w: all.w }
    };
    let partial = |(i, dx): (usize, &mut [T])| {
        let mut sums = vec![0.0; 2 * n];
        backward_rows(block(i), dx, &mut sums, accumulate);
        sums
    };
    let partials: Vec<Vec<f32>> = if dx.is_empty() {
        // Only the weight's gradient is wanted.
        let mut unused = vec![T::zeroed(); ROWS * n];
        (0..all.inv.len().div_ceil(ROWS)).map(|i| partial((i, &mut unused))).collect()
    } else {
        dx.par_chunks_mut(ROWS * n).enumerate().map(partial).collect()
    };
    for sums in &partials {
        for (dw, sum) in dw.iter_mut().zip(&sums[..n]) {
            *dw += sum;
        }
    }
    if let Some(db) = db {
        for sums in &partials {
            for (db, sum) in db.iter_mut().zip(&sums[n..]) {
                *db += sum;
            }
        }
    }
}

simd_fn! { fn backward_rows<T>(rows: Rows<'_, T>, dx: &mut [T], sums: &mut [f32], accumulate: bool) = backward_rows_body; }

#[inline(always)]
fn backward_rows_body<V: Vector, T: Element>(rows: Rows<'_, T>, dx: &mut [T], sums: &mut [f32], accumulate: bool) {
    let (w, n) = (rows.w, rows.w.len());
    let is_layer = !rows.mean.is_empty();
    let (dw, db) = sums.split_at_mut(n);
    let mut weighted = vec![0.0; n];
    for (r, ((x, dy), dx)) in rows.x.chunks_exact(n).zip(rows.dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)).enumerate() {
        let (m, s) = (if is_layer { rows.mean[r] } else { 0.0 }, rows.inv[r]);
        scale_into::<V, _, _>(dy, w, 1.0, &mut weighted);
        let g_h = sum_products::<V, _, _>(&weighted, 0.0, x, m) * s / n as f32;
        let g = if is_layer { sum::<V, _>(&weighted) / n as f32 } else { 0.0 };
        let (vm, vs, vg, vg_h) = (V::splat(m), V::splat(s), V::splat(g), V::splat(g_h));
        let (to, dw, db) = (dx.as_mut_ptr(), dw.as_mut_ptr(), db.as_mut_ptr());
        // SAFETY of both closures: a whole vector starts at `i`, or `i < n`, and all rows and sums are `n` long.
        #[allow(clippy::undocumented_unsafe_blocks)]
        stride::<V>(
            n,
            |i| unsafe {
                let dy: V = T::load(dy.as_ptr().add(i));
                let h = T::load::<V>(x.as_ptr().add(i)).sub(vm).mul(vs);
                let new = vs.mul(V::load(weighted.as_ptr().add(i)).sub(vg).sub(h.mul(vg_h)));
                T::store(if accumulate { T::load::<V>(to.add(i)).add(new) } else { new }, to.add(i));
                h.fma(dy, V::load(dw.add(i))).store(dw.add(i));
                if is_layer {
                    V::load(db.add(i)).add(dy).store(db.add(i));
                }
            },
            |i| unsafe {
                let (h, dy) = ((x[i].wide() - m) * s, dy[i].wide());
                let new = s * (weighted[i] - g - h * g_h);
                *to.add(i) = T::rounded(if accumulate { (*to.add(i)).wide() + new } else { new });
                *dw.add(i) += h * dy;
                *db.add(i) += dy;
            },
        );
    }
}
