//! Phi-3 (arXiv:2404.14219): joined matrices, a share of each head that turns, a window.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, one_after_the_other, whole},
        rope,
    },
    Layout,
    llama::{self, Family, LLAMA},
    refuse, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "phi3", architecture: "Phi3ForCausalLM", read, write, parts };
const PHI3: Family = Family {
    vocab: 32_064,
    model: 3072,
    ffn: 8192,
    context: 4096,
    eps: 1e-5,
    rope: rope::Defaults { share: Some(1.0), ..rope::USUAL },
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    // Of stretched positions alone, which are refused.
    keys.harmless(&["original_max_position_embeddings"]);
    let c = DecoderConfig { window: keys.size("sliding_window")?, ..llama::read_family(keys, &PHI3)? };
    match c.rope_scaling {
        None => Ok(c),
        // This class knows no other way than one list of factors for short texts and another for long ones.
        Some(_) => Err(refuse("config.json", "`rope_scaling` stretches positions, which is not computed here in this class".into())),
    }
}

fn write(c: &DecoderConfig) -> Value {
    with(
        llama::write_family(c, &PHI3),
        // Its default is a token that a smaller vocabulary does not have.
        json!({"sliding_window": c.window, "original_max_position_embeddings": c.context, "pad_token_id": null}),
    )
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        let (theirs, ours) = (format!("model.layers.{i}"), format!("layers.{i}"));
        parts.joined_linear(&format!("{theirs}.self_attn.qkv_proj"), c.model, |end| one_after_the_other(c, i, end), false);
        parts.linear(&format!("{theirs}.self_attn.o_proj"), &format!("{ours}.attn.out"), [c.model, c.heads * c.head_dim], false);
        let both = |end: &str| ["gate", "up"].map(|name| whole(&format!("{ours}.mlp.{name}.{end}"), c.ffn)).into();
        parts.joined_linear(&format!("{theirs}.mlp.gate_up_proj"), c.model, both, false);
        parts.linear(&format!("{theirs}.mlp.down_proj"), &format!("{ours}.mlp.down"), [c.model, c.ffn], false);
        llama::norms(parts, c, i);
    })
}
