//! Cross-entropy over rows of logits, in place.

use rayon::prelude::*;

use crate::simd::{Vector, stride};

/// For each row of `logits` `[rows, vocab]`: `nll = ln sum e^logit - logit[target]`, and with `want_grad` the logits
/// become `scale (softmax - onehot)`. A target of `u32::MAX` gives 0.
/// # Panics
/// When another target is not below `vocab`.
pub fn cross_entropy(logits: &mut [f32], targets: &[u32], vocab: usize, scale: f32, nll: &mut [f32], want_grad: bool) {
    logits.par_chunks_mut(vocab).zip(targets).zip(nll).for_each(|((row, target), nll)| {
        if *target == u32::MAX {
            *nll = 0.0;
            if want_grad {
                row.fill(0.0);
            }
            return;
        }
        let logit = row[*target as usize];
        *nll = softmax_row(row, scale, want_grad) - logit;
        if want_grad {
            row[*target as usize] -= scale;
        }
    });
}

/// What one part of a row's logits tells of the whole: `ln sum e^logit` over the part, and the target's logit, 0 if it is
/// in another part.
pub const STATS: usize = 2;

/// Of each row of `logits` `[rows, vocab]`, the columns from `first` on of a wider matrix, the `stats` `[rows, 2]`; with
/// `want_grad` the logits become the softmax of the part.
pub fn part_stats(logits: &mut [f32], targets: &[u32], vocab: usize, first: usize, stats: &mut [f32], want_grad: bool) {
    logits.par_chunks_mut(vocab).zip(targets).zip(stats.par_chunks_mut(STATS)).for_each(|((row, target), stats)| {
        let logit = (*target as usize).checked_sub(first).and_then(|at| row.get(at)).copied().unwrap_or(0.0);
        let log_total = softmax_row(row, 1.0, want_grad);
        stats.copy_from_slice(&[log_total, logit]);
    });
}

/// The second half of [`cross_entropy`] for one part: from the `stats` of all parts `[parts, rows, 2]`.
pub fn part_cross_entropy(
    logits: &mut [f32],
    targets: &[u32],
    vocab: usize,
    first: usize,
    part: usize,
    stats: &[f32],
    scale: f32,
    nll: &mut [f32],
    want_grad: bool,
) {
    let rows = targets.len();
    let of = |part: usize, row: usize| &stats[(part * rows + row) * STATS..][..STATS];
    let parts = stats.len() / (rows * STATS).max(1);
    for (r, (row, nll)) in logits.chunks_mut(vocab).zip(nll).enumerate() {
        let largest = (0..parts).map(|p| of(p, r)[0]).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = (0..parts).map(|p| (of(p, r)[0] - largest).exp()).sum();
        let log_total = largest + total.ln();
        let is_padding = targets[r] == u32::MAX;
        *nll = if is_padding { 0.0 } else { log_total - (0..parts).map(|p| of(p, r)[1]).sum::<f32>() };
        if want_grad {
            let factor = if is_padding { 0.0 } else { scale * (of(part, r)[0] - log_total).exp() };
            row.iter_mut().for_each(|x| *x *= factor);
            if let Some(x) = (targets[r] as usize).checked_sub(first).and_then(|at| row.get_mut(at)).filter(|_| !is_padding) {
                *x -= scale;
            }
        }
    }
}

simd_fn! {
    /// `ln sum e^x`; with `want` the row becomes `scale * softmax`.
    fn softmax_row(row: &mut [f32], scale: f32, want: bool) -> f32 = softmax_row_body;
}

#[inline(always)]
fn softmax_row_body<V: Vector>(row: &mut [f32], scale: f32, want: bool) -> f32 {
    let (n, at) = (row.len(), row.as_mut_ptr());
    let (mut most, mut single) = (V::splat(f32::NEG_INFINITY), f32::NEG_INFINITY);
    // SAFETY of all four closures: a whole vector starts at `i`, or `i < n`.
    #[allow(clippy::undocumented_unsafe_blocks)]
    stride::<V>(n, |i| most = most.max(unsafe { V::load(at.add(i)) }), |i| single = single.max(unsafe { *at.add(i) }));
    let most = most.largest().max(single);
    let (mut sums, mut sum) = (V::splat(0.0), 0.0);
    #[allow(clippy::undocumented_unsafe_blocks)]
    stride::<V>(
        n,
        |i| {
            let e = unsafe { V::load(at.add(i)) }.sub(V::splat(most)).exp();
            sums = sums.add(e);
            if want {
                unsafe { e.store(at.add(i)) };
            }
        },
        |i| {
            let e = (unsafe { *at.add(i) } - most).exp();
            sum += e;
            if want {
                unsafe { *at.add(i) = e };
            }
        },
    );
    let total = sums.sum() + sum;
    if want {
        let factor = scale / total;
        row.iter_mut().for_each(|x| *x *= factor);
    }
    most + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::{noise, softmax};

    #[test]
    fn agrees_with_the_twin_for_logits_of_any_size() {
        for (vocab, scale) in [(1, 1.0), (7, 3.0), (16, 50.0), (67, 1e4), (4096, 1.0)] {
            let rows = 3;
            let x: Vec<f32> = noise(1, rows * vocab).iter().map(|v| v * scale).collect();
            let targets = [0, u32::MAX, vocab as u32 - 1];
            let (mut got, mut nll) = (x.clone(), [0.0; 3]);
            cross_entropy(&mut got, &targets, vocab, 0.5, &mut nll, true);
            for r in [0, 2] {
                let row: Vec<f64> = x[r * vocab..][..vocab].iter().map(|v| f64::from(*v)).collect();
                let p = softmax(&row);
                let t = targets[r] as usize;
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let want = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() - row[t];
                assert!((f64::from(nll[r]) - want).abs() < 1e-5 * (1.0 + want.abs()), "{} for {want}", nll[r]);
                for i in 0..vocab {
                    let want = 0.5 * (p[i] - f64::from(u8::from(i == t)));
                    assert!((f64::from(got[r * vocab + i]) - want).abs() < 1e-5, "{vocab} {scale} {r} {i}");
                }
            }
            assert!(nll[1] == 0.0 && got[vocab..2 * vocab].iter().all(|v| *v == 0.0));
        }
    }
}
