//! GPT-NeoX and Pythia (arXiv:2204.06745): both parts read the same residual, each by its own norm; heads are interleaved in one matrix.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts, by_key_heads},
        rope,
    },
    Layout, activation, blank, head_dim, like_gpt, name_of, short,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "gpt_neox", architecture: "GPTNeoXForCausalLM", read, write, parts };
const ROPE: rope::Defaults = rope::Defaults { share: Some(0.25), theta_key: "rotary_emb_base", share_key: "rotary_pct", ..rope::USUAL };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let (model, layers) = (keys.whole("hidden_size", 6144)?, keys.whole("num_hidden_layers", 44)?);
    let heads = keys.whole("num_attention_heads", 64)?;
    keys.harmless(&["classifier_dropout"]);
    let has_biases = keys.flag("attention_bias", true)?;
    let mut c = like_gpt(DecoderConfig {
        vocab: keys.whole("vocab_size", 50_432)?,
        context: keys.whole("max_position_embeddings", 2048)?,
        head_dim: head_dim(model, heads)?,
        kv_heads: heads,
        ffn: keys.whole("intermediate_size", 24_576)?,
        eps: keys.real("layer_norm_eps", 1e-5)? as f32,
        mlp: activation(keys, "hidden_act", "gelu", false)?,
        parallel_block: keys.flag("use_parallel_residual", true)?,
        tied: keys.flag("tie_word_embeddings", false)?,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..blank(model, layers, heads)?
    });
    (c.bias, c.mlp_bias) = (has_biases, !has_biases);
    rope::read(keys, &mut c, ROPE)?;
    Ok(c)
}

fn write(c: &DecoderConfig) -> Value {
    let mut json = json!({
        "vocab_size": c.vocab, "max_position_embeddings": c.context, "hidden_size": c.model, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "intermediate_size": c.ffn, "hidden_act": name_of(c.mlp), "layer_norm_eps": short(c.eps),
        "initializer_range": short(c.init_std), "tie_word_embeddings": c.tied, "use_parallel_residual": c.parallel_block, "attention_bias": c.bias,
        "hidden_dropout": short(c.dropout),
    });
    rope::write(c, &mut json, ROPE);
    json
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.matrix("gpt_neox.embed_in.weight", "embed.weight", [c.vocab, c.model]);
    for i in 0..c.layers {
        let (theirs, ours) = (format!("gpt_neox.layers.{i}"), format!("layers.{i}"));
        parts.joined_linear(&format!("{theirs}.attention.query_key_value"), c.model, |end| by_key_heads(c, i, end), c.bias);
        parts.linear(&format!("{theirs}.attention.dense"), &format!("{ours}.attn.out"), [c.model; 2], c.bias);
        parts.linear(&format!("{theirs}.mlp.dense_h_to_4h"), &format!("{ours}.mlp.up"), [c.ffn, c.model], true);
        parts.linear(&format!("{theirs}.mlp.dense_4h_to_h"), &format!("{ours}.mlp.down"), [c.model, c.ffn], true);
        for (t, o) in [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")] {
            parts.norm(&format!("{theirs}.{t}"), &format!("{ours}.{o}"), c);
        }
    }
    parts.norm("gpt_neox.final_layer_norm", "norm", c);
    if !c.tied {
        parts.matrix("embed_out.weight", "head.weight", [c.vocab, c.model]);
    }
    parts.0
}
