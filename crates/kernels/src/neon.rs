//! The vectors of aarch64: two registers of four lanes, so that kernels see the eight that AVX2 has.

use std::arch::aarch64::*;

use crate::simd::Vector;

#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t, float32x4_t);

macro_rules! two {
    ($($name:ident = $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            // SAFETY: every aarch64 that this crate is built for has NEON.
            unsafe { Self($intrinsic(self.0, o.0), $intrinsic(self.1, o.1)) }
        }
    )*};
}

// SAFETY of every block below: every aarch64 that this crate is built for has NEON; pointers are vouched for by the
// callers of `load` and `store`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Neon {
    const N: usize = 8;
    two!(add = vaddq_f32, sub = vsubq_f32, mul = vmulq_f32, div = vdivq_f32, max = vmaxq_f32, min = vminq_f32);
    #[inline(always)]
    fn splat(x: f32) -> Self {
        unsafe { Self(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe {
            vst1q_f32(p, self.0);
            vst1q_f32(p.add(4), self.1);
        }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(vsqrtq_f32(self.0), vsqrtq_f32(self.1)) }
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        unsafe { Self(vfmaq_f32(b.0, self.0, a.0), vfmaq_f32(b.1, self.1, a.1)) }
    }
    #[inline(always)]
    fn round(self) -> Self {
        unsafe { Self(vrndnq_f32(self.0), vrndnq_f32(self.1)) }
    }
    #[inline(always)]
    fn exp2_whole(self) -> Self {
        unsafe { Self(power(self.0), power(self.1)) }
    }
    #[inline(always)]
    fn bf16_pair(self) -> (Self, Self) {
        unsafe { (Self(low(self.0), low(self.1)), Self(high(self.0), high(self.1))) }
    }
    #[inline(always)]
    fn zero_below(self, x: Self, floor: f32) -> Self {
        unsafe { Self(keep(self.0, x.0, floor), keep(self.1, x.1, floor)) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { vaddvq_f32(vaddq_f32(self.0, self.1)) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(self.0, self.1)) }
    }
}

/// `2^x` for whole `x`.
#[target_feature(enable = "neon")]
#[inline]
fn power(x: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127))))
}

/// The lower and the upper bf16 of each word.
#[target_feature(enable = "neon")]
#[inline]
fn low(words: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_f32(words)))
}
#[target_feature(enable = "neon")]
#[inline]
fn high(words: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(words), vdupq_n_u32(0xffff_0000)))
}

/// `value` where `x` is not below `floor`, 0 elsewhere.
#[target_feature(enable = "neon")]
#[inline]
fn keep(value: float32x4_t, x: float32x4_t, floor: f32) -> float32x4_t {
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(x, vdupq_n_f32(floor))))
}
