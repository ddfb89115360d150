//! BLOOM (arXiv:2211.05100): scores with slopes, a norm after the embedding, heads interleaved in one matrix. Its `config.json` knows no longest
//! text: `seq_length`, which its training wrote there, is taken, or 2,048, with which all of it were trained.

use models::decoder::{DecoderConfig, Mlp, Position};
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts},
    },
    Layout, blank, falcon, head_dim, like_gpt, short,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "bloom", architecture: "BloomForCausalLM", read, write, parts };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let model = match keys.size("n_embed")? {
        Some(model) => {
            keys.harmless(&["hidden_size"]);
            model
        }
        None => keys.whole("hidden_size", 64)?,
    };
    let (layers, heads) = (keys.whole("n_layer", 2)?, keys.whole("n_head", 8)?);
    keys.only("apply_residual_connection_post_layernorm", false)?;
    keys.only("n_inner", Value::Null)?;
    // How its training program computed, not what.
    keys.harmless(&[
        "slow_but_exact",
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "unk_token_id",
    ]);
    Ok(like_gpt(DecoderConfig {
        vocab: keys.whole("vocab_size", 250_880)?,
        context: keys.whole("seq_length", 2048)?,
        head_dim: head_dim(model, heads)?,
        kv_heads: heads,
        ffn: 4 * model,
        eps: keys.real("layer_norm_epsilon", 1e-5)? as f32,
        position: Position::Alibi,
        mlp: Mlp::GeluTanh,
        embed_norm: true,
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..blank(model, layers, heads)?
    }))
}

fn write(c: &DecoderConfig) -> Value {
    json!({
        "vocab_size": c.vocab, "seq_length": c.context, "hidden_size": c.model, "n_layer": c.layers, "n_head": c.heads,
        "layer_norm_epsilon": short(c.eps), "initializer_range": short(c.init_std), "tie_word_embeddings": c.tied,
        "hidden_dropout": short(c.dropout),
    })
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.matrix("transformer.word_embeddings.weight", "embed.weight", [c.vocab, c.model]);
    parts.norm("transformer.word_embeddings_layernorm", "embed.norm", c);
    for i in 0..c.layers {
        falcon::layer(&mut parts, c, i);
        for (t, o) in [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")] {
            parts.norm(&format!("transformer.h.{i}.{t}"), &format!("layers.{i}.{o}"), c);
        }
    }
    parts.norm("transformer.ln_f", "norm", c);
    if !c.tied {
        parts.matrix("lm_head.weight", "head.weight", [c.vocab, c.model]);
    }
    parts.0
}
