//! Falcon (arXiv:2311.16867): 7B has one key head and one norm for both parts, 40B groups of heads and a norm for each part, and the RefinedWeb
//! models parts one after the other. Scores with slopes are refused: their code rounds these to bf16.

use models::decoder::DecoderConfig;
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts, by_key_heads},
        rope,
    },
    Layout, activation, blank, head_dim, like_gpt, name_of, refuse, short,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "falcon", architecture: "FalconForCausalLM", read, write, parts };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let (model, layers) = (keys.whole("hidden_size", 4544)?, keys.whole("num_hidden_layers", 32)?);
    let heads = keys.whole("num_attention_heads", 71)?;
    keys.only("alibi", false)?;
    let [is_new, is_single, is_parallel] =
        [keys.flag("new_decoder_architecture", false)?, keys.flag("multi_query", true)?, keys.flag("parallel_attn", true)?];
    let told = keys.whole("num_kv_heads", heads)?;
    let kv_heads = match (is_new, is_single) {
        (true, _) => told,
        (false, true) => 1,
        (false, false) => heads,
    };
    if !is_new && !is_single && told != heads {
        return Err(refuse("config.json", format!("`num_kv_heads` is {told}, and without `new_decoder_architecture` there are {heads}")));
    }
    if is_new && !is_parallel {
        return Err(refuse(
            "config.json",
            "`parallel_attn` is false beside `new_decoder_architecture`, which the class itself cannot run".into(),
        ));
    }
    let norms = keys.whole("num_ln_in_parallel_attn", if is_new { 2 } else { 1 })?;
    if norms > 2 || norms == 0 || !is_new && norms == 2 {
        return Err(refuse("config.json", format!("`num_ln_in_parallel_attn` is {norms}, which the class itself cannot run")));
    }
    let mut c = like_gpt(DecoderConfig {
        vocab: keys.whole("vocab_size", 65_024)?,
        context: keys.whole("max_position_embeddings", 2048)?,
        head_dim: head_dim(model, heads)?,
        kv_heads,
        ffn: keys.whole("ffn_hidden_size", 4 * model)?,
        eps: keys.real("layer_norm_epsilon", 1e-5)? as f32,
        mlp: activation(keys, "activation", "gelu", false)?,
        parallel_block: is_parallel,
        shared_norm: is_parallel && norms == 1,
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..blank(model, layers, heads)?
    });
    c.bias = keys.flag("bias", false)?;
    rope::read(keys, &mut c, rope::USUAL)?;
    Ok(c)
}

/// Whether it takes the class's newer form: groups of heads, or a norm for each of two parallel parts.
fn is_new(c: &DecoderConfig) -> bool {
    c.parallel_block && (!c.shared_norm || c.kv_heads != 1 && c.kv_heads != c.heads)
}

fn write(c: &DecoderConfig) -> Value {
    let is_new = is_new(c);
    let mut json = json!({
        "vocab_size": c.vocab, "max_position_embeddings": c.context, "hidden_size": c.model, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_kv_heads": if is_new { c.kv_heads } else { c.heads }, "ffn_hidden_size": c.ffn,
        "activation": name_of(c.mlp), "layer_norm_epsilon": short(c.eps), "initializer_range": short(c.init_std), "tie_word_embeddings": c.tied,
        "alibi": false, "bias": c.bias, "new_decoder_architecture": is_new, "multi_query": c.kv_heads == 1 && !is_new,
        "parallel_attn": c.parallel_block, "hidden_dropout": short(c.dropout),
    });
    if is_new {
        json["num_ln_in_parallel_attn"] = json!(if c.shared_norm { 1 } else { 2 });
    }
    rope::write(c, &mut json, rope::USUAL);
    json
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.matrix("transformer.word_embeddings.weight", "embed.weight", [c.vocab, c.model]);
    let norms: &[(&str, &str)] = match (c.parallel_block, c.shared_norm) {
        (true, false) => &[("ln_attn", "attn.norm"), ("ln_mlp", "mlp.norm")],
        (true, true) => &[("input_layernorm", "attn.norm")],
        (false, _) => &[("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")],
    };
    for i in 0..c.layers {
        layer(&mut parts, c, i);
        norms.iter().for_each(|(t, o)| parts.norm(&format!("transformer.h.{i}.{t}"), &format!("layers.{i}.{o}"), c));
    }
    parts.norm("transformer.ln_f", "norm", c);
    if !c.tied {
        parts.matrix("lm_head.weight", "head.weight", [c.vocab, c.model]);
    }
    parts.0
}

/// The linear layers of one, as BLOOM calls them too.
pub(super) fn layer(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    let (theirs, ours) = (format!("transformer.h.{i}"), format!("layers.{i}"));
    parts.joined_linear(&format!("{theirs}.self_attention.query_key_value"), c.model, |end| by_key_heads(c, i, end), c.bias);
    parts.linear(&format!("{theirs}.self_attention.dense"), &format!("{ours}.attn.out"), [c.model; 2], c.bias);
    parts.linear(&format!("{theirs}.mlp.dense_h_to_4h"), &format!("{ours}.mlp.up"), [c.ffn, c.model], c.bias);
    parts.linear(&format!("{theirs}.mlp.dense_4h_to_h"), &format!("{ours}.mlp.down"), [c.model, c.ffn], c.bias);
}
