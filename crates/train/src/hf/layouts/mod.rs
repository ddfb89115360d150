//! Layouts of Hugging Face folders, one file each: how a `config.json` of that class is read and written, and what its tensors are called. To
//! add one: a file with its [`Layout`], and its line in [`ALL`].
//!
//! What is absent from a `config.json` has the default of its class in transformers 5.24.

mod bloom;
mod deepseek_v2;
mod deepseek_v3;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod mpt;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod stablelm;
mod starcoder2;

use models::decoder::{DecoderConfig, DecoderOptions, Head, Mlp, Norm};
use serde_json::{Value, json};

use super::{
    keys::{self, Keys},
    parts::Part,
    refuse,
};
use crate::TrainError;

/// Those that are known. Of several that hold a model, it is written in the first.
pub(super) const ALL: &[Layout] = &[
    gpt2::LAYOUT,
    llama::LAYOUT,
    mistral::LAYOUT,
    qwen2::LAYOUT,
    qwen3::LAYOUT,
    olmo2::LAYOUT,
    phi3::LAYOUT,
    stablelm::LAYOUT,
    starcoder2::LAYOUT,
    mixtral::LAYOUT,
    olmoe::LAYOUT,
    qwen3_moe::LAYOUT,
    smollm3::LAYOUT,
    gemma::LAYOUT,
    gemma2::LAYOUT,
    gemma3::LAYOUT,
    granite::LAYOUT,
    gpt_neox::LAYOUT,
    falcon::LAYOUT,
    bloom::LAYOUT,
    mpt::LAYOUT,
    deepseek_v2::LAYOUT,
    deepseek_v3::LAYOUT,
];

/// One class of models.
pub(super) struct Layout {
    /// Its `model_type`.
    pub kind: &'static str,
    pub architecture: &'static str,
    /// The decoder that a configuration describes, refusing values that are not computed here.
    pub read: fn(&Keys<'_>) -> Result<DecoderConfig, TrainError>,
    /// The keys that `read` takes. Of a decoder that this class cannot be, whatever comes nearest: what is read back tells.
    pub write: fn(&DecoderConfig) -> Value,
    pub parts: fn(&DecoderConfig) -> Vec<Part>,
}

impl Layout {
    /// That of a `config.json`, and the decoder that it describes.
    /// # Errors
    /// When it is of another class, or a key is unknown or of a value that is not computed here, naming it.
    pub fn read(json: &Value) -> Result<(&'static Self, DecoderConfig), TrainError> {
        let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("");
        let layout = ALL.iter().find(|layout| layout.kind == kind);
        let layout = layout.ok_or_else(|| refuse("config.json", format!("`model_type` is `{kind}`")))?;
        Ok((layout, layout.read_config(json)?))
    }

    fn read_config(&self, json: &Value) -> Result<DecoderConfig, TrainError> {
        let keys = Keys::new(json)?;
        keys::of_all_layouts(&keys)?;
        let config = (self.read)(&keys)?;
        keys.finish()?;
        config.check()?;
        Ok(config)
    }

    /// The whole `config.json` of such a model with f32 weights.
    pub fn config(&self, c: &DecoderConfig) -> Value {
        let mut json = (self.write)(c);
        json["model_type"] = json!(self.kind);
        json["architectures"] = json!([self.architecture]);
        json
    }

    /// The first layout that holds such a model: what it writes of it is read back as the same.
    /// # Errors
    /// When none does, naming the one that comes nearest and what it cannot hold.
    pub fn of(c: &DecoderConfig) -> Result<&'static Self, TrainError> {
        let mut nearest: Option<(&str, Vec<String>)> = None;
        for layout in ALL {
            let Ok(back) = layout.read_config(&layout.config(c)) else { continue };
            let differences = differences(c, &back);
            if differences.is_empty() {
                return Ok(layout);
            }
            if nearest.as_ref().is_none_or(|(_, fewest)| differences.len() < fewest.len()) {
                nearest = Some((layout.kind, differences));
            }
        }
        let told = nearest.map_or_else(String::new, |(kind, keys)| format!("; the nearest, `{kind}`, is another in {}", keys.join(", ")));
        Err(refuse("model", format!("no Hugging Face layout that is known has such a model{told}")))
    }
}

/// The keys of `[model]` in which two decoders compute differently; what only training knows does not count.
fn differences(a: &DecoderConfig, b: &DecoderConfig) -> Vec<String> {
    let table = |c: &DecoderConfig| {
        // Where every layer has experts, nothing is as wide as a layer without.
        let ffn = if c.dense_layers == Some(0) { 0 } else { c.ffn };
        let bare = DecoderConfig { ffn, dropout: 0.0, init_std: 1.0, zero_init: false, balance: None, head: Head::Tokens, ..c.clone() };
        toml::Table::try_from(bare).unwrap_or_default()
    };
    let (a, b) = (table(a), table(b));
    let close = |a: &toml::Value, b: &toml::Value| match (a.as_float(), b.as_float()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs(),
        _ => a == b,
    };
    let is_same = |key: &str| match (a.get(key), b.get(key)) {
        (Some(a), Some(b)) => close(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|key| !is_same(key)).map(|key| format!("`model.{key}`")).collect()
}

/// A decoder of these sizes; the rest is set by the caller.
fn blank(model: usize, layers: usize, heads: usize) -> Result<DecoderConfig, TrainError> {
    let options = DecoderOptions {
        layers: Some(layers),
        model: Some(model),
        heads: Some(heads),
        head_dim: Some(2),
        ffn: Some(1),
        embed_norm: Some(false),
        zero_init: Some(false),
        ..DecoderOptions::default()
    };
    Ok(options.resolve()?)
}

/// `model / heads`, which has to be whole.
fn head_dim(model: usize, heads: usize) -> Result<usize, TrainError> {
    if heads == 0 || !model.is_multiple_of(heads) {
        return Err(refuse("config.json", format!("{heads} heads do not divide a width of {model}")));
    }
    Ok(model / heads)
}

/// The activation that `key` names, in a feed-forward part that is gated or not.
fn activation(keys: &Keys<'_>, key: &str, default: &'static str, is_gated: bool) -> Result<Mlp, TrainError> {
    let name = keys.text(key, default)?;
    let found = ACTIVATIONS.iter().find(|(mlp, names)| mlp.activation().1 == is_gated && names.contains(&name));
    found
        .map(|(mlp, _)| *mlp)
        .ok_or_else(|| refuse("config.json", format!("`{key}` is `{name}`, which is not computed here in this class")))
}

/// As a `config.json` names it.
fn name_of(mlp: Mlp) -> &'static str {
    ACTIVATIONS.iter().find(|(other, _)| *other == mlp).map_or("", |(_, names)| names[0])
}

const ACTIVATIONS: &[(Mlp, &[&str])] = &[
    (Mlp::Swiglu, &["silu", "swish"]),
    (Mlp::Geglu, &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"]),
    (Mlp::Gelu, &["gelu"]),
    (Mlp::GeluTanh, &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]),
    (Mlp::QuickGelu, &["quick_gelu"]),
    (Mlp::Relu2, &["relu2"]),
];

/// Which layers have a window of `window` keys.
fn windows(c: &mut DecoderConfig, window: Option<usize>, is_windowed: &[bool]) {
    let full: Vec<usize> = (0..c.layers).filter(|i| !is_windowed.get(*i).copied().unwrap_or(false)).collect();
    c.window = window.filter(|_| full.len() < c.layers);
    c.full_layers = (c.window.is_some() && !full.is_empty()).then_some(full);
}

/// `layer_types` as a list of which have a window; absent: as `usual` says of each.
fn layer_types(keys: &Keys<'_>, layers: usize, usual: impl Fn(usize) -> bool) -> Result<Vec<bool>, TrainError> {
    let Some(types) = keys.texts("layer_types")? else { return Ok((0..layers).map(usual).collect()) };
    if types.len() != layers {
        return Err(refuse("config.json", format!("`layer_types` has {} entries for {layers} layers", types.len())));
    }
    let of = |kind: &&str| match *kind {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(refuse("config.json", format!("`layer_types` has `{other}`, not `full_attention` or `sliding_attention`"))),
    };
    types.iter().map(of).collect()
}

/// The list that [`layer_types`] reads.
fn types_of(c: &DecoderConfig) -> Vec<&'static str> {
    (0..c.layers).map(|i| if c.window_of(i).is_some() { "sliding_attention" } else { "full_attention" }).collect()
}

/// With every further key of `more`.
fn with(mut json: Value, more: Value) -> Value {
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    json
}

/// The shortest number that is read as `x` again, never a whole one: a class may want a fraction.
pub(super) fn short(x: f32) -> Value {
    serde_json::from_str(&format!("{x:?}")).unwrap_or(Value::Null)
}

/// LayerNorm with a bias and linear layers with biases, as GPT-2, GPT-NeoX, BLOOM and Falcon have them in part.
fn like_gpt(c: DecoderConfig) -> DecoderConfig {
    DecoderConfig { norm: Norm::LayerNorm, norm_bias: true, bias: true, ..c }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The class's own sizes; one has no default that can be.
    fn usual(layout: &Layout) -> Value {
        let json = json!({"model_type": layout.kind});
        if layout.kind == "deepseek_v2" { with(json, json!({"num_experts_per_tok": 2})) } else { json }
    }

    #[test]
    fn a_key_that_nobody_looks_at_is_named() {
        for layout in ALL {
            for key in ["a_key_that_nobody_knows", "add_cross_attention", "quantization_config", "auto_map", "is_encoder_decoder"] {
                let mut json = usual(layout);
                json[key] = json!(true);
                let told = Layout::read(&json).err().map(|e| e.to_string()).unwrap_or_default();
                assert!(told.contains(key), "{} {key}: {told}", layout.kind);
            }
            let json = with(
                usual(layout),
                json!({"use_cache": true, "add_cross_attention": false, "pruned_heads": {}, "quantization_config": null}),
            );
            assert!(Layout::read(&json).is_ok(), "{}: {:?}", layout.kind, Layout::read(&json).err().map(|e| e.to_string()));
        }
    }

    #[test]
    fn a_value_that_changes_what_is_computed_is_named() {
        let cases = [
            ("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
            ("gpt2", json!({"scale_attn_weights": null}), "scale_attn_weights"),
            ("gpt2", json!({"rope_theta": 1e4}), "rope_theta"),
            ("llama", json!({"sliding_window": 64}), "sliding_window"),
            ("llama", json!({"num_experts": 8}), "num_experts"),
            ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            ("starcoder2", json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "rope_parameters.partial_rotary_factor"),
            ("llama", json!({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}), "rope_scaling.mrope_section"),
            ("llama", json!({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}), "rope_type"),
            ("stablelm", json!({"qk_layernorm": true}), "qk_layernorm"),
            ("qwen3_moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
            ("falcon", json!({"alibi": true}), "alibi"),
            ("bloom", json!({"apply_residual_connection_post_layernorm": true}), "apply_residual_connection_post_layernorm"),
            ("mpt", json!({"attn_config": {"qk_ln": true}}), "attn_config.qk_ln"),
            ("mpt", json!({"expansion_ratio": 2}), "expansion_ratio"),
            ("deepseek_v3", json!({"rope_interleave": false}), "rope_interleave"),
            ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ];
        for (kind, more, named) in cases {
            let layout = ALL.iter().find(|layout| layout.kind == kind).unwrap();
            let told = Layout::read(&with(usual(layout), more)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(told.contains(named), "{kind} {named}: {told}");
        }
    }

    #[test]
    fn a_share_of_a_head_turns_only_in_classes_that_have_one() {
        let config = DecoderConfig { head_dim: 16, ffn: 96, rope_dim: Some(8), ..blank(64, 2, 4).unwrap() };
        assert_eq!(Layout::of(&config).unwrap().kind, "phi3");
    }

    #[test]
    fn what_a_class_usually_is_comes_out_in_that_class() {
        // Phi-3 whose whole heads turn is Llama with joined matrices.
        for layout in ALL.iter().filter(|layout| layout.kind != "phi3") {
            let config = layout.read_config(&usual(layout)).unwrap();
            assert_eq!(Layout::of(&config).unwrap().kind, layout.kind);
        }
    }

    #[test]
    fn a_class_with_windows_has_a_width_that_no_layer_uses() {
        for layout in [&gemma2::LAYOUT, &gemma3::LAYOUT] {
            let full = with(usual(layout), json!({"num_hidden_layers": 2, "layer_types": ["full_attention", "full_attention"]}));
            let config = layout.read_config(&full).unwrap();
            assert!(layout.config(&config)["sliding_window"].is_u64(), "{}", layout.kind);
        }
    }

    #[test]
    fn what_no_layout_holds_is_told_with_the_nearest() {
        let odd = DecoderConfig { head_dim: 16, ffn: 96, logit_softcap: Some(3.0), ..blank(64, 2, 4).unwrap() };
        let told = Layout::of(&odd).err().map(|e| e.to_string()).unwrap();
        assert!(told.contains("logit_softcap"), "{told}");
    }
}
