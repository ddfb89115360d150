//! Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on queries, keys and values, and windows from some layer on if so told.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::keys::Keys,
    Layout, layer_types,
    llama::{self, Family, LLAMA},
    types_of, windows, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "qwen2", architecture: "Qwen2ForCausalLM", read, write, parts: |c| (llama::LAYOUT.parts)(c) };
pub(super) const QWEN: Family = Family { vocab: 151_936, kv_heads: Some(32), ffn: 22_016, context: 32_768, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    let mut c = DecoderConfig { qkv_bias: true, ..llama::read_family(keys, &QWEN)? };
    read_windows(keys, &mut c)?;
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    with(llama::write_family(c, &QWEN), write_windows(c))
}

/// `use_sliding_window` with `max_window_layers` or `layer_types`.
pub(super) fn read_windows(keys: &Keys<'_>, c: &mut DecoderConfig) -> Result<(), TrainError> {
    let is_used = keys.flag("use_sliding_window", false)?;
    let window = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(4096) };
    let window = window.filter(|_| is_used);
    let first = keys.whole("max_window_layers", 28)?;
    let types = layer_types(keys, c.layers, |i| window.is_some() && i >= first)?;
    if window.is_none() && types.contains(&true) {
        return Err(super::refuse(
            "config.json",
            "`layer_types` has `sliding_attention`, and there is no window: `use_sliding_window`".into(),
        ));
    }
    windows(c, window, &types);
    Ok(())
}

pub(super) fn write_windows(c: &DecoderConfig) -> Value {
    json!({"use_sliding_window": c.window.is_some(), "sliding_window": c.window, "layer_types": types_of(c)})
}
