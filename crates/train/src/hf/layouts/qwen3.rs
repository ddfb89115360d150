//! Qwen3 (arXiv:2505.09388): Llama with norms of heads.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::keys::Keys,
    Layout,
    llama::{self, Family},
    qwen2::{QWEN, read_windows, write_windows},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "qwen3", architecture: "Qwen3ForCausalLM", read, write, parts: |c| (llama::LAYOUT.parts)(c) };
pub(super) const QWEN3: Family = Family { head_dim: Some(128), ..QWEN };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    keys.only("mlp_bias", false)?;
    let mut c = llama::read_biases(keys, DecoderConfig { qk_norm: true, ..llama::read_family(keys, &QWEN3)? })?;
    read_windows(keys, &mut c)?;
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    with(with(llama::write_family(c, &QWEN3), write_windows(c)), json!({"attention_bias": c.qkv_bias && c.out_bias}))
}
