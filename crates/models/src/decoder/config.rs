//! A decoder's sizes and choices, complete.

use engine::ops::Rotary;
use serde::{Deserialize, Serialize};

pub use super::choices::{Head, Mlp, Norm, NormPlace, Position, RopeScaling, Router};

/// A mixture of experts in place of the feed-forward part, complete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    pub experts: usize,
    pub per_token: usize,
    /// Width of one expert.
    pub ffn: usize,
    /// Of those that every token goes to, together.
    pub shared_ffn: usize,
    pub router: Router,
    /// Whether each expert's score has a bias in the choice.
    pub has_bias: bool,
    /// Groups of experts, and how many of them a token may go to.
    pub groups: [usize; 2],
    /// What gates are multiplied by.
    pub scale: f32,
    /// Weight of the loss that spreads tokens evenly.
    pub balance: f32,
}

/// How the heads of one layer turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turns {
    Usual,
    /// From this base, not stretched.
    Windowed(f32),
    Not,
}

/// Latent attention, complete; see [`super::latent`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LatentWidths {
    /// Of the short vector that queries are made of; without one they are made of the residual.
    pub q_rank: Option<usize>,
    /// Of the one that keys and values are made of.
    pub kv_rank: usize,
    /// Of a head's query and key the part without a place, and the part that is turned.
    pub plain: usize,
    pub rope: usize,
    /// Of a head's value.
    pub value: usize,
}

/// Every choice made. Axes as in `engine::shape`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Tokens that it knows; in a recipe, unless written, as many as the data's tokenizer has.
    pub vocab: usize,
    /// The longest sequence that it reads; in a recipe, unless written, `batch.context`.
    pub context: usize,
    /// Blocks of attention and feed-forward part.
    pub layers: usize,
    /// Width of the residual stream.
    pub model: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// What normalises the residual stream.
    pub norm: Norm,
    /// Whether a LayerNorm has a bias.
    pub norm_bias: bool,
    /// What norms add to the variance.
    pub eps: f32,
    /// How a token knows its place.
    pub position: Position,
    /// Base of the rotary angles.
    pub theta: f32,
    /// How the angles are stretched for longer contexts; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// The middle of the feed-forward part.
    pub mlp: Mlp,
    /// Attention and feed-forward read the same residual and are added together (GPT-J, Falcon).
    pub parallel_block: bool,
    /// In a parallel block: one norm for both parts (Falcon-7B) instead of one each (Falcon-40B).
    pub shared_norm: bool,
    /// Where norms stand about attention and feed-forward part.
    #[serde(default, skip_serializing_if = "NormPlace::is_default")]
    pub norm_place: NormPlace,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Whether those of queries, keys and values have them, whatever `bias` says (Qwen2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub qkv_bias: bool,
    /// Whether that after attention has one, whatever `bias` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_bias: bool,
    /// Whether those of the feed-forward part have them, whatever `bias` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    /// The output layer is the embedding.
    pub tied: bool,
    /// What it ends in; an objective that needs another head than that of tokens sets it.
    #[serde(default, skip_serializing_if = "Head::is_default")]
    pub head: Head,
    /// RMSNorm over each head's queries and keys (arXiv:2302.05442).
    pub qk_norm: bool,
    /// Such a norm goes over all heads together (OLMo 2, OLMoE).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub qk_norm_joint: bool,
    /// A norm right after the embedding (BLOOM, BloombergGPT).
    pub embed_norm: bool,
    /// What the embedding is multiplied by (Gemma: `sqrt(model)`; Granite); absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embed_scale: Option<f32>,
    /// What each part is multiplied by before it is added to the residual (Granite); absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual_scale: Option<f32>,
    /// What attention's scores are multiplied by; absent: `head_dim^-0.5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_scale: Option<f32>,
    /// Attention's scores become `cap tanh(score / cap)` (Gemma 2); absent: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_softcap: Option<f32>,
    /// What logits are multiplied by (Granite); absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f32>,
    /// Logits become `cap tanh(logit / cap)` (Gemma 2); absent: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f32>,
    /// Keys seen back from each query; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Layers, counted from 0, that see all keys though there is a `window` (Gemma 2 and 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_layers: Option<Vec<usize>>,
    /// Base of the angles in layers with a window, which are not stretched there; absent: `theta` and `rope_scaling` (Gemma 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_theta: Option<f32>,
    /// Layers, counted from 0, whose heads do not turn though `position` is rotary (SmolLM3; arXiv:2501.18795).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nope_layers: Option<Vec<usize>>,
    /// Width of the short vector that a token's keys and values are made of (arXiv:2405.04434); absent: of the residual. The next
    /// three go with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_rank: Option<usize>,
    /// Of one that its queries are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q_rank: Option<usize>,
    /// How much of `head_dim` rotary positions turn; absent: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_dim: Option<usize>,
    /// Width of a head's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_dim: Option<usize>,
    /// Feed-forward parts of a layer, of which each token goes to a few; absent: one for all. The keys from here to `balance` go with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<usize>,
    /// To how many of them a token goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts_per_token: Option<usize>,
    /// Width of each; unless written, as wide as makes a token's work that of `ffn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_ffn: Option<usize>,
    /// How many more every token goes to (arXiv:2401.06066).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_experts: Option<usize>,
    /// So many first layers have one feed-forward part, of width `ffn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_layers: Option<usize>,
    /// What a row's logits over the experts become.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<Router>,
    /// Whether each expert's score has a bias that counts in the choice alone (DeepSeek-V3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_bias: Option<bool>,
    /// Groups that experts fall into, one after the other, of equal size; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_groups: Option<usize>,
    /// How many of these groups the experts of one token come from; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_top_groups: Option<usize>,
    /// What the weights of a token's experts are multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_scale: Option<f32>,
    /// Weight of the loss that spreads tokens evenly over experts (arXiv:2101.03961).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<f32>,
    /// Share of numbers that training drops after the embedding and each part; 0 to below 1.
    pub dropout: f32,
    /// Standard deviation of the starting weights; those that write to the residual are divided by `sqrt(2 layers)`.
    pub init_std: f32,
    /// Weights that write to the residual, and an untied output layer, start at zero (arXiv:2203.03466, appendix D.2).
    pub zero_init: bool,
}

impl DecoderConfig {
    /// The defaults of a mixture that no other key of it says.
    pub(super) fn fill_experts(&mut self) {
        let per_token = *self.experts_per_token.get_or_insert(2);
        self.expert_ffn.get_or_insert((self.ffn / per_token.max(1)).next_multiple_of(32));
        self.shared_experts.get_or_insert(0);
        self.dense_layers.get_or_insert(0);
        self.router.get_or_insert(Router::SoftmaxNormalised);
        self.router_scale.get_or_insert(1.0);
        self.balance.get_or_insert(0.01);
    }

    /// How heads turn, where `position` is rotary.
    pub(crate) fn rotary(&self) -> Rotary {
        let dim = self.rope_dim.unwrap_or(self.head_dim);
        let mut rotary = Rotary::plain(dim, self.theta);
        if let Some(scaling) = self.rope_scaling {
            let mut frequencies = rotary.frequencies.to_vec();
            scaling.apply(dim, f64::from(self.theta), &mut frequencies);
            rotary.frequencies = frequencies.into();
            if let RopeScaling::Yarn { attention_factor, .. } = scaling {
                rotary.factor = attention_factor as f32;
            }
        }
        rotary
    }

    /// How heads of layer `index` turn, where they do otherwise than [`DecoderConfig::rotary`] says: not at all, or without being stretched.
    pub(super) fn turns(&self, index: usize) -> Turns {
        let is_in = |layers: &Option<Vec<usize>>| layers.as_ref().is_some_and(|layers| layers.contains(&index));
        match self.window_theta {
            _ if self.position != Position::Rope || is_in(&self.nope_layers) => Turns::Not,
            Some(theta) if self.window_of(index).is_some() => Turns::Windowed(theta),
            _ => Turns::Usual,
        }
    }

    /// The window of layer `index`, if it has one.
    #[must_use]
    pub fn window_of(&self, index: usize) -> Option<usize> {
        self.window.filter(|_| !self.full_layers.as_ref().is_some_and(|layers| layers.contains(&index)))
    }

    /// What attention's scores are multiplied by.
    pub(super) fn score_scale(&self) -> f32 {
        self.attn_scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }

    /// The widths of latent attention, if it has that.
    pub(super) fn latent(&self) -> Option<LatentWidths> {
        let (kv_rank, rope, value) = (self.kv_rank?, self.rope_dim?, self.value_dim?);
        Some(LatentWidths { q_rank: self.q_rank, kv_rank, plain: self.head_dim - rope, rope, value })
    }

    /// The mixture that stands in layer `index`, if one does.
    #[must_use]
    pub fn mixture(&self, index: usize) -> Option<Mixture> {
        let ffn = self.expert_ffn?;
        (index >= self.dense_layers?).then_some(Mixture {
            experts: self.experts?,
            per_token: self.experts_per_token?,
            ffn,
            shared_ffn: self.shared_experts? * ffn,
            router: self.router?,
            has_bias: self.router_bias == Some(true),
            groups: [self.router_groups.unwrap_or(1), self.router_top_groups.unwrap_or(1)],
            scale: self.router_scale?,
            balance: self.balance?,
        })
    }
}

/// Width of the feed-forward part: four times the model's, or two thirds of that for three matrices instead of two.
pub(super) fn ffn_of(model: usize, mlp: Mlp) -> usize {
    if mlp.activation().1 { (8 * model / 3).next_multiple_of(32) } else { 4 * model }
}

/// Small models along one dial: width 64 a layer, heads of 64, Llama's choices, and what docs/LOG.md shows to help.
pub(super) fn of_depth(depth: usize) -> DecoderConfig {
    let model = 64 * depth;
    DecoderConfig {
        vocab: 4096,
        context: 256,
        layers: depth,
        model,
        heads: depth,
        kv_heads: depth,
        head_dim: 64,
        ffn: ffn_of(model, Mlp::Swiglu),
        norm: Norm::RmsNorm,
        norm_bias: false,
        eps: 1e-5,
        position: Position::Rope,
        theta: 10_000.0,
        rope_scaling: None,
        mlp: Mlp::Swiglu,
        parallel_block: false,
        shared_norm: false,
        norm_place: NormPlace::Before,
        bias: false,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        tied: false,
        head: Head::Tokens,
        qk_norm: false,
        qk_norm_joint: false,
        embed_norm: true,
        embed_scale: None,
        residual_scale: None,
        attn_scale: None,
        attn_softcap: None,
        logit_scale: None,
        logit_softcap: None,
        full_layers: None,
        window_theta: None,
        nope_layers: None,
        window: None,
        kv_rank: None,
        q_rank: None,
        rope_dim: None,
        value_dim: None,
        experts: None,
        experts_per_token: None,
        expert_ffn: None,
        shared_experts: None,
        dense_layers: None,
        router: None,
        router_bias: None,
        router_groups: None,
        router_top_groups: None,
        router_scale: None,
        balance: None,
        dropout: 0.0,
        init_std: 1.0 / (model as f32).sqrt(),
        zero_init: true,
    }
}
