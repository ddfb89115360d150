//! GPT-2 (Radford et al. 2019): linear layers lie as `[in, out]`.

use models::decoder::{DecoderConfig, Position};
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts, one_after_the_other},
    },
    Layout, activation, blank, head_dim, like_gpt, name_of, short,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "gpt2", architecture: "GPT2LMHeadModel", read, write, parts };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let (model, layers, heads) = (keys.whole("n_embd", 768)?, keys.whole("n_layer", 12)?, keys.whole("n_head", 12)?);
    keys.only("scale_attn_weights", true)?;
    keys.only("scale_attn_by_inverse_layer_idx", false)?;
    // The order of operations in f32, and an older name that nothing reads.
    keys.harmless(&["reorder_and_upcast_attn", "n_ctx"]);
    let c = DecoderConfig {
        vocab: keys.whole("vocab_size", 50_257)?,
        context: keys.whole("n_positions", 1024)?,
        head_dim: head_dim(model, heads)?,
        kv_heads: heads,
        ffn: keys.whole("n_inner", 4 * model)?,
        eps: keys.real("layer_norm_epsilon", 1e-5)? as f32,
        position: Position::Learned,
        mlp: activation(keys, "activation_function", "gelu_new", false)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        init_std: keys.real("initializer_range", 0.02)? as f32,
        ..blank(model, layers, heads)?
    };
    Ok(like_gpt(c))
}

fn write(c: &DecoderConfig) -> Value {
    json!({
        "vocab_size": c.vocab, "n_positions": c.context, "n_embd": c.model, "n_layer": c.layers, "n_head": c.heads, "n_inner": c.ffn,
        "activation_function": name_of(c.mlp), "layer_norm_epsilon": short(c.eps), "initializer_range": short(c.init_std),
        "resid_pdrop": short(c.dropout), "embd_pdrop": short(c.dropout), "attn_pdrop": 0.0, "tie_word_embeddings": c.tied,
    })
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    let (m, mut parts) = (c.model, Parts::default());
    parts.matrix("transformer.wte.weight", "embed.weight", [c.vocab, m]);
    parts.matrix("transformer.wpe.weight", "positions.weight", [c.context, m]);
    for i in 0..c.layers {
        let (theirs, ours) = (format!("transformer.h.{i}"), format!("layers.{i}"));
        parts.joined_linear(&format!("{theirs}.attn.c_attn"), m, |end| one_after_the_other(c, i, end), true);
        let linears = [("attn.c_proj", "attn.out", [m, m]), ("mlp.c_fc", "mlp.up", [c.ffn, m]), ("mlp.c_proj", "mlp.down", [m, c.ffn])];
        for (t, o, dims) in linears {
            parts.linear(&format!("{theirs}.{t}"), &format!("{ours}.{o}"), dims, true);
        }
        for (t, o) in [("ln_1", "attn.norm"), ("ln_2", "mlp.norm")] {
            parts.norm(&format!("{theirs}.{t}"), &format!("{ours}.{o}"), c);
        }
    }
    for part in &mut parts.0[2..] {
        part.is_turned = part.dims.len() == 2;
    }
    parts.norm("transformer.ln_f", "norm", c);
    if !c.tied {
        parts.matrix("lm_head.weight", "head.weight", [c.vocab, m]);
    }
    parts.0
}
