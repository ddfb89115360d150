//! Kaplan et al., arXiv:2001.08361: the first laws, on WebText2; N without embeddings. Their split of compute
//! (`N ~ C^0.73`) came from schedules that did not fit the run's length; it stands here for comparison.

/// Loss, nats per token, of `params` parameters with data and time enough: eq. 1.1.
#[must_use]
pub fn loss_of_params(params: f64) -> f64 {
    (8.8e13 / params).powf(0.076)
}

/// Loss of `tokens` tokens and a model large enough, stopped early: eq. 1.2.
#[must_use]
pub fn loss_of_tokens(tokens: f64) -> f64 {
    (5.4e13 / tokens).powf(0.095)
}

/// Loss of `flops` spent best: eq. 1.3; their unit is a PF-day, 8.64e19 FLOP.
#[must_use]
pub fn loss_of_flops(flops: f64) -> f64 {
    (3.1e8 / (flops / 8.64e19)).powf(0.050)
}

/// Loss of both, overfitting included: eq. 1.5 with the constants of table 2.
///
/// ```
/// use plan::laws::kaplan::{loss, loss_of_params};
/// // With data without end only the size counts, up to what the two fits differ by.
/// assert!((loss(1e9, 1e15) / loss_of_params(1e9) - 1.0).abs() < 0.03);
/// assert!(loss(1e9, 1e9) > loss(1e9, 1e10));
/// ```
#[must_use]
pub fn loss(params: f64, tokens: f64) -> f64 {
    const PARAMS: f64 = 0.076;
    const TOKENS: f64 = 0.103;
    ((6.4e13 / params).powf(PARAMS / TOKENS) + 1.8e13 / tokens).powf(TOKENS)
}
