//! What is drawn for a sample (a crop, a flip, hidden patches, noise) by one key, so that it depends on neither threads nor ranks.

use engine::mix;

/// Draws from one key, one after the other.
pub struct Draws(u64);

impl Draws {
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self(key)
    }

    /// In 0..1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = mix(self.0.wrapping_add(0x9E37_79B9_7F4A_7C15));
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.uniform() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// Of a normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.uniform()).ln()).sqrt(), 2.0 * std::f64::consts::PI * self.uniform());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_mean_0_and_variance_1() {
        let mut draws = Draws::new(7);
        let all: Vec<f64> = (0..20_000).map(|_| draws.normal()).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
