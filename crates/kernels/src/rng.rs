//! Counter-based randomness: number `index` under `key` is a function of the two, whoever asks and in whatever order.

use rayon::prelude::*;

use crate::simd::Vector;

/// 64 well-mixed bits: two rounds of SplitMix64's finaliser over key and counter.
#[must_use]
pub fn bits(key: u64, index: u64) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(key)) ^ key)
}

/// In `0..1`, on a grid of `2^-24`.
#[must_use]
pub fn uniform(key: u64, index: u64) -> f32 {
    (bits(key, index) >> 40) as f32 / (1_u64 << 24) as f32
}

/// Normal numbers with mean 0 and deviation `std` (Box-Muller).
pub fn fill_normal(key: u64, std: f32, out: &mut [f32]) {
    const CHUNK: usize = 4096;
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| normal_chunk(key, (chunk * CHUNK) as u64, std, out));
}

simd_fn! { fn normal_chunk(key: u64, first: u64, std: f32, out: &mut [f32]) = normal_body; }

/// Plain numbers without calls or branches, which compilers turn into vectors of the level; bits are the same at all.
#[inline(always)]
fn normal_body<V: Vector>(key: u64, first: u64, std: f32, out: &mut [f32]) {
    const UNIT: f32 = 1.0 / (1_u64 << 32) as f32;
    for (i, out) in out.iter_mut().enumerate() {
        let bits = bits(key, first + i as u64);
        let (a, b) = ((bits >> 32) as u32 as f32 + 0.5, bits as u32 as f32);
        *out = (-2.0 * ln(a * UNIT)).max(0.0).sqrt() * cos_turns(b * UNIT) * std;
    }
}

/// Natural logarithm of a normal number above 0, to 2 units in the last place (Cephes `logf`).
#[inline(always)]
fn ln(x: f32) -> f32 {
    // x = m 2^e with m between the roots of 1/2 and of 2.
    let shifted = x.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3) - 1.0;
    let mut p = 7.037_683_6e-2_f32;
    for c in [-0.115_146_1, 0.116_769_984, -0.124_201_41, 0.142_493_23, -0.166_680_57, 0.200_007_14, -0.249_999_94, 0.333_333_3] {
        p = p * m + c;
    }
    let square = m * m;
    m + (p * m * square - 2.121_944_4e-4 * e - 0.5 * square) + 0.693_359_4 * e
}

/// Cosine of `t` whole turns, `t` in `0..=1`: a quarter turn less `|t|` has it for sine, whose series ends at the 11th power.
#[inline(always)]
fn cos_turns(t: f32) -> f32 {
    let from_nearest = t - if t > 0.5 { 1.0 } else { 0.0 };
    let x = (0.25 - from_nearest.abs()) * std::f32::consts::TAU;
    let square = x * x;
    let mut p = -2.505_210_8e-8_f32;
    for c in [2.755_731_9e-6, -1.984_127e-4, 8.333_333e-3, -0.166_666_67] {
        p = p * square + c;
    }
    x + x * square * p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_follow_the_formula_in_f64() {
        let mut x = vec![0.0; 10_000];
        fill_normal(7, 1.5, &mut x);
        for (i, got) in x.iter().enumerate() {
            let bits = bits(7, i as u64);
            let (a, b) = (((bits >> 32) as f32 + 0.5) / 2_f32.powi(32), (bits & 0xffff_ffff) as f32 / 2_f32.powi(32));
            let want = (-2.0 * f64::from(a).ln()).max(0.0).sqrt() * (std::f64::consts::TAU * f64::from(b)).cos() * 1.5;
            assert!((f64::from(*got) - want).abs() < 3e-6, "number {i} is {got}, not {want}");
        }
    }

    #[test]
    fn normal_numbers_have_their_mean_and_deviation() {
        let mut x = vec![0.0; 100_000];
        fill_normal(3, 2.0, &mut x);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let var = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.03 && (var.sqrt() - 2.0).abs() < 0.02, "mean {mean}, deviation {}", var.sqrt());
    }
}
