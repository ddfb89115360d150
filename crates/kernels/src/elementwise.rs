//! Sums and scalings of whole arrays, in parallel over chunks of fixed length.

use rayon::prelude::*;

use crate::{
    Element,
    simd::{Vector, stride},
};

/// Numbers in one task.
pub(crate) const CHUNK: usize = 16 << 10;

/// `y = x`, rounded to nearest even where `y` has fewer bits.
pub fn convert<A: Element, B: Element>(x: &[A], y: &mut [B]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| convert_chunk(x, y));
}

simd_fn! { fn convert_chunk<A, B>(x: &[A], y: &mut [B]) = convert_body; }

#[inline(always)]
fn convert_body<V: Vector, A: Element, B: Element>(x: &[A], y: &mut [B]) {
    let (n, out) = (y.len().min(x.len()), y.as_mut_ptr());
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`, in both.
        |i| unsafe { B::store(A::load::<V>(x.as_ptr().add(i)), out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) = B::rounded(x[i].wide()) },
    );
}

simd_fn! {
    /// `to += from`, or `to = from` where nothing was before, rounded where `to` has fewer bits; both of one length, on this thread.
    pub fn put<A, B>(from: &[A], to: &mut [B], accumulate: bool) = put_body;
}

#[inline(always)]
pub(crate) fn put_body<V: Vector, A: Element, B: Element>(from: &[A], to: &mut [B], accumulate: bool) {
    assert!(from.len() == to.len(), "put: arrays of one length");
    if accumulate { add_assign_body::<V, A, B>(from, to) } else { convert_body::<V, A, B>(from, to) }
}

/// `y = a + b`
pub fn add<T: Element>(a: &[T], b: &[T], y: &mut [T]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((y, a), b)| add_chunk(a, b, y));
}

simd_fn! { fn add_chunk<T>(a: &[T], b: &[T], y: &mut [T]) = add_body; }

#[inline(always)]
fn add_body<V: Vector, T: Element>(a: &[T], b: &[T], y: &mut [T]) {
    let n = y.len().min(a.len()).min(b.len());
    let out = y.as_mut_ptr();
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`, in all three.
        |i| unsafe { T::store(T::load::<V>(a.as_ptr().add(i)).add(T::load(b.as_ptr().add(i))), out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) = T::rounded(a[i].wide() + b[i].wide()) },
    );
}

/// `y += a`
pub fn add_assign<A: Element, B: Element>(a: &[A], y: &mut [B]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| add_assign_chunk(a, y));
}

simd_fn! { fn add_assign_chunk<A, B>(a: &[A], y: &mut [B]) = add_assign_body; }

#[inline(always)]
fn add_assign_body<V: Vector, A: Element, B: Element>(a: &[A], y: &mut [B]) {
    let (n, out) = (y.len().min(a.len()), y.as_mut_ptr());
    stride::<V>(
        n,
        // SAFETY: a whole vector starts at `i`, in both.
        |i| unsafe { B::store(B::load::<V>(out.add(i)).add(A::load(a.as_ptr().add(i))), out.add(i)) },
        // SAFETY: `i < n`.
        |i| unsafe { *out.add(i) = B::rounded((*out.add(i)).wide() + a[i].wide()) },
    );
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

/// `sum[j] += sum over r of rows[r][j]`, in the order of the rows.
pub fn add_rows<T: Element>(rows: &[T], sum: &mut [f32]) {
    const STRIP: usize = 128;
    let width = sum.len();
    sum.par_chunks_mut(STRIP).enumerate().for_each(|(strip, sum)| add_strip(&rows[strip * STRIP..], width, sum));
}

simd_fn! { fn add_strip<T>(rows: &[T], width: usize, sum: &mut [f32]) = add_strip_body; }

#[inline(always)]
fn add_strip_body<V: Vector, T: Element>(rows: &[T], width: usize, sum: &mut [f32]) {
    let n = sum.len();
    let mut whole = 0;
    // Four vectors of sums stay in registers all the way down.
    while whole + 4 * V::N <= n {
        let mut sums = [V::splat(0.0); 4];
        for row in rows.chunks(width).filter(|row| row.len() >= n) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a row holds the `n` columns of this strip.
                *sum = sum.add(unsafe { T::load(row.as_ptr().add(whole + i * V::N)) });
            }
        }
        for (i, partial) in sums.iter().enumerate() {
            // SAFETY: `whole + 4 N <= n`.
            unsafe {
                let at = sum.as_mut_ptr().add(whole + i * V::N);
                V::load(at).add(*partial).store(at);
            }
        }
        whole += 4 * V::N;
    }
    for row in rows.chunks(width).filter(|row| row.len() >= n) {
        for (sum, x) in sum[whole..].iter_mut().zip(&row[whole..n]) {
            *sum += x.wide();
        }
    }
}

/// `sum e^(scale (x - most))`, on this thread; `most` is the largest of `x`.
#[must_use]
pub fn sum_exp(x: &[f32], scale: f32, most: f32) -> f64 {
    // Short runs, so that rounding stays near that of one number.
    x.chunks(GRAIN).map(|x| f64::from(sum_exp_of_grain(x, scale, most))).sum()
}

simd_fn! { fn sum_exp_of_grain(x: &[f32], scale: f32, most: f32) -> f32 = sum_exp_body; }

#[inline(always)]
fn sum_exp_body<V: Vector>(x: &[f32], scale: f32, most: f32) -> f32 {
    let (mut sums, mut sum) = (V::splat(0.0), 0.0);
    stride::<V>(
        x.len(),
        // SAFETY: a whole vector starts at `i`.
        |i| unsafe {
            let e = V::load(x.as_ptr().add(i)).add(V::splat(-most)).mul(V::splat(scale)).exp();
            sums = sums.add(e);
        },
        |i| sum += (scale * (x[i] - most)).exp(),
    );
    sums.sum() + sum
}

/// `y += s a`
pub fn add_scaled(s: f32, a: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| axpy(s, a, y));
}

/// `y = s x`, or `y += s x` with `accumulate`.
pub fn scaled(s: f32, x: &[f32], y: &mut [f32], accumulate: bool) {
    if accumulate {
        return add_scaled(s, x, y);
    }
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y = s * x));
}

/// `y *= s`
pub fn scale_assign(y: &mut [f32], s: f32) {
    y.par_chunks_mut(CHUNK).for_each(|y| y.iter_mut().for_each(|y| *y *= s));
}

/// Numbers whose squares are added in f32: short, so that the rounding of a run stays near that of one number.
pub const GRAIN: usize = 1024;

/// `sum x^2`, exactly the same in whatever order and in however many parts it is taken: each [`GRAIN`] of 1024 numbers is
/// summed in f32 vectors and rounded to a whole number of [`Squares::UNIT`], and whole numbers add without error.
#[must_use]
pub fn sum_squares(x: &[f32]) -> Squares {
    let of_chunk = |x: &[f32]| x.chunks(GRAIN).map(|x| Squares::of(crate::gemv::dot(x, x))).sum();
    if x.len() <= CHUNK { of_chunk(x) } else { x.par_chunks(CHUNK).map(of_chunk).sum() }
}

/// A sum of squares as a whole number of units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Squares {
    units: u128,
    /// Some square was no number, or larger than any that counts.
    is_lost: bool,
}

impl Squares {
    /// A norm of 1e-9 still counts a thousand units.
    pub const UNIT: f64 = 1.0 / (1_u128 << 70) as f64;
    /// Each a run of 12 bits, so that thousands of ranks add them in f32 without error; the last tells what is lost.
    pub const LIMBS: usize = 11;
    const LIMB_BITS: usize = 12;

    fn of(sum: f32) -> Self {
        let units = f64::from(sum) / Self::UNIT;
        if units < 2_f64.powi(110) { Self { units: units as u128, is_lost: false } } else { Self { units: 0, is_lost: true } }
    }

    /// The sum itself; not a number where one was lost.
    #[must_use]
    pub fn value(self) -> f64 {
        if self.is_lost { f64::NAN } else { self.units as f64 * Self::UNIT }
    }

    /// As numbers that ranks can add element by element.
    #[must_use]
    pub fn limbs(self) -> [f32; Self::LIMBS] {
        let limb = |i: usize| (self.units >> (Self::LIMB_BITS * i) & ((1 << Self::LIMB_BITS) - 1)) as f32;
        std::array::from_fn(|i| if i + 1 == Self::LIMBS { f32::from(self.is_lost) } else { limb(i) })
    }

    /// From limbs that were added.
    #[must_use]
    pub fn from_limbs(limbs: [f32; Self::LIMBS]) -> Self {
        let [limbs @ .., lost] = limbs;
        let units = limbs.iter().enumerate().map(|(i, limb)| (*limb as u128) << (Self::LIMB_BITS * i)).sum();
        Self { units, is_lost: lost > 0.0 }
    }
}

impl std::ops::Add for Squares {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { units: self.units.saturating_add(other.units), is_lost: self.is_lost || other.is_lost }
    }
}

impl std::iter::Sum for Squares {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::naive::noise;

    #[test]
    fn rows_are_added_to_what_is_there() {
        for (rows, width) in [(1, 1), (3, 7), (5, 64), (2, 129), (67, 200), (9, 300)] {
            let (x, mut sum) = (noise(1, rows * width), noise(2, width));
            let want: Vec<f64> =
                (0..width).map(|j| f64::from(sum[j]) + (0..rows).map(|r| f64::from(x[r * width + j])).sum::<f64>()).collect();
            add_rows(&x, &mut sum);
            assert!(sum.iter().zip(&want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5), "{rows} x {width}");
        }
    }

    #[test]
    fn numbers_become_bf16_as_the_crate_half_rounds_them() {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3.4e38, -3.4e38, 1.003_906_3, 1.011_718_8];
        for n in [0, 1, 7, 8, 16, 33, CHUNK + 3] {
            let x: Vec<f32> =
                noise(1, n).into_iter().zip(special.iter().cycle()).map(|(x, s)| if x > 0.8 { *s } else { 100.0 * x }).collect();
            let (mut short, mut wide) = (vec![bf16::ZERO; n], vec![0.0; n]);
            convert(&x, &mut short);
            convert(&short, &mut wide);
            for ((x, short), wide) in x.iter().zip(&short).zip(wide) {
                assert!(short.to_bits() == bf16::from_f32(*x).to_bits() || x.is_nan() && short.is_nan(), "{x} gives {short}");
                assert!(wide.to_bits() == short.to_f32().to_bits());
            }
            let (mut sum, ones) = (short.clone(), vec![1.0_f32; n]);
            add_assign(&ones, &mut sum);
            assert!(sum.iter().zip(&short).all(|(sum, x)| sum.to_bits() == bf16::from_f32(x.to_f32() + 1.0).to_bits() || sum.is_nan()));
        }
    }

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
            assert!((sum_squares(&a).value() - want).abs() <= 1e-6 * want);
        }
    }

    #[test]
    fn squares_add_to_the_same_bits_in_any_parts_and_order() {
        let x = noise(3, 50 * GRAIN + 77);
        let whole = sum_squares(&x);
        for parts in [1, 2, 3, 8, 50] {
            let each = (x.len() / GRAIN).div_ceil(parts) * GRAIN;
            let mut limbs = [0.0; Squares::LIMBS];
            for part in x.chunks(each).rev() {
                limbs.iter_mut().zip(sum_squares(part).limbs()).for_each(|(sum, limb)| *sum += limb);
            }
            assert_eq!(Squares::from_limbs(limbs), whole, "{parts} parts");
        }
        assert!(sum_squares(&[1.0, f32::NAN]).value().is_nan() && sum_squares(&[f32::MAX]).value().is_nan());
        assert!((sum_squares(&[1e-7; 100]).value() / 1e-12 - 1.0).abs() < 1e-6);
    }
}
