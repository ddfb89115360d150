//! ViTForImageClassification.

use models::{typed, vit::VitConfig};
use serde_json::{Map, Value, json};
use train::{TrainError, hf::Keys};

use super::{Class, Layout, Part, Parts, VIT, VIT_LAYER, holds_all, no_fixed, tower, tower_keys, with, written};

pub(super) const LAYOUT: Layout = Layout {
    kind: "vit",
    holds: holds_all,
    class: Class::Transformers("vit", "ViTForImageClassification"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: Some(("ViTImageProcessor", |table| Ok(typed::<VitConfig>(table)?.tower.size))),
};

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    keys.only("qkv_bias", true)?;
    let classes = keys.any("id2label").and_then(Value::as_object).map_or(2, Map::len);
    Ok(written("vit", &VitConfig { classes, tower: tower(keys, &VIT, false)?, encoders: Vec::new() }))
}

fn write(table: &toml::Table, classes: &[String]) -> Result<Value, TrainError> {
    let c: VitConfig = typed(table)?;
    let label = |i: usize| classes.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}"));
    let names: Map<String, Value> = (0..c.classes).map(|i| (i.to_string(), label(i).into())).collect();
    let numbers: Map<String, Value> = (0..c.classes).map(|i| (label(i), i.into())).collect();
    Ok(with(tower_keys(&c.tower)?, json!({"qkv_bias": true, "id2label": names, "label2id": numbers})))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let VitConfig { classes, tower: t, .. } = typed(table)?;
    let mut parts = Parts(Vec::new());
    parts.window("patch", "vit.embeddings.patch_embeddings.projection", [t.width, 3, t.patch], true);
    parts.add("class", "vit.embeddings.cls_token", &[1, 1, t.width]);
    parts.add("positions", "vit.embeddings.position_embeddings", &[1, (t.size / t.patch).pow(2) + 1, t.width]);
    parts.layers(["", "vit.encoder.layer."], t.layers, [t.width, t.ffn], VIT_LAYER);
    parts.norm("norm", "vit.layernorm", t.width);
    parts.linear("head", "classifier", [classes, t.width]);
    Ok(parts.0)
}
