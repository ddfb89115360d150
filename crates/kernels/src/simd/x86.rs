//! The vectors of x86-64: AVX2, AVX-512, and AVX-512 with bf16.

use std::arch::x86_64::*;

use super::{MOST, Vector};

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx512(__m512);
/// AVX-512 whose bf16 dot product is one instruction.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx512Bf16(Avx512);

macro_rules! two {
    ($($name:ident = $intrinsic:ident),*) => {$(
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            // SAFETY: this width is only used inside functions compiled for its CPU features.
            Self(unsafe { $intrinsic(self.0, o.0) })
        }
    )*};
}

// SAFETY of every block below: this width is only used inside functions compiled for its CPU features, which
// `simd_fn!` calls after detecting them; pointers are vouched for by the callers of `load` and `store`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx2 {
    const N: usize = 8;
    two!(add = _mm256_add_ps, sub = _mm256_sub_ps, mul = _mm256_mul_ps, div = _mm256_div_ps);
    two!(max = _mm256_max_ps, min = _mm256_min_ps);
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        unsafe { Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper));
            _mm_storeu_si128(p.cast(), halves);
        }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn exp2_whole(self) -> Self {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    fn bf16_pair(self) -> (Self, Self) {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let low = _mm256_slli_epi32::<16>(bits);
            let high = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (Self(_mm256_castsi256_ps(low)), Self(_mm256_castsi256_ps(high)))
        }
    }
    #[inline(always)]
    fn zero_below(self, x: Self, floor: f32) -> Self {
        unsafe { Self(_mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x.0, _mm256_set1_ps(floor)), self.0)) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

// SAFETY: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx512 {
    const N: usize = 16;
    two!(add = _mm512_add_ps, sub = _mm512_sub_ps, mul = _mm512_mul_ps, div = _mm512_div_ps);
    two!(max = _mm512_max_ps, min = _mm512_min_ps);
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        unsafe { Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let upper = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(upper)));
        }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn exp2_whole(self) -> Self {
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    fn times_exp2(self, n: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }
    #[inline(always)]
    fn bf16_pair(self) -> (Self, Self) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let low = _mm512_slli_epi32::<16>(bits);
            let high = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (Self(_mm512_castsi512_ps(low)), Self(_mm512_castsi512_ps(high)))
        }
    }
    #[inline(always)]
    fn zero_below(self, x: Self, floor: f32) -> Self {
        unsafe { Self(_mm512_mask_mov_ps(self.0, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x.0, _mm512_set1_ps(floor)), _mm512_setzero_ps())) }
    }
    #[inline(always)]
    fn transpose(rows: &mut [Self; MOST]) {
        // No closures here: they would not be compiled for the features, and each intrinsic in them would be a call.
        let words: &mut [__m512i; 16] = unsafe { &mut *std::ptr::from_mut(rows).cast() };
        *words = unsafe { transpose(*words) };
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

macro_rules! same_as_avx512 {
    ($($name:ident),*) => {$(
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            Self(self.0.$name(o.0))
        }
    )*};
}

/// Number `i` of the lower half, then of the upper.
const INTERLEAVED: [u16; 32] = {
    let (mut order, mut i) = ([0; 32], 0);
    while i < 16 {
        (order[2 * i], order[2 * i + 1]) = (i as u16, 16 + i as u16);
        i += 1;
    }
    order
};

impl Vector for Avx512Bf16 {
    const N: usize = 16;
    same_as_avx512!(add, sub, mul, div, max, min);
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(Avx512::splat(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen numbers.
        Self(unsafe { Avx512::load(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for sixteen numbers.
        unsafe { self.0.store(p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: the caller vouches for sixteen numbers.
        Self(unsafe { Avx512::load_bf16(p) })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: used only inside functions compiled for AVX-512 BF16; the caller vouches for sixteen numbers.
        unsafe { p.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(self.0.0)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt())
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        Self(self.0.fma(a.0, b.0))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.round())
    }
    #[inline(always)]
    fn exp2_whole(self) -> Self {
        Self(self.0.exp2_whole())
    }
    #[inline(always)]
    fn times_exp2(self, n: Self) -> Self {
        Self(self.0.times_exp2(n.0))
    }
    #[inline(always)]
    fn bf16_pair(self) -> (Self, Self) {
        let (low, high) = self.0.bf16_pair();
        (Self(low), Self(high))
    }
    #[inline(always)]
    fn zero_below(self, x: Self, floor: f32) -> Self {
        Self(self.0.zero_below(x.0, floor))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.sum()
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.largest()
    }
    #[inline(always)]
    fn transpose(rows: &mut [Self; MOST]) {
        // SAFETY: as for AVX-512, whose rows these are.
        unsafe { Avx512::transpose(&mut *std::ptr::from_mut(rows).cast()) }
    }
    #[inline(always)]
    fn bf16_words(low: Self, high: Self) -> Self {
        // SAFETY: used only inside functions compiled for AVX-512 BF16; the types are 64 bytes of plain bits.
        unsafe {
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high.0.0, low.0.0));
            let order = std::mem::transmute::<[u16; 32], __m512i>(INTERLEAVED);
            Self(Avx512(_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves))))
        }
    }
    #[inline(always)]
    unsafe fn bf16_run(p: *const f32) -> Self {
        // SAFETY: the caller vouches for 32 numbers; the types are 64 bytes of plain bits.
        unsafe {
            let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p.add(16)), _mm512_loadu_ps(p));
            Self(Avx512(std::mem::transmute::<__m512bh, __m512>(pairs)))
        }
    }
    #[inline(always)]
    fn dot_bf16(a: Self, b: Self, acc: Self) -> Self {
        // SAFETY: used only inside functions compiled for AVX-512 BF16; the types are 64 bytes of plain bits.
        unsafe {
            let (a, b) = (std::mem::transmute::<__m512, __m512bh>(a.0.0), std::mem::transmute::<__m512, __m512bh>(b.0.0));
            Self(Avx512(_mm512_dpbf16_ps(acc.0.0, a, b)))
        }
    }
}

/// The transpose of 16 by 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut pairs, mut fours, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Lane l of `fours[4 i + q]` is column 4 l + q of rows 4 i to 4 i + 3.
    for i in 0..4 {
        for half in 0..2 {
            let (a, b) = (pairs[4 * i + half], pairs[4 * i + 2 + half]);
            fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(a, b);
            fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    for q in 0..4 {
        let [a, b, c, d] = [fours[q], fours[4 + q], fours[8 + q], fours[12 + q]];
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_below, odd_below) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[q] = _mm512_shuffle_i32x4::<0x88>(even, even_below);
        out[4 + q] = _mm512_shuffle_i32x4::<0x88>(odd, odd_below);
        out[8 + q] = _mm512_shuffle_i32x4::<0xdd>(even, even_below);
        out[12 + q] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_below);
    }
    out
}
