//! Loss of parameters and data, `L(N, D) = E + A N^-a + B D^-b`, and the best split of compute between the two.
//!
//! Hoffmann et al., arXiv:2203.15556, section 3.3. Their printed constants are rounded, and their fit stopped early:
//! predictions from [`HOFFMANN_ROUNDED`] put 5.76e23 FLOP at 32B parameters where they trained 70B. Besiroglu et al.
//! (arXiv:2404.10102) fitted the same runs again; hairpin plans with theirs.

use serde::{Deserialize, Serialize};

/// The five constants; loss in nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parametric {
    /// E: what no model and no data remove.
    pub floor: f64,
    /// A
    pub params_scale: f64,
    /// a
    pub params_exponent: f64,
    /// B
    pub tokens_scale: f64,
    /// b
    pub tokens_exponent: f64,
}

const fn law(floor: f64, params_scale: f64, params_exponent: f64, tokens_scale: f64, tokens_exponent: f64) -> Parametric {
    Parametric { floor, params_scale, params_exponent, tokens_scale, tokens_exponent }
}

/// The replication, arXiv:2404.10102, eq. 3.
pub const EPOCH: Parametric = law(1.8172, 482.01, 0.3478, 2085.43, 0.3658);
/// As the TeX source of arXiv:2203.15556 has them.
pub const HOFFMANN: Parametric = law(1.6934, 406.4, 0.3392, 410.7, 0.2849);
/// As arXiv:2203.15556 prints them. Not to predict with: see the head of this file.
pub const HOFFMANN_ROUNDED: Parametric = law(1.69, 406.4, 0.34, 410.7, 0.28);
/// arXiv:2305.16264, appendix A: runs on C4 whose data repeats.
pub const MUENNIGHOFF: Parametric = law(1.87, 521.0, 0.353, 1488.0, 0.353);

impl Parametric {
    /// Expected loss, nats per token, of `params` parameters after `tokens` tokens that are all new.
    ///
    /// ```
    /// // Chinchilla itself: 70B parameters, 1.4T tokens.
    /// assert!((plan::laws::EPOCH.loss(70e9, 1.4e12) - 1.9739).abs() < 1e-3);
    /// assert!((plan::laws::HOFFMANN_ROUNDED.loss(70e9, 1.4e12) - 1.9366).abs() < 1e-3);
    /// ```
    #[must_use]
    pub fn loss(&self, params: f64, tokens: f64) -> f64 {
        self.floor + self.params_scale * params.powf(-self.params_exponent) + self.tokens_scale * tokens.powf(-self.tokens_exponent)
    }

    /// Whether all constants are above zero: of a fit to runs of one size or one amount of data they need not be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let all = [self.floor, self.params_scale, self.params_exponent, self.tokens_scale, self.tokens_exponent];
        all.iter().all(|v| v.is_finite() && *v > 0.0)
    }

    /// Parameters and tokens of least loss for `flops = 6 N D`: eq. 4 of arXiv:2203.15556,
    /// `N = G (C/6)^(b/(a+b))`, `G = (aA / bB)^(1/(a+b))`.
    ///
    /// ```
    /// // What Chinchilla's compute should have bought: 72B parameters and 1.33T tokens, about what it did buy.
    /// let (params, tokens) = plan::laws::EPOCH.optimum(5.76e23);
    /// assert!((params / 72.2e9 - 1.0).abs() < 0.01 && (tokens / 1.33e12 - 1.0).abs() < 0.01);
    /// // The printed constants mislead.
    /// assert!((plan::laws::HOFFMANN_ROUNDED.optimum(5.76e23).0 / 32.2e9 - 1.0).abs() < 0.01);
    /// ```
    #[must_use]
    pub fn optimum(&self, flops: f64) -> (f64, f64) {
        let (a, b) = (self.params_exponent, self.tokens_exponent);
        let g = (a * self.params_scale / (b * self.tokens_scale)).powf(1.0 / (a + b));
        let params = g * (flops / 6.0).powf(self.params_share());
        (params, flops / 6.0 / params)
    }

    /// The size that is as well balanced with a share `ratio` of the data as `params` are with all of it: both terms of the loss
    /// fall alike, so `N` grows as `D^(b/a)`.
    ///
    /// ```
    /// let (params, tokens) = plan::laws::EPOCH.optimum(1e23);
    /// let balanced = plan::laws::EPOCH.balanced(params, 0.05);
    /// assert!((plan::laws::EPOCH.optimum(6.0 * balanced * 0.05 * tokens).0 / balanced - 1.0).abs() < 1e-9);
    /// ```
    #[must_use]
    pub fn balanced(&self, params: f64, ratio: f64) -> f64 {
        params * ratio.powf(self.tokens_exponent / self.params_exponent)
    }

    /// Of which power of compute the best size grows: `b / (a + b)`.
    #[must_use]
    pub fn params_share(&self) -> f64 {
        self.tokens_exponent / (self.params_exponent + self.tokens_exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_split_of_the_compute_is_better() {
        for law in [EPOCH, HOFFMANN, MUENNIGHOFF] {
            for flops in [1e18, 1e21, 1e25] {
                let (params, tokens) = law.optimum(flops);
                for shift in [0.5, 0.9, 1.1, 2.0] {
                    assert!(law.loss(params * shift, tokens / shift) > law.loss(params, tokens));
                }
            }
        }
    }

    #[test]
    fn twenty_tokens_a_parameter_by_the_replication() {
        for flops in [1e20, 1e22, 1e24] {
            let (params, tokens) = EPOCH.optimum(flops);
            assert!((15.0..30.0).contains(&(tokens / params)), "{}", tokens / params);
        }
    }
}
