//! StarCoder2 (arXiv:2402.19173): LayerNorm, biases, two matrices in the feed-forward part, a window.

use models::decoder::{DecoderConfig, Norm};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part},
    Layout,
    llama::{self, Family, LLAMA},
    short, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "starcoder2", architecture: "Starcoder2ForCausalLM", read, write, parts };
const STARCODER2: Family = Family {
    vocab: 49_152,
    model: 3072,
    layers: 30,
    heads: 24,
    kv_heads: Some(2),
    ffn: 12_288,
    context: 4096,
    eps: 1e-5,
    eps_key: "norm_epsilon",
    activation: "gelu_pytorch_tanh",
    is_gated: false,
    tied: true,
    init_std: 0.018_042,
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    keys.harmless(&["residual_dropout", "embedding_dropout"]);
    let (window, bias) = (keys.size("sliding_window")?, keys.flag("use_bias", true)?);
    Ok(DecoderConfig { norm: Norm::LayerNorm, norm_bias: true, bias, window, ..llama::read_family(keys, &STARCODER2)? })
}

fn write(c: &DecoderConfig) -> Value {
    with(
        llama::write_family(c, &STARCODER2),
        json!({"use_bias": c.bias, "sliding_window": c.window, "residual_dropout": short(c.dropout), "embedding_dropout": short(c.dropout)}),
    )
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        let place = format!("model.layers.{i}.mlp");
        parts.linear(&format!("{place}.c_fc"), &format!("layers.{i}.mlp.up"), [c.ffn, c.model], c.bias);
        parts.linear(&format!("{place}.c_proj"), &format!("layers.{i}.mlp.down"), [c.model, c.ffn], c.bias);
        llama::norms(parts, c, i);
    })
}
