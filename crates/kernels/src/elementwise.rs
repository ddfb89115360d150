//! Sums and scalings of whole arrays, in parallel over chunks of fixed length.

use rayon::prelude::*;

use crate::simd::{Vector, simd_fn, stride};

/// Numbers in one task.
pub(crate) const CHUNK: usize = 16 << 10;

/// `y = a + b`
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((y, a), b)| add_chunk(a, b, y));
}

simd_fn! { fn add_chunk(a: &[f32], b: &[f32], y: &mut [f32]) = add_body; }

#[inline(always)]
fn add_body<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32]) {
    let n = y.len().min(a.len()).min(b.len());
    let out = y.as_mut_ptr();
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`, in all three.
        |i| unsafe { V::load(a.as_ptr().add(i)).add(V::load(b.as_ptr().add(i))).store(out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) = a[i] + b[i] },
    );
}

/// `y += a`
pub fn add_assign(a: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| {
        for (y, a) in y.iter_mut().zip(a) {
            *y += a;
        }
    });
}

simd_fn! {
    /// `y += s a`, on this thread.
    pub(crate) fn axpy(s: f32, a: &[f32], y: &mut [f32]) = axpy_body;
}

#[inline(always)]
fn axpy_body<V: Vector>(s: f32, a: &[f32], y: &mut [f32]) {
    let (n, out) = (y.len().min(a.len()), y.as_mut_ptr());
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`, in both.
        |i| unsafe { V::splat(s).fma(V::load(a.as_ptr().add(i)), V::load(out.add(i))).store(out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) += s * a[i] },
    );
}

/// `y += s a`
pub fn add_scaled(s: f32, a: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| axpy(s, a, y));
}

/// `y *= s`
pub fn scale_assign(y: &mut [f32], s: f32) {
    y.par_chunks_mut(CHUNK).for_each(|y| y.iter_mut().for_each(|y| *y *= s));
}

/// `sum x^2`, each chunk in f32 vectors, chunks in order in f64.
#[must_use]
pub fn sum_squares(x: &[f32]) -> f64 {
    // Short runs in f32, so that the rounding of a run stays near that of one number.
    let of_chunk = |x: &[f32]| x.chunks(1024).map(|x| f64::from(crate::gemv::dot(x, x))).sum::<f64>();
    x.par_chunks(CHUNK).map(of_chunk).collect::<Vec<_>>().into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::noise;

    #[test]
    fn sums_agree_at_every_length() {
        for n in [0, 1, 7, 8, 16, 17, 1000, CHUNK + 3] {
            let (a, b) = (noise(1, n), noise(2, n));
            let mut y = vec![0.0; n];
            add(&a, &b, &mut y);
            assert!(y.iter().zip(a.iter().zip(&b)).all(|(y, (a, b))| *y == a + b));
            add_assign(&a, &mut y);
            scale_assign(&mut y, 0.5);
            assert!(y.iter().zip(a.iter().zip(&b)).all(|(y, (a, b))| *y == 0.5 * (a + b + a)));
            add_scaled(-0.5, &b, &mut y);
            assert!(y.iter().zip(&a).all(|(y, a)| (y - a).abs() < 1e-6));
            let want: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum();
            assert!((sum_squares(&a) - want).abs() <= 1e-6 * want);
        }
    }
}
