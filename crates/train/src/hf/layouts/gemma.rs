//! Gemma (arXiv:2403.08295), and what its successors share: an embedding times the root of its width, a gated GELU, norms that multiply by one
//! more than they hold.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts},
    },
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "gemma", architecture: "GemmaForCausalLM", read, write, parts };
const GEMMA: Family = Family {
    vocab: 256_000,
    model: 3072,
    layers: 28,
    heads: 16,
    kv_heads: Some(16),
    head_dim: Some(256),
    ffn: 24_576,
    context: 8192,
    activation: "gelu_pytorch_tanh",
    tied: true,
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.only("mlp_bias", false)?;
    // A key that the class no longer reads, and a name that it takes for the usual one.
    keys.harmless(&["hidden_activation"]);
    let family = if keys.text("hidden_act", "")? == "gelu" { Family { activation_key: "hidden_activation", ..GEMMA } } else { GEMMA };
    read_gemma(keys, &family)
}

fn write(c: &DecoderConfig) -> Value {
    with(llama::write_family(c, &GEMMA), json!({"attention_bias": c.qkv_bias && c.out_bias, "pad_token_id": null}))
}

/// What all of them have.
pub(super) fn read_gemma(keys: &Keys<'_>, family: &Family) -> Result<DecoderConfig, TrainError> {
    keys.only("use_bidirectional_attention", false)?;
    let c = llama::read_family(keys, family)?;
    llama::read_biases(keys, DecoderConfig { embed_scale: Some((c.model as f32).sqrt()), ..c })
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    around(c, |parts, i| llama::norms(parts, c, i))
}

/// Llama's names with the norms of `norms`, all of which multiply by one more.
pub(super) fn around(c: &DecoderConfig, norms: impl Fn(&mut Parts, usize)) -> Vec<Part> {
    let mut parts = llama::around(c, |parts, i| {
        llama::attention(parts, c, i);
        llama::mlp(parts, c, i);
        norms(parts, i);
    });
    for part in parts.iter_mut().filter(|part| part.theirs.ends_with("norm.weight")) {
        part.offset = 1.0;
    }
    parts
}
