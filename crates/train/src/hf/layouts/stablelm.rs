//! StableLM (its model card and configuration): LayerNorm, a quarter of each head turns, biases on queries, keys and values if so told.

use models::decoder::{DecoderConfig, Norm};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part, rope},
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "stablelm", architecture: "StableLmForCausalLM", read, write, parts };
const STABLELM: Family = Family {
    vocab: 50_304,
    model: 2560,
    kv_heads: Some(32),
    ffn: 6912,
    context: 4096,
    eps: 1e-5,
    eps_key: "layer_norm_eps",
    reads_head_dim: false,
    rope: rope::Defaults { share: Some(0.25), ..rope::USUAL },
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    keys.only("qk_layernorm", false)?;
    let is_parallel = keys.flag("use_parallel_residual", false)?;
    let c = llama::read_family(keys, &STABLELM)?;
    let qkv_bias = keys.flag("use_qkv_bias", false)?;
    Ok(DecoderConfig { norm: Norm::LayerNorm, norm_bias: true, qkv_bias, parallel_block: is_parallel, shared_norm: is_parallel, ..c })
}

fn write(c: &DecoderConfig) -> Value {
    let own = json!({"use_qkv_bias": c.qkv_bias, "qk_layernorm": false, "use_parallel_residual": c.parallel_block});
    with(llama::write_family(c, &STABLELM), own)
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        llama::mlp(parts, c, i);
        if c.shared_norm {
            parts.norm(&format!("model.layers.{i}.input_layernorm"), &format!("layers.{i}.attn.norm"), c);
        } else {
            llama::norms(parts, c, i);
        }
    })
}
