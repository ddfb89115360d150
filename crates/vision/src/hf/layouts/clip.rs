//! CLIPModel.

use models::{
    clip::{ClipConfig, TextConfig},
    typed,
};
use serde_json::{Value, json};
use train::{
    TrainError,
    hf::{Keys, of_all_layouts},
};

use super::{
    CLIP_LAYER, Class, HARMLESS, Layout, Part, Parts, Usual, act, is_siglip, mlp, no_fixed, refuse, short, tower, tower_keys, with, written,
};

pub(super) const LAYOUT: Layout = Layout {
    kind: "clip",
    holds: |table| !is_siglip(table),
    class: Class::Transformers("clip", "CLIPModel"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: Some(("CLIPImageProcessor", |table| Ok(typed::<ClipConfig>(table)?.image.size))),
};

const USUAL: Usual = Usual { patch: 32, eps: 1e-5, act: "quick_gelu" };
fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    let side = |name: &str| {
        let side = keys.table(name)?.ok_or_else(|| refuse("config.json", format!("`{name}` is missing")))?;
        of_all_layouts(&side)?;
        side.harmless(HARMLESS);
        side.harmless(&["projection_dim"]);
        Ok::<_, TrainError>(side)
    };
    let (text, image) = (side("text_config")?, side("vision_config")?);
    let config = ClipConfig {
        image: tower(&image, &USUAL, true)?,
        text: TextConfig {
            vocab: text.whole("vocab_size", 49_408)?,
            tokens: text.whole("max_position_embeddings", 77)?,
            layers: text.whole("num_hidden_layers", 12)?,
            width: text.whole("hidden_size", 512)?,
            heads: text.whole("num_attention_heads", 8)?,
            ffn: text.whole("intermediate_size", 2048)?,
            mlp: mlp(&text, USUAL.act)?,
            eps: text.real("layer_norm_eps", 1e-5)? as f32,
            both_ways: false,
        },
        embed: keys.whole("projection_dim", 512)?,
        sigmoid: false,
    };
    text.finish()?;
    image.finish()?;
    Ok(written("clip", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: ClipConfig = typed(table)?;
    let t = &c.text;
    let text = json!({
        "model_type": "clip_text_model", "vocab_size": t.vocab, "max_position_embeddings": t.tokens, "num_hidden_layers": t.layers,
        "hidden_size": t.width, "num_attention_heads": t.heads, "intermediate_size": t.ffn, "hidden_act": act(t.mlp)?,
        "layer_norm_eps": short(t.eps), "projection_dim": c.embed,
    });
    let image = with(tower_keys(&c.image)?, json!({"model_type": "clip_vision_model", "projection_dim": c.embed}));
    Ok(json!({"projection_dim": c.embed, "text_config": text, "vision_config": image}))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: ClipConfig = typed(table)?;
    if c.text.both_ways {
        return Err(refuse("model.text.both_ways", "in CLIP's layout a token sees those before it alone".into()));
    }
    if c.sigmoid {
        return Err(refuse("model.sigmoid", "CLIP's layout has no place for the bias of SigLIP's loss".into()));
    }
    let (v, t, mut parts) = (&c.image, &c.text, Parts(Vec::new()));
    parts.window("image.patch", "vision_model.embeddings.patch_embedding", [v.width, 3, v.patch], false);
    parts.add("image.class", "vision_model.embeddings.class_embedding", &[v.width]);
    parts.add("image.positions", "vision_model.embeddings.position_embedding.weight", &[(v.size / v.patch).pow(2) + 1, v.width]);
    parts.norm("image.norm_first", "vision_model.pre_layrnorm", v.width);
    parts.layers(["image.", "vision_model.encoder.layers."], v.layers, [v.width, v.ffn], CLIP_LAYER);
    parts.norm("image.norm", "vision_model.post_layernorm", v.width);
    parts.add("image.head.weight", "visual_projection.weight", &[c.embed, v.width]);
    parts.add("text.embed", "text_model.embeddings.token_embedding.weight", &[t.vocab, t.width]);
    parts.add("text.positions", "text_model.embeddings.position_embedding.weight", &[t.tokens, t.width]);
    parts.layers(["text.", "text_model.encoder.layers."], t.layers, [t.width, t.ffn], CLIP_LAYER);
    parts.norm("text.norm", "text_model.final_layer_norm", t.width);
    parts.add("text.head.weight", "text_projection.weight", &[c.embed, t.width]);
    parts.add("temperature", "logit_scale", &[]);
    Ok(parts.0)
}
