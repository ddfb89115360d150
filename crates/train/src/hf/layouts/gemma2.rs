//! Gemma 2 (arXiv:2408.00118): windows in every other layer, norms before and after each part, capped scores and logits.

use models::decoder::{DecoderConfig, NormPlace};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part},
    Layout, gemma, layer_types,
    llama::{self, Family, LLAMA},
    short, types_of, windows, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "gemma2", architecture: "Gemma2ForCausalLM", read, write, parts };
const GEMMA2: Family = Family {
    vocab: 256_000,
    model: 2304,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    ffn: 9216,
    context: 8192,
    activation: "gelu_pytorch_tanh",
    activation_key: "hidden_activation",
    tied: true,
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    // An older name that the class does not read.
    keys.harmless(&["hidden_act"]);
    let mut c = read_capped(keys, &GEMMA2, [Some(50.0), Some(30.0)])?;
    let window = window(keys)?;
    let types = layer_types(keys, c.layers, |i| i % 2 == 0)?;
    windows(&mut c, window, &types);
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    with(llama::write_family(c, &GEMMA2), write_capped(c))
}

/// As wide as it is told, or as the class has it.
pub(super) fn window(keys: &Keys<'_>) -> Result<Option<usize>, TrainError> {
    if keys.has("sliding_window") { keys.size("sliding_window") } else { Ok(Some(4096)) }
}

/// With norms about both parts, a scale of scores of its own, and caps on them and on logits, if any.
pub(super) fn read_capped(keys: &Keys<'_>, family: &Family, [scores, logits]: [Option<f64>; 2]) -> Result<DecoderConfig, TrainError> {
    let c = gemma::read_gemma(keys, family)?;
    let cap = |key: &str, default: Option<f64>| {
        let cap = if keys.has(key) { keys.number(key)? } else { default };
        Ok::<_, TrainError>(cap.map(|cap| cap as f32))
    };
    let scalar = keys.whole("query_pre_attn_scalar", 256)?;
    Ok(DecoderConfig {
        norm_place: NormPlace::Both,
        attn_scale: (scalar != c.head_dim).then(|| 1.0 / (scalar as f32).sqrt()),
        attn_softcap: cap("attn_logit_softcapping", scores)?,
        logit_softcap: cap("final_logit_softcapping", logits)?,
        ..c
    })
}

pub(super) fn write_capped(c: &DecoderConfig) -> Value {
    let scalar = c.attn_scale.map_or(c.head_dim as f32, |scale| 1.0 / (scale * scale));
    json!({
        // A width also where no layer has a window: the class makes that mask for every model.
        "sliding_window": c.window.unwrap_or(4096), "layer_types": types_of(c),
        "attention_bias": c.qkv_bias && c.out_bias, "query_pre_attn_scalar": scalar.round() as u64, "pad_token_id": null,
        "attn_logit_softcapping": c.attn_softcap.map(short), "final_logit_softcapping": c.logit_softcap.map(short),
    })
}

pub(super) fn parts(c: &DecoderConfig) -> Vec<Part> {
    gemma::around(c, |parts, i| {
        let norms = [
            ("input_layernorm", "attn.norm"),
            ("post_attention_layernorm", "attn.post_norm"),
            ("pre_feedforward_layernorm", "mlp.norm"),
            ("post_feedforward_layernorm", "mlp.post_norm"),
        ];
        for (theirs, ours) in norms {
            parts.norm(&format!("model.layers.{i}.{theirs}"), &format!("layers.{i}.{ours}"), c);
        }
    })
}
