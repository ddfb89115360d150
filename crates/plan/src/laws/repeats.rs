//! Data that repeats, and models larger than unique data can fill: how much a second epoch is worth.
//!
//! Muennighoff et al., arXiv:2305.16264, eq. 5 and 6: `D' = U + U R*(1 - exp(-R / R*))`, where `U` tokens are seen
//! `1 + R` times. Up to four epochs are nearly as good as new data; after about forty nothing is gained.

use super::Parametric;

/// How fast repeats lose their worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeats {
    /// R*_D: repeats of data until about 1 - 1/e of all that repeating can give.
    pub tokens: f64,
    /// R*_N: the same of parameters beyond those that the unique data fill.
    pub params: f64,
}

impl Repeats {
    /// As fitted there, section 5.
    pub const PUBLISHED: Self = Self { tokens: 15.39, params: 5.31 };

    /// New tokens that `tokens` in all are worth when only `unique` of them are new.
    ///
    /// ```
    /// use plan::laws::Repeats;
    /// let worth = |epochs: f64| Repeats::PUBLISHED.worth(epochs, 1.0) / epochs;
    /// assert!(worth(1.0) == 1.0 && worth(4.0) > 0.92);        // up to four epochs: nearly as good as new
    /// assert!((worth(16.4) - 0.66).abs() < 0.03);              // half of the gain gone at about sixteen
    /// assert!(Repeats::PUBLISHED.worth(1e9, 1.0) < 16.4);      // nothing more after very many
    /// ```
    #[must_use]
    pub fn worth(&self, tokens: f64, unique: f64) -> f64 {
        saturating(tokens, unique, self.tokens)
    }

    /// Loss under `law` when `unique` tokens are seen `tokens / unique` times.
    #[must_use]
    pub fn loss(&self, law: &Parametric, params: f64, tokens: f64, unique: f64) -> f64 {
        if tokens <= unique {
            return law.loss(params, tokens);
        }
        // The size that the unique tokens alone would be best for: `D(C) = unique` solved for N.
        let (a, b) = (law.params_exponent, law.tokens_exponent);
        let filled = (a * law.params_scale / (b * law.tokens_scale) * unique.powf(b)).powf(1.0 / a);
        law.loss(saturating(params, filled, self.params), self.worth(tokens, unique))
    }
}

fn saturating(amount: f64, unique: f64, scale: f64) -> f64 {
    if amount <= unique { amount } else { unique + unique * scale * (1.0 - (-(amount / unique - 1.0) / scale).exp()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{EPOCH, MUENNIGHOFF};

    #[test]
    fn repeats_help_less_than_new_data_and_never_hurt() {
        for law in [EPOCH, MUENNIGHOFF] {
            let at = |tokens: f64| Repeats::PUBLISHED.loss(&law, 1e9, tokens, 1e10);
            assert!(at(2e10) < at(1e10) && at(8e10) < at(4e10));
            assert!(at(4e10) > law.loss(1e9, 4e10), "not better than as much new data");
            assert_eq!(at(0.5e10), law.loss(1e9, 0.5e10));
        }
    }

    #[test]
    fn the_filled_size_is_the_optimum_of_the_unique_tokens() {
        let (params, tokens) = EPOCH.optimum(1e22);
        // Just beyond one epoch the loss goes on from where it was: both saturations begin at the same place.
        let before = Repeats::PUBLISHED.loss(&EPOCH, params, tokens, tokens);
        let after = Repeats::PUBLISHED.loss(&EPOCH, params, tokens * 1.000_001, tokens);
        assert!((before - after).abs() < 1e-6, "{before} {after}");
    }
}
