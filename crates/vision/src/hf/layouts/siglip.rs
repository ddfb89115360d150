//! SiglipModel.

use models::{
    clip::{ClipConfig, TextConfig},
    decoder::Mlp,
    tower::TowerConfig,
    typed,
};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{
    CLIP_LAYER, Class, Layout, Part, Parts, Usual, is_siglip, no_fixed, refuse, side, text, text_keys, tower, tower_keys, with, written,
};

pub(super) const LAYOUT: Layout = Layout {
    kind: "clip",
    holds: is_siglip,
    class: Class::Transformers("siglip", "SiglipModel"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: Some(("SiglipImageProcessor", |table| Ok(typed::<ClipConfig>(table)?.image.size))),
};

const USUAL: Usual = Usual { patch: 16, eps: 1e-6, act: "gelu_pytorch_tanh" };
const USUAL_TEXT: TextConfig =
    TextConfig { vocab: 32_000, tokens: 64, layers: 12, width: 768, heads: 12, ffn: 3072, mlp: Mlp::GeluTanh, eps: 1e-6, both_ways: true };

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    let (words, image) = (side(keys, "text_config")?, side(keys, "vision_config")?);
    image.only("vision_use_head", true)?;
    let config = ClipConfig {
        image: TowerConfig { attention_pool: true, ..tower(&image, &USUAL, false)? },
        text: text(&words, &USUAL_TEXT)?,
        embed: words.size("projection_size")?.map_or_else(|| words.whole("hidden_size", 768), Ok)?,
        sigmoid: true,
    };
    words.finish()?;
    image.finish()?;
    Ok(written("clip", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: ClipConfig = typed(table)?;
    let text = with(text_keys(&c.text)?, json!({"model_type": "siglip_text_model", "projection_size": c.embed}));
    let image = with(tower_keys(&c.image)?, json!({"model_type": "siglip_vision_model", "vision_use_head": true}));
    Ok(json!({"text_config": text, "vision_config": image}))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: ClipConfig = typed(table)?;
    let wrong = |key, problem: &str| Err(refuse(key, problem.to_owned()));
    if !c.sigmoid {
        return wrong("model.sigmoid", "SigLIP's layout holds the bias of its own loss, which this model has not");
    }
    if !c.text.both_ways {
        return wrong("model.text.both_ways", "in SigLIP's layout a token sees all others");
    }
    if c.image.norm_first {
        return wrong("model.image.norm_first", "SigLIP's layout has no norm before the layers");
    }
    let (v, t, mut parts) = (&c.image, &c.text, Parts(Vec::new()));
    parts.window("image.patch", "vision_model.embeddings.patch_embedding", [v.width, 3, v.patch], true);
    parts.add("image.positions", "vision_model.embeddings.position_embedding.weight", &[(v.size / v.patch).pow(2), v.width]);
    parts.layers(["image.", "vision_model.encoder.layers."], v.layers, [v.width, v.ffn], CLIP_LAYER);
    parts.norm("image.norm", "vision_model.post_layernorm", v.width);
    parts.add("image.pool.probe", "vision_model.head.probe", &[1, 1, v.width]);
    let (weight, bias) = ("vision_model.head.attention.in_proj_weight", "vision_model.head.attention.in_proj_bias");
    let ours = |part: &str| ["q", "k", "v"].map(|name| format!("image.pool.attn.{name}.{part}")).to_vec();
    parts.several(ours("weight"), weight, &[3 * v.width, v.width]);
    parts.several(ours("bias"), bias, &[3 * v.width]);
    parts.linear("image.pool.attn.out", "vision_model.head.attention.out_proj", [v.width; 2]);
    parts.norm("image.pool.norm", "vision_model.head.layernorm", v.width);
    parts.linear("image.pool.mlp.up", "vision_model.head.mlp.fc1", [v.ffn, v.width]);
    parts.linear("image.pool.mlp.down", "vision_model.head.mlp.fc2", [v.width, v.ffn]);
    parts.text(t);
    parts.linear("text.head", "text_model.head", [c.embed, t.width]);
    parts.add("temperature", "logit_scale", &[1]);
    parts.add("bias", "logit_bias", &[1]);
    Ok(parts.0)
}
