//! Counter-based randomness: number `index` under `key` is a function of the two, whoever asks and in whatever order.

use rayon::prelude::*;

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
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        for (i, out) in out.iter_mut().enumerate() {
            let bits = bits(key, (chunk * CHUNK + i) as u64);
            let (a, b) = ((bits >> 32) as f32 + 0.5, (bits & 0xffff_ffff) as f32);
            let scale = 1.0 / (1_u64 << 32) as f32;
            *out = (-2.0 * (a * scale).ln()).max(0.0).sqrt() * (std::f32::consts::TAU * b * scale).cos() * std;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_their_mean_and_deviation() {
        let mut x = vec![0.0; 100_000];
        fill_normal(3, 2.0, &mut x);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let var = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.03 && (var.sqrt() - 2.0).abs() < 0.02, "mean {mean}, deviation {}", var.sqrt());
    }
}
