//! Published laws of what loss to expect: of parameters and data, of repeated data, of batch and learning rate, of images.
//!
//! Each file holds one kind with its sources and the worked problems that check it. A law that was fitted to runs, with its
//! uncertainty, is a [`Law`]; [`crate::laws::fit`] makes one from points, and [`Law::chinchilla`] is the one that comes with
//! hairpin.

mod approaches;
pub mod batch;
pub mod fit;
pub mod kaplan;
mod law;
mod parametric;
mod repeats;
pub mod vision;

pub use approaches::{Allocation, envelope, profiles};
pub use law::{Law, Observation, PUBLISHED_DRIFT, Prediction, Range};
pub use parametric::{EPOCH, HOFFMANN, HOFFMANN_ROUNDED, MUENNIGHOFF, Parametric};
pub use repeats::Repeats;

/// Training FLOPs of `params` active parameters over `tokens`, by the convention of the laws and of most papers: `6 N D`.
/// Attention's products are left out, as they are there; what a step really computes comes from the step on `Meta`.
///
/// ```
/// use plan::laws::train_flops;
/// // Printed totals: arXiv:2005.14165 table D.1, 2204.02311, 2203.15556, 2407.21783; Falcon's card prints PF-days.
/// for (params, tokens, printed) in [
///     (175e9, 300e9, 3.14e23),             // GPT-3
///     (540.35e9, 780e9, 2.5272e24),        // PaLM
///     (70e9, 1.4e12, 5.76e23),             // Chinchilla
///     (179.5e9, 3.5e12, 43_500.0 * 8.64e19), // Falcon-180B
///     (405e9, 15.6e12, 3.8e25),            // Llama 3.1 405B
/// ] {
///     assert!((train_flops(params, tokens) / printed - 1.0).abs() < 0.03, "{params}");
/// }
/// ```
#[must_use]
pub fn train_flops(params: f64, tokens: f64) -> f64 {
    6.0 * params * tokens
}
