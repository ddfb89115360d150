//! Qwen3 with experts (arXiv:2505.09388).

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::keys::Keys,
    Layout,
    llama::{self, Family},
    olmoe,
    qwen3::QWEN3,
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "qwen3_moe", architecture: "Qwen3MoeForCausalLM", read, write, parts: |c| (olmoe::LAYOUT.parts)(c) };
const QWEN3_MOE: Family = Family { model: 2048, layers: 24, kv_heads: Some(4), head_dim: None, ffn: 6144, ..QWEN3 };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.only("mlp_bias", false)?;
    keys.only("decoder_sparse_step", 1)?;
    keys.only("mlp_only_layers", json!([]))?;
    keys.only("layer_types", Value::Null)?;
    let window = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(4096) };
    let window = window.filter(|_| keys.flag("use_sliding_window", false).unwrap_or(false));
    keys.harmless(&["max_window_layers"]);
    keys.flag("use_sliding_window", false)?;
    let c = llama::read_biases(keys, DecoderConfig { qk_norm: true, window, ..llama::read_family(keys, &QWEN3_MOE)? })?;
    let router = llama::router_of(keys.flag("norm_topk_prob", false)?);
    llama::read_mixture(keys, c, [128, 8], keys.whole("moe_intermediate_size", 768)?, router, 0.001)
}

fn write(c: &DecoderConfig) -> Value {
    let json = with(llama::write_family(c, &QWEN3_MOE), llama::write_mixture(c, "num_experts"));
    let is_normalised = c.router == Some(llama::router_of(true));
    let own = json!({
        "moe_intermediate_size": c.expert_ffn, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": is_normalised,
        "attention_bias": c.qkv_bias && c.out_bias, "use_sliding_window": c.window.is_some(), "sliding_window": c.window,
    });
    with(json, own)
}
