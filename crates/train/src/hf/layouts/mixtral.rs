//! Mixtral (arXiv:2401.04088): Mistral with experts, whose gates add to one.

use models::decoder::{DecoderConfig, Router};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part, rope},
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "mixtral", architecture: "MixtralForCausalLM", read, write, parts };
const MIXTRAL: Family =
    Family { kv_heads: Some(8), ffn: 14_336, context: 4096 * 32, eps: 1e-5, rope: rope::Defaults { theta: 1e6, ..rope::USUAL }, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    keys.harmless(&["norm_topk_prob"]);
    let c = DecoderConfig { window: keys.size("sliding_window")?, ..llama::read_family(keys, &MIXTRAL)? };
    let ffn = c.ffn;
    llama::read_mixture(keys, c, [8, 2], ffn, Router::SoftmaxNormalised, 0.001)
}

fn write(c: &DecoderConfig) -> Value {
    let json = with(llama::write_family(c, &MIXTRAL), llama::write_mixture(c, "num_local_experts"));
    with(json, json!({"intermediate_size": c.expert_ffn, "sliding_window": c.window}))
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        llama::experts(parts, c, i, "block_sparse_moe", ["w1", "w3", "w2"]);
        llama::norms(parts, c, i);
    })
}
