//! Published decoders by name: each a line of sizes over the choices of its family, with the source that they stand in.

use super::config::{DecoderConfig, Mlp, Norm, Position, Router, of_depth};
use crate::ModelError;

/// Names of published models, each with a source: sizes follow from it.
pub const PRESETS: &[&str] = &[
    "gpt2-124m",
    "gpt2-355m",
    "gpt2-774m",
    "gpt2-1.5b",
    "gpt3-175b",
    "llama-7b",
    "llama-13b",
    "llama-33b",
    "llama-65b",
    "llama3-8b",
    "falcon-40b",
    "bloomberggpt-50b",
    "mixtral-8x7b",
    "mixtral-8x22b",
    "olmoe-1b-7b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "deepseek-moe-16b",
    "deepseek-v2-lite",
    "deepseek-v2",
    "deepseek-v3",
];

pub(super) fn preset(name: &str) -> Result<DecoderConfig, ModelError> {
    Ok(match name {
        // Radford et al. 2019, table 2, with the sizes of the released weights.
        "gpt2-124m" => gpt(12, 768, 12, 1024),
        "gpt2-355m" => gpt(24, 1024, 16, 1024),
        "gpt2-774m" => gpt(36, 1280, 20, 1024),
        "gpt2-1.5b" => gpt(48, 1600, 25, 1024),
        // arXiv:2005.14165, table 2.1.
        "gpt3-175b" => gpt(96, 12_288, 96, 2048),
        // arXiv:2302.13971, table 2.
        "llama-7b" => llama(32, 4096, 32, 11_008),
        "llama-13b" => llama(40, 5120, 40, 13_824),
        "llama-33b" => llama(60, 6656, 52, 17_920),
        "llama-65b" => llama(80, 8192, 64, 22_016),
        // arXiv:2407.21783, table 3.
        "llama3-8b" => {
            DecoderConfig { vocab: 128_256, context: 8192, kv_heads: 8, theta: 500_000.0, eps: 1e-5, ..llama(32, 4096, 32, 14_336) }
        }
        // arXiv:2311.16867 and the model card.
        "falcon-40b" => DecoderConfig {
            vocab: 65_024,
            kv_heads: 8,
            head_dim: 64,
            norm: Norm::LayerNorm,
            norm_bias: true,
            mlp: Mlp::Gelu,
            position: Position::Rope,
            parallel_block: true,
            tied: true,
            eps: 1e-5,
            ..llama(60, 8192, 128, 4 * 8192)
        },
        // arXiv:2303.17564, section 3.1: BLOOM's architecture, ALiBi, a norm after the embedding.
        "bloomberggpt-50b" => DecoderConfig { vocab: 131_072, position: Position::Alibi, embed_norm: true, ..gpt(70, 7680, 40, 2048) },
        // arXiv:2401.04088, table 1; the larger by its config.json.
        "mixtral-8x7b" => mixtral(32, 4096, 32, 14_336),
        "mixtral-8x22b" => DecoderConfig { context: 65_536, ..mixtral(56, 6144, 48, 16_384) },
        // arXiv:2409.02060, table 10: norms of queries and keys go over all heads.
        "olmoe-1b-7b" => DecoderConfig {
            vocab: 50_304,
            context: 4096,
            eps: 1e-5,
            qk_norm: true,
            qk_norm_joint: true,
            ..experts(64, 8, 1024, Router::Softmax, 0.01, llama(16, 2048, 16, 8192))
        },
        // arXiv:2505.09388, table 2, and their config.json.
        "qwen3-30b-a3b" => qwen3_moe(48, 2048, 32, 768),
        "qwen3-235b-a22b" => qwen3_moe(94, 4096, 64, 1536),
        // arXiv:2401.06066, table 2 and its config.json: two experts for all tokens, one layer without.
        "deepseek-moe-16b" => DecoderConfig {
            vocab: 102_400,
            context: 4096,
            shared_experts: Some(2),
            dense_layers: Some(1),
            ..experts(64, 6, 1408, Router::Softmax, 0.001, llama(28, 2048, 16, 10_944))
        },
        // arXiv:2405.04434, section 3.1.2 and appendix B.
        "deepseek-v2-lite" => latent(None, experts(64, 6, 1408, Router::Softmax, 0.003, llama(27, 2048, 16, 10_944)), 2, 1),
        "deepseek-v2" => DecoderConfig {
            router_scale: Some(16.0),
            router_groups: Some(8),
            router_top_groups: Some(3),
            ..latent(Some(1536), experts(160, 6, 1536, Router::Softmax, 0.003, llama(60, 5120, 128, 12_288)), 2, 1)
        },
        // arXiv:2412.19437, section 4.2, without the head that predicts one token more. The bias of the choice stays where it begins: a
        // balancing loss stands for its moves.
        "deepseek-v3" => DecoderConfig {
            vocab: 129_280,
            router_scale: Some(2.5),
            router_bias: Some(true),
            router_groups: Some(8),
            router_top_groups: Some(4),
            ..latent(Some(1536), experts(256, 8, 2048, Router::SigmoidNormalised, 1e-4, llama(61, 7168, 128, 18_432)), 1, 3)
        },
        _ => {
            return Err(ModelError::key("preset", format!("there is no preset `{name}`"), crate::nearest::instead(name, PRESETS)));
        }
    })
}

impl DecoderConfig {
    /// Layers of an encoder: LayerNorm before each part, biases everywhere, and no place told inside.
    /// # Errors
    /// When heads do not divide the width.
    pub(crate) fn encoder(layers: usize, model: usize, heads: usize, ffn: usize, mlp: Mlp, eps: f32) -> Result<Self, ModelError> {
        if heads == 0 || !model.is_multiple_of(heads) {
            return Err(ModelError::key("heads", format!("{heads} heads do not divide {model}"), "choose `heads` that divides `width`"));
        }
        Ok(Self { ffn, mlp, eps, ..gpt(layers, model, heads, 1) })
    }
}

fn gpt(layers: usize, model: usize, heads: usize, context: usize) -> DecoderConfig {
    DecoderConfig {
        vocab: 50_257,
        context,
        layers,
        model,
        heads,
        kv_heads: heads,
        head_dim: model / heads,
        ffn: 4 * model,
        norm: Norm::LayerNorm,
        norm_bias: true,
        eps: 1e-5,
        position: Position::Learned,
        mlp: Mlp::GeluTanh,
        bias: true,
        tied: true,
        embed_norm: false,
        init_std: 0.02,
        zero_init: false,
        ..of_depth(1)
    }
}

fn llama(layers: usize, model: usize, heads: usize, ffn: usize) -> DecoderConfig {
    DecoderConfig {
        vocab: 32_000,
        context: 2048,
        layers,
        model,
        heads,
        kv_heads: heads,
        head_dim: model / heads,
        ffn,
        eps: 1e-6,
        embed_norm: false,
        init_std: 0.02,
        zero_init: false,
        ..of_depth(1)
    }
}

fn mixtral(layers: usize, model: usize, heads: usize, ffn: usize) -> DecoderConfig {
    let base = DecoderConfig { context: 32_768, kv_heads: 8, eps: 1e-5, theta: 1e6, ..llama(layers, model, heads, ffn) };
    experts(8, 2, ffn, Router::SoftmaxNormalised, 0.02, base)
}

fn qwen3_moe(layers: usize, model: usize, heads: usize, expert_ffn: usize) -> DecoderConfig {
    let base = llama(layers, model, heads, 3 * model);
    let base = DecoderConfig { vocab: 151_936, context: 40_960, kv_heads: 4, head_dim: 128, qk_norm: true, theta: 1e6, ..base };
    experts(128, 8, expert_ffn, Router::SoftmaxNormalised, 0.001, base)
}

/// DeepSeek's attention from V2 on, and its experts for all tokens and first layers without.
fn latent(q_rank: Option<usize>, base: DecoderConfig, shared_experts: usize, dense_layers: usize) -> DecoderConfig {
    DecoderConfig {
        vocab: 102_400,
        context: 4096,
        head_dim: 192,
        q_rank,
        kv_rank: Some(512),
        rope_dim: Some(64),
        value_dim: Some(128),
        shared_experts: Some(shared_experts),
        dense_layers: Some(dense_layers),
        ..base
    }
}

/// `base` with `per_token` of `count` experts of width `ffn` in every layer.
fn experts(count: usize, per_token: usize, ffn: usize, router: Router, balance: f32, base: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        experts: Some(count),
        experts_per_token: Some(per_token),
        expert_ffn: Some(ffn),
        router: Some(router),
        balance: Some(balance),
        ..base
    }
}
