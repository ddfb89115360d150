//! OLMo 2 (arXiv:2501.00656): norms after each part, and norms of queries and keys over all heads together.

use models::decoder::{DecoderConfig, NormPlace};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part},
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "olmo2", architecture: "Olmo2ForCausalLM", read, write, parts };
const OLMO2: Family = Family { vocab: 50_304, eps: 1e-5, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.only("mlp_bias", false)?;
    let c = llama::read_family(keys, &OLMO2)?;
    llama::read_biases(keys, DecoderConfig { norm_place: NormPlace::After, qk_norm: true, qk_norm_joint: true, ..c })
}

fn write(c: &DecoderConfig) -> Value {
    with(llama::write_family(c, &OLMO2), json!({"attention_bias": c.qkv_bias && c.out_bias}))
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        llama::mlp(parts, c, i);
        for (theirs, ours) in [("post_attention_layernorm", "attn.norm"), ("post_feedforward_layernorm", "mlp.norm")] {
            parts.norm(&format!("model.layers.{i}.{theirs}"), &format!("layers.{i}.{ours}"), c);
        }
    })
}
