//! Gemma 3, the part that reads text (arXiv:2503.19786): five layers of six have a window and turn from a base of their own; norms of heads.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, rope},
    Layout, gemma2, layer_types,
    llama::{self, Family, LLAMA},
    short, windows, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "gemma3_text", architecture: "Gemma3ForCausalLM", read, write, parts: |c| (gemma2::LAYOUT.parts)(c) };
const GEMMA3: Family = Family {
    vocab: 262_208,
    model: 2304,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    ffn: 9216,
    context: 131_072,
    activation: "gelu_pytorch_tanh",
    activation_key: "hidden_activation",
    tied: true,
    rope: rope::Defaults { theta: 1e6, is_nested: true, ..rope::USUAL },
    ..LLAMA
};
const LOCAL_THETA: f64 = 1e4;

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.harmless(&["hidden_act", "_sliding_window_pattern", "cache_implementation"]);
    // The class has the key and does not read it.
    keys.only("attn_logit_softcapping", Value::Null)?;
    let nested = keys.table("rope_parameters")?;
    let mut c = gemma2::read_capped(keys, &GEMMA3, [None, None])?;
    let every = keys.whole("sliding_window_pattern", 6)?.max(1);
    let types = layer_types(keys, c.layers, |i| (i + 1) % every != 0)?;
    windows(&mut c, gemma2::window(keys)?, &types);
    let mut local = keys.real("rope_local_base_freq", LOCAL_THETA)?;
    if let Some(nested) = nested {
        if let Some(full) = nested.table("full_attention")? {
            // What `rope_scaling` says goes over it.
            if c.rope_scaling.is_none() {
                c.rope_scaling = rope::stretched(&full, c.context)?;
            }
            c.theta = full.real("rope_theta", f64::from(c.theta))? as f32;
            full.only("partial_rotary_factor", 1.0)?;
            full.finish()?;
        }
        if let Some(sliding) = nested.table("sliding_attention")? {
            local = sliding.real("rope_theta", local)?;
            sliding.only("rope_type", "default")?;
            sliding.only("type", "default")?;
            sliding.only("partial_rotary_factor", 1.0)?;
            sliding.finish()?;
        }
        nested.finish()?;
    }
    let is_own = local as f32 != c.theta || c.rope_scaling.is_some();
    c.window_theta = (c.window.is_some() && is_own).then_some(local as f32);
    c.qk_norm = true;
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    let json = with(llama::write_family(c, &GEMMA3), gemma2::write_capped(c));
    with(json, json!({"rope_local_base_freq": short(c.window_theta.unwrap_or(c.theta))}))
}
