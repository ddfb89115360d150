//! Mistral (arXiv:2310.06825): Llama with a window in every layer.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::keys::Keys,
    Layout,
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "mistral", architecture: "MistralForCausalLM", read, write, parts: |c| (llama::LAYOUT.parts)(c) };
const MISTRAL: Family = Family { kv_heads: Some(8), ffn: 14_336, context: 4096 * 32, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    let window = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(4096) };
    Ok(DecoderConfig { window, ..llama::read_family(keys, &MISTRAL)? })
}

fn write(c: &DecoderConfig) -> Value {
    with(llama::write_family(c, &MISTRAL), json!({"sliding_window": c.window}))
}
