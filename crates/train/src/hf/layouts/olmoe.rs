//! OLMoE (arXiv:2409.02060): many small experts, norms of queries and keys over all heads together.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part},
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "olmoe", architecture: "OlmoeForCausalLM", read, write, parts };
const OLMOE: Family = Family { vocab: 50_304, model: 2048, layers: 16, heads: 16, ffn: 2048, context: 4096, eps: 1e-5, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.only("mlp_bias", false)?;
    keys.only("clip_qkv", Value::Null)?;
    let c = llama::read_biases(keys, DecoderConfig { qk_norm: true, qk_norm_joint: true, ..llama::read_family(keys, &OLMOE)? })?;
    let (ffn, router) = (c.ffn, llama::router_of(keys.flag("norm_topk_prob", false)?));
    llama::read_mixture(keys, c, [64, 8], ffn, router, 0.01)
}

fn write(c: &DecoderConfig) -> Value {
    let json = with(llama::write_family(c, &OLMOE), llama::write_mixture(c, "num_experts"));
    let is_normalised = c.router == Some(llama::router_of(true));
    with(json, json!({"intermediate_size": c.expert_ffn, "norm_topk_prob": is_normalised, "attention_bias": c.qkv_bias && c.out_bias}))
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        llama::experts(parts, c, i, "mlp", ["gate_proj", "up_proj", "down_proj"]);
        llama::norms(parts, c, i);
    })
}
