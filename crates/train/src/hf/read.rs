//! Reading a `config.json`: from the keys of its class to a decoder. Defaults of absent keys are those of that class in transformers 5.

use models::decoder::{DecoderConfig, Mlp, Norm, Position, RopeScaling, Router};
use serde_json::Value;

use super::{
    keys,
    layout::{KINDS, Layout},
    refuse,
};
use crate::TrainError;

/// Which layout it is, and the decoder that it describes.
/// # Errors
/// When it is of another architecture, or a key is unknown, missing or of a value that is not computed here, naming it.
pub(super) fn config(json: &Value) -> Result<(Layout, DecoderConfig), TrainError> {
    let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("");
    if !KINDS.contains(&kind) {
        return Err(refuse("config.json", format!("`model_type` is `{kind}`")));
    }
    keys::check(kind, json)?;
    let keys = Keys(json);
    if kind == "gpt2" { gpt2(&keys) } else { like_llama(kind, &keys) }
}

/// A table whose values are asked for by name.
struct Keys<'a>(&'a Value);

impl Keys<'_> {
    fn whole(&self, key: &str) -> Result<usize, TrainError> {
        let value = self.0.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
        value.ok_or_else(|| refuse("config.json", format!("`{key}` is missing or no whole number")))
    }

    fn real(&self, key: &str, default: f64) -> Result<f64, TrainError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| refuse("config.json", format!("`{key}` is {value}, no number"))),
        }
    }

    /// Whether it is set, to something other than false.
    fn given(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|v| !v.is_null() && v != &Value::Bool(false))
    }

    fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.0.get(key).and_then(Value::as_str).unwrap_or(default)
    }
}

/// A decoder of these sizes; head size and width of the feed-forward part are set by the caller.
fn base(model: usize, layers: usize, heads: usize) -> Result<DecoderConfig, TrainError> {
    let options = models::decoder::DecoderOptions {
        layers: Some(layers),
        model: Some(model),
        heads: Some(heads),
        head_dim: Some(2),
        ffn: Some(1),
        embed_norm: Some(false),
        zero_init: Some(false),
        ..Default::default()
    };
    Ok(options.resolve()?)
}

fn gpt2(keys: &Keys<'_>) -> Result<(Layout, DecoderConfig), TrainError> {
    let activation = keys.text("activation_function", "gelu_new");
    if !["gelu_new", "gelu_pytorch_tanh"].contains(&activation) {
        return Err(refuse("config.json", format!("`activation_function` is `{activation}`, not `gelu_new`")));
    }
    let (model, layers, heads) = (keys.whole("n_embd")?, keys.whole("n_layer")?, keys.whole("n_head")?);
    if heads == 0 || model % heads != 0 {
        return Err(refuse("config.json", format!("`n_head` is {heads}, which does not divide `n_embd` = {model}")));
    }
    let config = DecoderConfig {
        vocab: keys.whole("vocab_size")?,
        context: keys.whole("n_positions")?,
        head_dim: model / heads,
        kv_heads: heads,
        ffn: if keys.given("n_inner") { keys.whole("n_inner")? } else { 4 * model },
        norm: Norm::LayerNorm,
        norm_bias: true,
        eps: keys.real("layer_norm_epsilon", 1e-5)? as f32,
        position: Position::Learned,
        mlp: Mlp::GeluTanh,
        bias: true,
        tied: true,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..base(model, layers, heads)?
    };
    Ok((Layout::Gpt2, config))
}

/// Llama, and the classes that are it but for some keys.
fn like_llama(kind: &str, keys: &Keys<'_>) -> Result<(Layout, DecoderConfig), TrainError> {
    let layout = match kind {
        "mistral" => Layout::Mistral,
        "qwen2" => Layout::Qwen2,
        "qwen3" => Layout::Qwen3,
        "olmo2" => Layout::Olmo2,
        "phi3" => Layout::Phi3,
        "stablelm" => Layout::StableLm,
        "starcoder2" => Layout::StarCoder2,
        "mixtral" => Layout::Mixtral,
        "olmoe" => Layout::Olmoe,
        "qwen3_moe" => Layout::Qwen3Moe,
        _ => Layout::Llama,
    };
    let (usual, mlp) = if layout == Layout::StarCoder2 { ("gelu_pytorch_tanh", Mlp::GeluTanh) } else { ("silu", Mlp::Swiglu) };
    let activation = keys.text("hidden_act", usual);
    if activation != usual {
        return Err(refuse("config.json", format!("`hidden_act` is `{activation}`, not `{usual}`")));
    }
    let (model, layers, heads) = (keys.whole("hidden_size")?, keys.whole("num_hidden_layers")?, keys.whole("num_attention_heads")?);
    let head_dim = if keys.given("head_dim") { keys.whole("head_dim")? } else { model / heads.max(1) };
    // Classes whose default is a number of its own have to say it.
    let has_own_heads = ["mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "stablelm", "starcoder2"].contains(&kind);
    let kv_heads = if has_own_heads || keys.given("num_key_value_heads") { keys.whole("num_key_value_heads")? } else { heads };
    let eps = match layout {
        Layout::StableLm => keys.real("layer_norm_eps", 1e-5)?,
        Layout::StarCoder2 => keys.real("norm_epsilon", 1e-5)?,
        Layout::Mixtral | Layout::Olmoe | Layout::Olmo2 | Layout::Phi3 => keys.real("rms_norm_eps", 1e-5)?,
        _ => keys.real("rms_norm_eps", 1e-6)?,
    };
    let is_layer_norm = matches!(layout, Layout::StableLm | Layout::StarCoder2);
    // Newer folders keep the base of the angles in a table of its own.
    let rope = ["rope_parameters", "rope_scaling"].iter().find_map(|key| keys.0.get(key).filter(|v| !v.is_null()));
    let in_rope = |key: &str| rope.and_then(|rope| rope.get(key)).filter(|v| !v.is_null());
    let theta = match in_rope("rope_theta").and_then(Value::as_f64) {
        Some(theta) => theta,
        None => keys.real("rope_theta", if layout == Layout::Mixtral { 1e6 } else { 1e4 })?,
    };
    let turned = match in_rope("partial_rotary_factor").and_then(Value::as_f64) {
        Some(share) => share,
        None => keys.real("partial_rotary_factor", if layout == Layout::StableLm { 0.25 } else { 1.0 })?,
    };
    let context = keys.whole("max_position_embeddings")?;
    let window = match layout {
        Layout::Mistral if keys.0.get("sliding_window").is_none() => Some(4096),
        Layout::Mistral | Layout::Phi3 | Layout::StarCoder2 if keys.given("sliding_window") => Some(keys.whole("sliding_window")?),
        _ => None,
    };
    let config = DecoderConfig {
        vocab: keys.whole("vocab_size")?,
        context,
        head_dim,
        kv_heads,
        ffn: keys.whole("intermediate_size")?,
        norm: if is_layer_norm { Norm::LayerNorm } else { Norm::RmsNorm },
        norm_bias: is_layer_norm,
        eps: eps as f32,
        theta: theta as f32,
        rope_scaling: rope.map_or(Ok(None), |rope| scaling(rope, context))?,
        rope_dim: (turned != 1.0).then_some((head_dim as f64 * turned) as usize),
        window,
        mlp,
        bias: layout == Layout::StarCoder2,
        qkv_bias: layout == Layout::Qwen2 || layout == Layout::StableLm && keys.given("use_qkv_bias"),
        post_norm: layout == Layout::Olmo2,
        tied: if keys.0.get("tie_word_embeddings").is_none() { layout == Layout::StarCoder2 } else { keys.given("tie_word_embeddings") },
        qk_norm: matches!(layout, Layout::Qwen3 | Layout::Olmoe | Layout::Qwen3Moe | Layout::Olmo2),
        qk_norm_joint: matches!(layout, Layout::Olmoe | Layout::Olmo2),
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..base(model, layers, heads)?
    };
    if !matches!(layout, Layout::Mixtral | Layout::Olmoe | Layout::Qwen3Moe) {
        return Ok((layout, config));
    }
    // Newer folders call the experts of all three by Mixtral's name.
    let count = if keys.given("num_local_experts") { keys.whole("num_local_experts")? } else { keys.whole("num_experts")? };
    let is_normalised = layout == Layout::Mixtral || keys.given("norm_topk_prob");
    let mixed = DecoderConfig {
        experts: Some(count),
        experts_per_token: Some(keys.whole("num_experts_per_tok")?),
        expert_ffn: Some(keys.whole(if layout == Layout::Qwen3Moe { "moe_intermediate_size" } else { "intermediate_size" })?),
        shared_experts: Some(0),
        dense_layers: Some(0),
        router: Some(if is_normalised { Router::SoftmaxNormalised } else { Router::Softmax }),
        router_scale: Some(1.0),
        balance: Some(keys.real("router_aux_loss_coef", 0.001)? as f32),
        ..config
    };
    Ok((layout, mixed))
}

/// How angles are stretched, by the table of rotary positions.
fn scaling(rope: &Value, context: usize) -> Result<Option<RopeScaling>, TrainError> {
    let keys = Keys(rope);
    let need = |key: &str| {
        let value = rope.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| refuse("config.json", format!("`{key}` of the rotary positions is missing or no number")))
    };
    let kind = keys.text("rope_type", keys.text("type", "default"));
    Ok(match kind {
        // Dynamic positions are stretched only beyond the context that the model is read for here.
        "default" | "dynamic" => None,
        "linear" => Some(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: need("original_max_position_embeddings")?,
        }),
        "yarn" => {
            let factor = need("factor")?;
            Some(RopeScaling::Yarn {
                factor,
                original_context: keys.real("original_max_position_embeddings", context as f64)?,
                beta_fast: keys.real("beta_fast", 32.0)?,
                beta_slow: keys.real("beta_slow", 1.0)?,
                attention_factor: keys.real("attention_factor", if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 })?,
            })
        }
        other => {
            return Err(refuse("config.json", format!("`rope_type` is `{other}`, not `default`, `linear`, `llama3`, `yarn` or `dynamic`")));
        }
    })
}
