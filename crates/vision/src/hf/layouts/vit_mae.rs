//! ViTMAEForPreTraining.

use models::{fixed_positions, typed, vit_mae::MaeConfig};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{Class, Fixed, Layout, Part, Parts, VIT, VIT_LAYER, holds_all, refuse, short, tower, tower_keys, with, written};

pub(super) const LAYOUT: Layout = Layout {
    kind: "vit_mae",
    holds: holds_all,
    class: Class::Transformers("vit_mae", "ViTMAEForPreTraining"),
    read,
    write,
    parts,
    fixed,
    processor: Some(("ViTImageProcessor", |table| Ok(typed::<MaeConfig>(table)?.tower.size))),
};

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    keys.only("qkv_bias", true)?;
    if !keys.flag("norm_pix_loss", false)? {
        return Err(refuse("config.json", "`norm_pix_loss` is false, and only true is computed".into()));
    }
    let decoder_width = keys.whole("decoder_hidden_size", 512)?;
    if keys.whole("decoder_intermediate_size", 2048)? != 4 * decoder_width {
        return Err(refuse("config.json", "`decoder_intermediate_size` is not four times `decoder_hidden_size`".into()));
    }
    let config = MaeConfig {
        tower: tower(keys, &VIT, false)?,
        decoder_layers: keys.whole("decoder_num_hidden_layers", 8)?,
        decoder_width,
        decoder_heads: keys.whole("decoder_num_attention_heads", 16)?,
        mask_ratio: keys.real("mask_ratio", 0.75)? as f32,
    };
    Ok(written("vit_mae", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: MaeConfig = typed(table)?;
    let more = json!({
        "qkv_bias": true, "mask_ratio": short(c.mask_ratio), "norm_pix_loss": true, "decoder_hidden_size": c.decoder_width,
        "decoder_num_hidden_layers": c.decoder_layers, "decoder_num_attention_heads": c.decoder_heads,
        "decoder_intermediate_size": 4 * c.decoder_width,
    });
    Ok(with(tower_keys(&c.tower)?, more))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: MaeConfig = typed(table)?;
    let (t, small, mut parts) = (&c.tower, c.decoder_width, Parts(Vec::new()));
    parts.window("patch", "vit.embeddings.patch_embeddings.projection", [t.width, 3, t.patch], true);
    parts.add("class", "vit.embeddings.cls_token", &[1, 1, t.width]);
    parts.layers(["", "vit.encoder.layer."], t.layers, [t.width, t.ffn], VIT_LAYER);
    parts.norm("norm", "vit.layernorm", t.width);
    parts.linear("decoder.in", "decoder.decoder_embed", [small, t.width]);
    parts.add("decoder.mask", "decoder.mask_token", &[1, 1, small]);
    parts.layers(["decoder.", "decoder.decoder_layers."], c.decoder_layers, [small, 4 * small], VIT_LAYER);
    parts.norm("decoder.norm", "decoder.decoder_norm", small);
    parts.linear("decoder.out", "decoder.decoder_pred", [3 * t.patch * t.patch, small]);
    Ok(parts.0)
}

/// Positions, with zeros for the class token.
fn fixed(table: &toml::Table) -> Result<Vec<Fixed>, TrainError> {
    let c: MaeConfig = typed(table)?;
    let side = c.tower.size / c.tower.patch;
    let one = |name: &str, width: usize| {
        let mut values = vec![0.0; width];
        values.extend(fixed_positions(side, width));
        (name.to_owned(), vec![1, side * side + 1, width], values)
    };
    Ok(vec![one("vit.embeddings.position_embeddings", c.tower.width), one("decoder.decoder_pos_embed", c.decoder_width)])
}
