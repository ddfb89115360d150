//! The words that a decoder's configuration chooses from.

use engine::ops::Activation;
use serde::{Deserialize, Serialize};

/// What normalises the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Mean and deviation (arXiv:1607.06450).
    LayerNorm,
    /// The root of the mean square (arXiv:1910.07467).
    RmsNorm,
}

/// How a token knows its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// A table of vectors, `context` of them.
    Learned,
    /// Pairs of numbers turn by an angle (arXiv:2104.09864).
    Rope,
    /// Scores fall with distance (arXiv:2108.12409).
    Alibi,
}

/// Where norms stand about attention and the feed-forward part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// `x + part(norm(x))`.
    #[default]
    Before,
    /// `x + norm(part(x))` (OLMo 2, arXiv:2501.00656).
    After,
    /// `x + norm(part(norm(x)))` (Gemma 2, arXiv:2408.00118).
    Both,
}

impl NormPlace {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The middle of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// By the error function.
    Gelu,
    /// By the hyperbolic tangent, as GPT-2.
    GeluTanh,
    /// By a sigmoid, as CLIP.
    QuickGelu,
    /// The square of what is above zero.
    Relu2,
    /// Two matrices, one gating the other by `x sigmoid(x)` (arXiv:2002.05202).
    Swiglu,
    /// The same by GELU, by the hyperbolic tangent.
    Geglu,
}

impl Mlp {
    /// The activation, and whether a matrix of its own gates by it.
    #[must_use]
    pub fn activation(self) -> (Activation, bool) {
        match self {
            Self::Gelu => (Activation::Gelu, false),
            Self::GeluTanh => (Activation::GeluTanh, false),
            Self::QuickGelu => (Activation::QuickGelu, false),
            Self::Relu2 => (Activation::Relu2, false),
            Self::Swiglu => (Activation::Silu, true),
            Self::Geglu => (Activation::GeluTanh, true),
        }
    }
}

/// What a row's logits over the experts become; see `engine::Tape::gates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Router {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen experts alone.
    SoftmaxNormalised,
    /// A sigmoid of each expert by itself.
    Sigmoid,
    /// The same over the sum of those chosen.
    SigmoidNormalised,
}

/// How rotary positions reach further than a model was first trained for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// All turn slower (arXiv:2306.15595).
    Linear {
        /// How much slower.
        factor: f64,
    },
    /// Slow pairs turn slower, fast ones as before, those between in part (arXiv:2407.21783, section 3.4.1).
    Llama3 {
        /// How much slower the slow ones.
        factor: f64,
        /// Pairs that turn less often than this within the original context are slow.
        low_freq_factor: f64,
        /// Pairs that turn more often are fast.
        high_freq_factor: f64,
        /// Tokens of the context that the model was first trained for.
        original_context: f64,
    },
    /// The same by how often a pair turns within the first context, with sharper attention (arXiv:2309.00071, section 3).
    Yarn {
        /// How much slower the slow ones.
        factor: f64,
        /// Tokens of the context that the model was first trained for.
        original_context: f64,
        /// Pairs that turn more often than this within the original context stay as they are.
        beta_fast: f64,
        /// Pairs that turn less often are slow.
        beta_slow: f64,
        /// What sines and cosines are multiplied by.
        attention_factor: f64,
    },
}

impl RopeScaling {
    pub(super) fn apply(self, dim: usize, theta: f64, frequencies: &mut [f64]) {
        let turn = 2.0 * std::f64::consts::PI;
        match self {
            Self::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context } => {
                for f in frequencies {
                    let turns = original_context * *f / turn;
                    let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f = (1.0 - share) * *f / factor + share * *f;
                }
            }
            Self::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                let place = |turns: f64| dim as f64 * (original_context / (turns * turn)).ln() / (2.0 * theta.ln());
                let low = place(beta_fast).floor().max(0.0);
                let high = place(beta_slow).ceil().min(dim as f64 - 1.0).max(low + 1e-3);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = share * *f / factor + (1.0 - share) * *f;
                }
            }
        }
    }
}

/// What a decoder ends in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The probability of each next token.
    #[default]
    Tokens,
    /// One number at each token: a reward.
    Scalar,
    /// Both: a policy and its value.
    TokensAndScalar,
}

impl Head {
    #[must_use]
    pub fn has_tokens(self) -> bool {
        self != Self::Scalar
    }

    #[must_use]
    pub fn has_scalar(self) -> bool {
        self != Self::Tokens
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
