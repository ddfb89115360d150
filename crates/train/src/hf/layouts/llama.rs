//! Llama (arXiv:2302.13971, arXiv:2407.21783), and what the classes that follow it share.

use models::decoder::{DecoderConfig, Norm, Router};
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts, Piece},
        rope,
    },
    Layout, activation, blank, head_dim, name_of, short, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "llama", architecture: "LlamaForCausalLM", read, write, parts };

/// What a class takes where a key is absent, and what it calls some.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub vocab: usize,
    pub model: usize,
    pub layers: usize,
    pub heads: usize,
    /// Absent: as many as heads.
    pub kv_heads: Option<usize>,
    /// Absent: the width over the heads.
    pub head_dim: Option<usize>,
    /// Whether the class reads `head_dim`.
    pub reads_head_dim: bool,
    pub ffn: usize,
    pub context: usize,
    pub eps: f64,
    pub eps_key: &'static str,
    pub activation: &'static str,
    pub activation_key: &'static str,
    pub is_gated: bool,
    pub tied: bool,
    pub init_std: f64,
    pub rope: rope::Defaults,
}

pub(super) const LLAMA: Family = Family {
    vocab: 32_000,
    model: 4096,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    reads_head_dim: true,
    ffn: 11_008,
    context: 2048,
    eps: 1e-6,
    eps_key: "rms_norm_eps",
    activation: "silu",
    activation_key: "hidden_act",
    is_gated: true,
    tied: false,
    init_std: 0.02,
    rope: rope::USUAL,
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let c = read_family(keys, &LLAMA)?;
    read_biases(keys, c)
}

fn write(c: &DecoderConfig) -> Value {
    with(write_family(c, &LLAMA), json!({"attention_bias": c.qkv_bias && c.out_bias, "mlp_bias": c.mlp_bias}))
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    around(c, |parts, i| {
        attention(parts, c, i);
        mlp(parts, c, i);
        norms(parts, c, i);
    })
}

/// What all of the family have: RMSNorm before each part, rotary positions, no biases, no window.
pub(super) fn read_family(keys: &Keys<'_>, family: &Family) -> Result<DecoderConfig, TrainError> {
    let (model, layers) = (keys.whole("hidden_size", family.model)?, keys.whole("num_hidden_layers", family.layers)?);
    let heads = keys.whole("num_attention_heads", family.heads)?;
    let told = if family.reads_head_dim { keys.size("head_dim")? } else { None };
    let own = family.head_dim.filter(|_| !family.reads_head_dim || !keys.is_null("head_dim"));
    let head_dim = match told.or(own) {
        Some(head_dim) => head_dim,
        None => head_dim(model, heads)?,
    };
    let kv_heads =
        if keys.is_null("num_key_value_heads") { heads } else { keys.whole("num_key_value_heads", family.kv_heads.unwrap_or(heads))? };
    let mut c = DecoderConfig {
        vocab: keys.whole("vocab_size", family.vocab)?,
        context: keys.whole("max_position_embeddings", family.context)?,
        head_dim,
        kv_heads,
        ffn: keys.whole("intermediate_size", family.ffn)?,
        norm: Norm::RmsNorm,
        eps: keys.real(family.eps_key, family.eps)? as f32,
        mlp: activation(keys, family.activation_key, family.activation, family.is_gated)?,
        tied: keys.flag("tie_word_embeddings", family.tied)?,
        init_std: keys.real("initializer_range", family.init_std)? as f32,
        ..blank(model, layers, heads)?
    };
    rope::read(keys, &mut c, family.rope)?;
    Ok(c)
}

pub(super) fn write_family(c: &DecoderConfig, family: &Family) -> Value {
    let mut json = json!({
        "vocab_size": c.vocab, "max_position_embeddings": c.context, "hidden_size": c.model, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "intermediate_size": c.ffn,
        (family.activation_key): name_of(c.mlp), (family.eps_key): short(c.eps), "initializer_range": short(c.init_std),
        "tie_word_embeddings": c.tied,
    });
    if let Some(entries) = json.as_object_mut().filter(|_| !family.reads_head_dim) {
        entries.remove("head_dim");
    }
    rope::write(c, &mut json, family.rope);
    json
}

/// `attention_bias` for all four matrices of attention, `mlp_bias` for those of the feed-forward part.
pub(super) fn read_biases(keys: &Keys<'_>, c: DecoderConfig) -> Result<DecoderConfig, TrainError> {
    let in_attention = keys.flag("attention_bias", false)?;
    Ok(DecoderConfig { qkv_bias: in_attention, out_bias: in_attention, mlp_bias: keys.flag("mlp_bias", false)?, ..c })
}

/// Of a class that is not told to have any.
pub(super) fn no_biases(keys: &Keys<'_>) -> Result<(), TrainError> {
    keys.only("attention_bias", false)?;
    keys.only("mlp_bias", false)
}

/// Embedding, last norm and head by the usual names; `layer` adds what one layer has.
pub(super) fn around(c: &DecoderConfig, layer: impl Fn(&mut Parts, usize)) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.matrix("model.embed_tokens.weight", "embed.weight", [c.vocab, c.model]);
    (0..c.layers).for_each(|i| layer(&mut parts, i));
    parts.norm("model.norm", "norm", c);
    if !c.tied {
        parts.matrix("lm_head.weight", "head.weight", [c.vocab, c.model]);
    }
    parts.0
}

pub(super) fn attention(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    let [q, kv] = [c.heads * c.head_dim, c.kv_heads * c.head_dim];
    for (theirs, ours, rows) in [("q_proj", "q", q), ("k_proj", "k", kv), ("v_proj", "v", kv)] {
        let names = (format!("model.layers.{i}.self_attn.{theirs}"), format!("layers.{i}.attn.{ours}"));
        parts.linear(&names.0, &names.1, [rows, c.model], c.bias || c.qkv_bias);
    }
    parts.linear(&format!("model.layers.{i}.self_attn.o_proj"), &format!("layers.{i}.attn.out"), [c.model, q], c.bias || c.out_bias);
    if c.qk_norm {
        let widths = if c.qk_norm_joint { [q, kv] } else { [c.head_dim; 2] };
        for (name, width) in ["q_norm", "k_norm"].into_iter().zip(widths) {
            parts.vector(format!("model.layers.{i}.self_attn.{name}.weight"), &format!("layers.{i}.attn.{name}.weight"), width);
        }
    }
}

pub(super) fn mlp(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    gated(parts, &format!("model.layers.{i}.mlp"), &format!("layers.{i}.mlp"), [c.ffn, c.model], c.mlp_bias);
}

/// Three matrices of a gated part.
pub(super) fn gated(parts: &mut Parts, theirs: &str, ours: &str, [ffn, model]: [usize; 2], has_bias: bool) {
    for (t, o, dims) in [("gate_proj", "gate", [ffn, model]), ("up_proj", "up", [ffn, model]), ("down_proj", "down", [model, ffn])] {
        parts.linear(&format!("{theirs}.{t}"), &format!("{ours}.{o}"), dims, has_bias);
    }
}

pub(super) fn norms(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    for (theirs, ours) in [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")] {
        parts.norm(&format!("model.layers.{i}.{theirs}"), &format!("layers.{i}.{ours}"), c);
    }
}

/// A mixture in layer `i` under `place` by the names of its gate, up and down matrices.
pub(super) fn experts(parts: &mut Parts, c: &DecoderConfig, i: usize, place: &str, names: [&str; 3]) {
    let Some(mixture) = c.mixture(i) else { return mlp(parts, c, i) };
    let (theirs, ours) = (format!("model.layers.{i}.{place}"), format!("layers.{i}.mlp"));
    parts.matrix(format!("{theirs}.gate.weight"), &format!("{ours}.router.weight"), [mixture.experts, c.model]);
    let [wide, back] = [[mixture.ffn, c.model], [c.model, mixture.ffn]];
    for ((name, o), [rows, cols]) in names.into_iter().zip(["gate", "up", "down"]).zip([wide, wide, back]) {
        for expert in 0..mixture.experts {
            let piece = Piece { ours: format!("{ours}.experts.{o}.weight"), rows: expert * rows..(expert + 1) * rows };
            parts.joined(format!("{theirs}.experts.{expert}.{name}.weight"), Some(cols), vec![piece]);
        }
    }
}

/// `c` with a mixture in every layer. Two names for the number of experts are in use.
pub(super) fn read_mixture(
    keys: &Keys<'_>,
    c: DecoderConfig,
    [experts, per_token]: [usize; 2],
    expert_ffn: usize,
    router: Router,
    balance: f64,
) -> Result<DecoderConfig, TrainError> {
    let count = match keys.size("num_local_experts")? {
        Some(count) => {
            keys.harmless(&["num_experts"]);
            count
        }
        None => keys.whole("num_experts", experts)?,
    };
    Ok(DecoderConfig {
        experts: Some(count),
        experts_per_token: Some(keys.whole("num_experts_per_tok", per_token)?),
        expert_ffn: Some(expert_ffn),
        shared_experts: Some(0),
        dense_layers: Some(0),
        router: Some(router),
        router_scale: Some(1.0),
        balance: Some(keys.real("router_aux_loss_coef", balance)? as f32),
        ..c
    })
}

pub(super) fn write_mixture(c: &DecoderConfig, name: &str) -> Value {
    json!({
        (name): c.experts, "num_experts_per_tok": c.experts_per_token,
        "router_aux_loss_coef": c.balance.map(short),
    })
}

/// Whether gates add to one.
pub(super) fn router_of(is_normalised: bool) -> Router {
    if is_normalised { Router::SoftmaxNormalised } else { Router::Softmax }
}
