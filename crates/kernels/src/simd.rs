//! Vectors: the few operations that kernels are written in, once, and the widths that they are compiled for.
//!
//! A kernel's body is a function generic over [`Vector`], always inlined; `simd_fn!` compiles it once for each level
//! under that level's CPU features and picks one at run time. The portable width is a plain array, which compilers turn
//! into whatever the target has.

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use half::bf16;
use memory::Real;

/// A type in which numbers are stored; arithmetic is in f32.
pub trait Element: Real {
    /// # Safety
    /// `N` numbers can be read at `p`.
    unsafe fn load<V: Vector>(p: *const Self) -> V;
    /// Rounded to nearest even.
    /// # Safety
    /// `N` numbers can be written at `p`.
    unsafe fn store<V: Vector>(x: V, p: *mut Self);
    /// `N` words of bf16 from the `2 N` numbers at `p`.
    /// # Safety
    /// `2 N` numbers can be read at `p`.
    unsafe fn bf16_run<V: Vector>(p: *const Self) -> V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        // SAFETY: the caller's promise, as in all below.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, p: *mut Self) {
        // SAFETY: as above.
        unsafe { x.store(p) }
    }
    #[inline(always)]
    unsafe fn bf16_run<V: Vector>(p: *const Self) -> V {
        // SAFETY: as above.
        unsafe { V::bf16_run(p) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        // SAFETY: as above.
        unsafe { V::load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, p: *mut Self) {
        // SAFETY: as above.
        unsafe { x.store_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn bf16_run<V: Vector>(p: *const Self) -> V {
        // SAFETY: a word is two neighbours as they lie, and an unaligned load asks no more.
        unsafe { V::load(p.cast()) }
    }
}

/// `N` lanes of f32. All operations are lane by lane.
pub trait Vector: Copy {
    const N: usize;
    fn splat(x: f32) -> Self;
    /// # Safety
    /// `N` numbers can be read at `p`.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `N` numbers can be written at `p`.
    unsafe fn store(self, p: *mut f32);
    /// `N` bf16, as f32.
    /// # Safety
    /// `N` numbers can be read at `p`.
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        let mut wide = [0.0; MOST];
        // SAFETY: the caller's promise; `wide` holds `N` numbers and more.
        unsafe {
            for (i, wide) in wide.iter_mut().enumerate().take(Self::N) {
                *wide = f32::from_bits(u32::from(p.add(i).read_unaligned()) << 16);
            }
            Self::load(wide.as_ptr())
        }
    }
    /// Rounded to bf16, nearest even.
    /// # Safety
    /// `N` numbers can be written at `p`.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        let mut wide = [0.0; MOST];
        // SAFETY: as above.
        unsafe {
            self.store(wide.as_mut_ptr());
            for (i, wide) in wide.into_iter().enumerate().take(Self::N) {
                p.add(i).write_unaligned((round_bf16(wide) >> 16) as u16);
            }
        }
    }
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn div(self, o: Self) -> Self;
    fn max(self, o: Self) -> Self;
    fn min(self, o: Self) -> Self;
    fn sqrt(self) -> Self;
    /// `self * a + b`, rounded once where the CPU can.
    fn fma(self, a: Self, b: Self) -> Self;
    fn round(self) -> Self;
    /// `2^self` for whole numbers in -126..=127.
    fn exp2_whole(self) -> Self;
    /// `self * 2^n` for whole numbers in -126..=128.
    #[inline(always)]
    fn times_exp2(self, n: Self) -> Self {
        // 2^127 is the largest power; 2^128 is reached in two steps.
        let half = n.mul(Self::splat(0.5)).round();
        self.mul(half.exp2_whole()).mul(n.sub(half).exp2_whole())
    }
    /// Each lane holds two bf16, low half first: both as f32.
    fn bf16_pair(self) -> (Self, Self);
    /// 0 in the lanes where `x` is below `floor`.
    fn zero_below(self, x: Self, floor: f32) -> Self;
    fn sum(self) -> f32;
    fn largest(self) -> f32;

    /// Words of two bf16, `low` in the low half, rounded to nearest even.
    #[inline(always)]
    fn bf16_words(low: Self, high: Self) -> Self {
        let (mut l, mut h) = ([0.0; MOST], [0.0; MOST]);
        // SAFETY: both arrays hold `N` numbers and more.
        unsafe {
            low.store(l.as_mut_ptr());
            high.store(h.as_mut_ptr());
            for i in 0..Self::N {
                l[i] = word(l[i], h[i]);
            }
            Self::load(l.as_ptr())
        }
    }

    /// `N` words from the `2 N` numbers at `p`.
    /// # Safety
    /// `2 N` numbers can be read at `p`.
    #[inline(always)]
    unsafe fn bf16_run(p: *const f32) -> Self {
        let mut words = [0.0; MOST];
        // SAFETY: the caller's promise; `words` holds `N` numbers and more.
        unsafe {
            for i in 0..Self::N {
                words[i] = word(*p.add(2 * i), *p.add(2 * i + 1));
            }
            Self::load(words.as_ptr())
        }
    }

    /// The transpose of the `N` by `N` words of `rows`.
    #[inline(always)]
    fn transpose(rows: &mut [Self; MOST]) {
        let mut block = [[0.0; MOST]; MOST];
        // SAFETY: a row of `block` holds `N` numbers and more.
        unsafe {
            for (row, block) in rows.iter().zip(&mut block).take(Self::N) {
                row.store(block.as_mut_ptr());
            }
            for i in 0..Self::N {
                for j in i + 1..Self::N {
                    (block[i][j], block[j][i]) = (block[j][i], block[i][j]);
                }
            }
            for (row, block) in rows.iter_mut().zip(&block).take(Self::N) {
                *row = Self::load(block.as_ptr());
            }
        }
    }

    /// `acc + a.lo * b.lo + a.hi * b.hi` over lanes that hold pairs of bf16.
    #[inline(always)]
    fn dot_bf16(a: Self, b: Self, acc: Self) -> Self {
        let ((a0, a1), (b0, b1)) = (a.bf16_pair(), b.bf16_pair());
        a1.fma(b1, a0.fma(b0, acc))
    }

    /// `e^self`, within 2 units in the last place; 0 below -87, as large as f32 gets above 88.
    /// Cody-Waite reduction and a polynomial of degree 6 (Cephes `expf`).
    #[inline(always)]
    fn exp(self) -> Self {
        let x = self.max(Self::splat(-87.3)).min(Self::splat(88.37));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(Self::splat(-0.693_359_4), x);
        let r = n.fma(Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = p.fma(r, Self::splat(c));
        }
        let p = p.fma(r.mul(r), r.add(Self::splat(1.0)));
        p.times_exp2(n).zero_below(self, -87.3)
    }

    /// `1 / (1 + e^-self)`
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.0);
        one.div(one.add(Self::splat(0.0).sub(self).exp()))
    }

    /// `tanh(self) = 2 sigmoid(2 self) - 1`
    #[inline(always)]
    fn tanh(self) -> Self {
        self.add(self).sigmoid().fma(Self::splat(2.0), Self::splat(-1.0))
    }
}

/// The most lanes of any width.
pub const MOST: usize = 16;

/// Two numbers rounded to bf16, nearest even, in one word.
#[inline(always)]
pub(crate) fn word(low: f32, high: f32) -> f32 {
    f32::from_bits((round_bf16(high) & 0xffff_0000) | (round_bf16(low) >> 16))
}

/// The bits of `x` with bf16's in the upper half; a NaN stays one.
#[inline(always)]
fn round_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    if x.is_nan() { bits | 0x0040_0000 } else { rounded }
}

/// Eight lanes that any CPU has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i])))
    }
}

impl Vector for Portable {
    const N: usize = 8;
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for eight numbers; an unaligned read asks no more.
        Self(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        self.zip(o, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        // Rounded twice: a fused one is a slow call where the CPU lacks it, and bits must be the same everywhere.
        self.mul(a).add(b)
    }
    #[inline(always)]
    fn round(self) -> Self {
        // Adding and taking away 1.5 * 2^23 rounds to nearest even; |x| is below 2^22 wherever this is used.
        const MAGIC: f32 = 12_582_912.0;
        self.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn exp2_whole(self) -> Self {
        self.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn bf16_pair(self) -> (Self, Self) {
        (self.map(|x| f32::from_bits(x.to_bits() << 16)), self.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)))
    }
    #[inline(always)]
    fn zero_below(self, x: Self, floor: f32) -> Self {
        Self(std::array::from_fn(|i| if x.0[i] < floor { 0.0 } else { self.0[i] }))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}

/// Call `whole(i)` for each `i` where a whole vector starts in `0..n`, then `rest(i)` for each number left over.
#[inline(always)]
pub(crate) fn stride<V: Vector>(n: usize, mut whole: impl FnMut(usize), mut rest: impl FnMut(usize)) {
    let end = n - n % V::N;
    let mut i = 0;
    while i < end {
        whole(i);
        i += V::N;
    }
    for i in end..n {
        rest(i);
    }
}
