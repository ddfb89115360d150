//! SmolLM3 (its model card): Llama whose heads do not turn in every fourth layer.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, rope},
    Layout, layer_types,
    llama::{self, Family, LLAMA},
    refuse, types_of, windows, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout =
    Layout { kind: "smollm3", architecture: "SmolLM3ForCausalLM", read, write, parts: |c| (llama::LAYOUT.parts)(c) };
const SMOLLM3: Family = Family {
    vocab: 128_256,
    model: 2048,
    layers: 36,
    heads: 16,
    kv_heads: Some(4),
    context: 32_768,
    tied: true,
    rope: rope::Defaults { theta: 2e6, ..rope::USUAL },
    ..LLAMA
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let mut c = llama::read_biases(keys, llama::read_family(keys, &SMOLLM3)?)?;
    let every = keys.whole("no_rope_layer_interval", 4)?.max(1);
    let turns = keys.sizes("no_rope_layers")?.unwrap_or_else(|| (1..=c.layers).map(|i| usize::from(i % every != 0)).collect());
    if turns.len() != c.layers {
        return Err(refuse("config.json", format!("`no_rope_layers` has {} entries for {} layers", turns.len(), c.layers)));
    }
    let still: Vec<usize> = (0..c.layers).filter(|i| turns[*i] == 0).collect();
    let window = if keys.flag("use_sliding_window", false)? { keys.size("sliding_window")? } else { None };
    keys.harmless(&["sliding_window", "max_window_layers"]);
    let types = layer_types(keys, c.layers, |i| window.is_some() && turns[i] == 0)?;
    if window.is_none() && types.contains(&true) {
        return Err(refuse("config.json", "`layer_types` has `sliding_attention`, and there is no `sliding_window` in use".into()));
    }
    windows(&mut c, window, &types);
    c.nope_layers = (!still.is_empty()).then_some(still);
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    let still = c.nope_layers.clone().unwrap_or_default();
    let turns: Vec<usize> = (0..c.layers).map(|i| usize::from(!still.contains(&i))).collect();
    let own = json!({
        "attention_bias": c.qkv_bias && c.out_bias, "mlp_bias": c.mlp_bias, "no_rope_layers": turns,
        "use_sliding_window": c.window.is_some(), "sliding_window": c.window, "layer_types": types_of(c),
        // Their defaults are tokens that a smaller vocabulary does not have.
        "pad_token_id": null,
    });
    with(llama::write_family(c, &SMOLLM3), own)
}
