//! How large a batch still helps, and which learning rate goes with it.

use serde::Serialize;

/// Tokens of a batch beyond which more accelerators buy no time: `2.1e8 / L^(1/0.21)`, arXiv:2001.08361, eq. 5.3, at loss
/// `loss` in nats per token. At this batch a run takes twice its fewest steps and twice its fewest tokens (arXiv:1812.06162,
/// eq. 2.11).
///
/// ```
/// // GPT-3 took 3.2M tokens at a loss near 2: below the critical batch there.
/// assert!((3.2e6..2e7).contains(&plan::laws::batch::critical_tokens(2.0)));
/// ```
#[must_use]
pub fn critical_tokens(loss: f64) -> f64 {
    2.1e8 / loss.powf(1.0 / 0.21)
}

/// Tokens needed with a batch of `batch` tokens, as a ratio of those at a very small one: arXiv:1812.06162, eq. 2.11.
///
/// ```
/// assert_eq!(plan::laws::batch::tokens_ratio(1e6, 1e6), 2.0);
/// ```
#[must_use]
pub fn tokens_ratio(batch: f64, critical: f64) -> f64 {
    1.0 + batch / critical
}

/// What DeepSeek LLM found best over its small runs, from compute alone: arXiv:2401.02954, eq. 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setting {
    pub lr: f64,
    pub batch_tokens: f64,
}

/// Peak learning rate of AdamW `0.3118 C^-0.125` and batch `0.2920 C^0.3271` tokens.
///
/// ```
/// // DeepSeek LLM 67B: 2T tokens, lr 3.2e-4, batch 4,608 x 4,096; the law gives the order.
/// let setting = plan::laws::batch::best_setting(6.0 * 67e9 * 2e12);
/// assert!((setting.lr / 3.2e-4 - 1.0).abs() < 0.25);
/// assert!((setting.batch_tokens / 18.9e6 - 1.0).abs() < 0.25);
/// ```
#[must_use]
pub fn best_setting(flops: f64) -> Setting {
    Setting { lr: 0.3118 * flops.powf(-0.1250), batch_tokens: 0.2920 * flops.powf(0.3271) }
}

/// Learning rate of a model `width` wide when `lr` is best at `proxy_width`: hidden matrices under muP go as `1 / width`,
/// arXiv:2203.03466, table 8.
#[must_use]
pub fn mup_lr(lr: f64, proxy_width: f64, width: f64) -> f64 {
    lr * proxy_width / width
}
