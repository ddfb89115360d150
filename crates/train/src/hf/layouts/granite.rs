//! Granite (its model card): Llama with four multipliers, as arXiv:2203.03466 has them.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::keys::Keys,
    Layout,
    llama::{self, LLAMA},
    short, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "granite", architecture: "GraniteForCausalLM", read, write, parts: |c| (llama::LAYOUT.parts)(c) };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let c = llama::read_biases(keys, llama::read_family(keys, &LLAMA)?)?;
    let other_than_one = |value: f64| (value != 1.0).then_some(value as f32);
    let attention = keys.real("attention_multiplier", 1.0)? as f32;
    Ok(DecoderConfig {
        embed_scale: other_than_one(keys.real("embedding_multiplier", 1.0)?),
        residual_scale: other_than_one(keys.real("residual_multiplier", 1.0)?),
        logit_scale: other_than_one(1.0 / keys.real("logits_scaling", 1.0)?),
        attn_scale: (attention != usual_scale(&c)).then_some(attention),
        ..c
    })
}

fn usual_scale(c: &DecoderConfig) -> f32 {
    1.0 / (c.head_dim as f32).sqrt()
}

fn write(c: &DecoderConfig) -> Value {
    let or_one = |value: Option<f32>| short(value.unwrap_or(1.0));
    let own = json!({
        "attention_bias": c.qkv_bias && c.out_bias, "mlp_bias": c.mlp_bias, "embedding_multiplier": or_one(c.embed_scale),
        "residual_multiplier": or_one(c.residual_scale), "logits_scaling": 1.0 / f64::from(c.logit_scale.unwrap_or(1.0)),
        "attention_multiplier": short(c.attn_scale.unwrap_or(usual_scale(c))),
    });
    with(llama::write_family(c, &LLAMA), own)
}
