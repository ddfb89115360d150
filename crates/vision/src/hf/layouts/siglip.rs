//! SiglipModel.

use models::{
    clip::{ClipConfig, TextConfig},
    tower::TowerConfig,
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
    holds: is_siglip,
    class: Class::Transformers("siglip", "SiglipModel"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: Some(("SiglipImageProcessor", |table| Ok(typed::<ClipConfig>(table)?.image.size))),
};

const USUAL: Usual = Usual { patch: 16, eps: 1e-6, act: "gelu_pytorch_tanh" };

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    let side = |name: &str| {
        let side = keys.table(name)?.ok_or_else(|| refuse("config.json", format!("`{name}` is missing")))?;
        of_all_layouts(&side)?;
        side.harmless(HARMLESS);
        Ok::<_, TrainError>(side)
    };
    let (text, image) = (side("text_config")?, side("vision_config")?);
    image.only("vision_use_head", true)?;
    let config = ClipConfig {
        image: TowerConfig { attention_pool: true, ..tower(&image, &USUAL, false)? },
        text: TextConfig {
            vocab: text.whole("vocab_size", 32_000)?,
            tokens: text.whole("max_position_embeddings", 64)?,
            layers: text.whole("num_hidden_layers", 12)?,
            width: text.whole("hidden_size", 768)?,
            heads: text.whole("num_attention_heads", 12)?,
            ffn: text.whole("intermediate_size", 3072)?,
            mlp: mlp(&text, USUAL.act)?,
            eps: text.real("layer_norm_eps", USUAL.eps)? as f32,
            both_ways: true,
        },
        embed: text.size("projection_size")?.map_or_else(|| text.whole("hidden_size", 768), Ok)?,
        sigmoid: true,
    };
    text.finish()?;
    image.finish()?;
    Ok(written("clip", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: ClipConfig = typed(table)?;
    let t = &c.text;
    let text = json!({
        "model_type": "siglip_text_model", "vocab_size": t.vocab, "max_position_embeddings": t.tokens, "num_hidden_layers": t.layers,
        "hidden_size": t.width, "num_attention_heads": t.heads, "intermediate_size": t.ffn, "hidden_act": act(t.mlp)?,
        "layer_norm_eps": short(t.eps), "projection_size": c.embed,
    });
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
    parts.add("text.embed", "text_model.embeddings.token_embedding.weight", &[t.vocab, t.width]);
    parts.add("text.positions", "text_model.embeddings.position_embedding.weight", &[t.tokens, t.width]);
    parts.layers(["text.", "text_model.encoder.layers."], t.layers, [t.width, t.ffn], CLIP_LAYER);
    parts.norm("text.norm", "text_model.final_layer_norm", t.width);
    parts.linear("text.head", "text_model.head", [c.embed, t.width]);
    parts.add("temperature", "logit_scale", &[1]);
    parts.add("bias", "logit_bias", &[1]);
    Ok(parts.0)
}
