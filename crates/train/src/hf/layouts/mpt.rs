//! MPT (its model card): scores with slopes, LayerNorm without a bias, no biases at all.

use models::decoder::{DecoderConfig, Mlp, Norm, Position};
use serde_json::{Value, json};

use super::{
    super::{
        keys::{self, Keys},
        parts::{Part, Parts, one_after_the_other},
    },
    Layout, blank, head_dim, short,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "mpt", architecture: "MptForCausalLM", read, write, parts };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let (model, layers, heads) = (keys.whole("d_model", 2048)?, keys.whole("n_layers", 24)?, keys.whole("n_heads", 16)?);
    keys.only("expansion_ratio", 4)?;
    keys.only("no_bias", true)?;
    keys.only("logit_scale", Value::Null)?;
    keys.only("embedding_fraction", 1.0)?;
    keys.only("norm_type", "low_precision_layernorm")?;
    // With slopes there are no learned positions, whatever this says; the others are of how it was made.
    keys.harmless(&["learned_pos_emb", "emb_pdrop", "init_device", "init_config", "verbose"]);
    let scale = match keys.table("attn_config")? {
        None => None,
        Some(attention) => {
            keys::of_all_layouts(&attention)?;
            attention.only("alibi", true)?;
            attention.only("alibi_bias_max", 8)?;
            attention.only("attn_type", "multihead_attention")?;
            attention.only("clip_qkv", Value::Null)?;
            attention.only("prefix_lm", false)?;
            attention.only("qk_ln", false)?;
            attention.only("attn_uses_sequence_id", false)?;
            attention.harmless(&["attn_impl", "model_type"]);
            let scale = attention.number("softmax_scale")?;
            attention.finish()?;
            scale
        }
    };
    Ok(DecoderConfig {
        vocab: keys.whole("vocab_size", 50_368)?,
        context: keys.whole("max_seq_len", 2048)?,
        head_dim: head_dim(model, heads)?,
        kv_heads: heads,
        ffn: 4 * model,
        norm: Norm::LayerNorm,
        eps: keys.real("layer_norm_epsilon", 1e-5)? as f32,
        position: Position::Alibi,
        mlp: Mlp::Gelu,
        attn_scale: scale.map(|scale| scale as f32),
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..blank(model, layers, heads)?
    })
}

fn write(c: &DecoderConfig) -> Value {
    json!({
        "vocab_size": c.vocab, "max_seq_len": c.context, "d_model": c.model, "n_layers": c.layers, "n_heads": c.heads, "expansion_ratio": 4,
        "layer_norm_epsilon": short(c.eps), "initializer_range": short(c.init_std), "tie_word_embeddings": c.tied, "no_bias": true,
        "learned_pos_emb": false, "attn_config": {"alibi": true, "softmax_scale": c.attn_scale.map(short)},
    })
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.matrix("transformer.wte.weight", "embed.weight", [c.vocab, c.model]);
    for i in 0..c.layers {
        let (theirs, ours) = (format!("transformer.blocks.{i}"), format!("layers.{i}"));
        parts.joined_linear(&format!("{theirs}.attn.Wqkv"), c.model, |end| one_after_the_other(c, i, end), false);
        parts.linear(&format!("{theirs}.attn.out_proj"), &format!("{ours}.attn.out"), [c.model; 2], false);
        parts.linear(&format!("{theirs}.ffn.up_proj"), &format!("{ours}.mlp.up"), [c.ffn, c.model], false);
        parts.linear(&format!("{theirs}.ffn.down_proj"), &format!("{ours}.mlp.down"), [c.model, c.ffn], false);
        for (t, o) in [("norm_1", "attn.norm"), ("norm_2", "mlp.norm")] {
            parts.norm(&format!("{theirs}.{t}"), &format!("{ours}.{o}"), c);
        }
    }
    parts.norm("transformer.norm_f", "norm", c);
    if !c.tied {
        parts.matrix("lm_head.weight", "head.weight", [c.vocab, c.model]);
    }
    parts.0
}
