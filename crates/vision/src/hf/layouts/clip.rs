//! CLIPModel.

use models::{
    clip::{ClipConfig, TextConfig},
    decoder::Mlp,
    typed,
};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{
    CLIP_LAYER, Class, Layout, Part, Parts, Usual, is_siglip, no_fixed, refuse, side, text, text_keys, tower, tower_keys, with, written,
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
const USUAL_TEXT: TextConfig =
    TextConfig { vocab: 49_408, tokens: 77, layers: 12, width: 512, heads: 8, ffn: 2048, mlp: Mlp::QuickGelu, eps: 1e-5, both_ways: false };

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    let (words, image) = (side(keys, "text_config")?, side(keys, "vision_config")?);
    words.harmless(&["projection_dim"]);
    image.harmless(&["projection_dim"]);
    let config = ClipConfig {
        image: tower(&image, &USUAL, true)?,
        text: text(&words, &USUAL_TEXT)?,
        embed: keys.whole("projection_dim", 512)?,
        sigmoid: false,
    };
    words.finish()?;
    image.finish()?;
    Ok(written("clip", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: ClipConfig = typed(table)?;
    let text = with(text_keys(&c.text)?, json!({"model_type": "clip_text_model", "projection_dim": c.embed}));
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
    parts.text(t);
    parts.add("text.head.weight", "text_projection.weight", &[c.embed, t.width]);
    parts.add("temperature", "logit_scale", &[]);
    Ok(parts.0)
}
