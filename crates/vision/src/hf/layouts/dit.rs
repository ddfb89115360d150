//! DiTTransformer2DModel of diffusers. Each of its layers keeps the embeddings of time and class anew; they are one here, so that folders
//! whose layers differ in them are refused. Its waves of the time are those of `wave_shift = 1`.

use models::{dit::DitConfig, typed};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{Class, Layout, Part, Parts, holds_all, no_fixed, refuse, short, written};

pub(super) const LAYOUT: Layout = Layout {
    kind: "dit",
    holds: holds_all,
    class: Class::Diffusers("DiTTransformer2DModel"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: None,
};

/// Waves of the time, which the class does not let be chosen.
const WAVES: usize = 256;

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    keys.only("attention_bias", true)?;
    keys.only("activation_fn", "gelu-approximate")?;
    keys.only("norm_type", "ada_norm_zero")?;
    keys.only("norm_elementwise_affine", false)?;
    keys.only("upcast_attention", false)?;
    keys.harmless(&["norm_num_groups"]);
    let (heads, channels) = (keys.whole("num_attention_heads", 16)?, keys.whole("in_channels", 4)?);
    let config = DitConfig {
        size: keys.whole("sample_size", 32)?,
        patch: keys.whole("patch_size", 2)?,
        channels,
        out_channels: keys.whole("out_channels", channels)?,
        layers: keys.whole("num_layers", 28)?,
        width: heads * keys.whole("attention_head_dim", 72)?,
        heads,
        classes: keys.whole("num_embeds_ada_norm", 1000)? + 1,
        waves: WAVES,
        wave_shift: 1,
        text_width: 0,
        mlp_eps: keys.real("norm_eps", 1e-5)? as f32,
    };
    Ok(written("dit", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: DitConfig = typed(table)?;
    if (c.waves, c.wave_shift) != (WAVES, 1) {
        let problem =
            format!("the class computes {WAVES} waves with `wave_shift = 1` alone, and these are {} with {}", c.waves, c.wave_shift);
        return Err(refuse("model.wave_shift", problem));
    }
    if c.text_width > 0 {
        return Err(refuse("model.text_width", "the class is told no captions".into()));
    }
    Ok(json!({
        "sample_size": c.size, "patch_size": c.patch, "in_channels": c.channels, "out_channels": c.out_channels, "num_layers": c.layers,
        "num_attention_heads": c.heads, "attention_head_dim": c.width / c.heads, "num_embeds_ada_norm": c.classes - 1,
        "attention_bias": true, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero", "norm_elementwise_affine": false,
        "norm_eps": short(c.mlp_eps),
    }))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: DitConfig = typed(table)?;
    let (width, mut parts) = (c.width, Parts(Vec::new()));
    parts.window("patch", "pos_embed.proj", [width, c.channels, c.patch], true);
    for i in 0..c.layers {
        let (ours, theirs) = (format!("layers.{i}"), format!("transformer_blocks.{i}"));
        let told = format!("{theirs}.norm1.emb");
        parts.linear("time.in", &format!("{told}.timestep_embedder.linear_1"), [width, c.waves]);
        parts.linear("time.out", &format!("{told}.timestep_embedder.linear_2"), [width; 2]);
        parts.add("class", format!("{told}.class_embedder.embedding_table.weight"), &[c.classes, width]);
        parts.linear(&format!("{ours}.told"), &format!("{theirs}.norm1.linear"), [6 * width, width]);
        for (part, name) in [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")] {
            parts.linear(&format!("{ours}.attn.{part}"), &format!("{theirs}.attn1.{name}"), [width; 2]);
        }
        parts.linear(&format!("{ours}.mlp.up"), &format!("{theirs}.ff.net.0.proj"), [4 * width, width]);
        parts.linear(&format!("{ours}.mlp.down"), &format!("{theirs}.ff.net.2"), [width, 4 * width]);
    }
    parts.linear("out.told", "proj_out_1", [2 * width, width]);
    parts.linear("out", "proj_out_2", [c.patch * c.patch * c.out_channels, width]);
    Ok(parts.0)
}
