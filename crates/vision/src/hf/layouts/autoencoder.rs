//! AutoencoderKL of diffusers, as Stable Diffusion has it: with or without convolutions of one pixel around the latents, and with or without
//! attention over the coarsest level.

use models::{autoencoder::AutoencoderConfig, typed};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{Class, Layout, Part, Parts, View, holds_all, no_fixed, refuse, short, written};

pub(super) const LAYOUT: Layout = Layout {
    kind: "autoencoder",
    holds: holds_all,
    class: Class::Diffusers("AutoencoderKL"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: None,
};

/// Of which its config says nothing: that of the published ones.
const KL_WEIGHT: f32 = 1e-6;

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    keys.only("in_channels", 3)?;
    keys.only("out_channels", 3)?;
    keys.only("act_fn", "silu")?;
    keys.only("latents_mean", Value::Null)?;
    keys.only("latents_std", Value::Null)?;
    // How numbers are held while it runs.
    keys.harmless(&["force_upcast"]);
    let wrong = |key: &str, problem: &str| refuse("config.json", format!("`{key}` {problem}"));
    let widths = keys.sizes("block_out_channels")?.unwrap_or_else(|| vec![64]);
    let width = *widths.first().filter(|width| **width > 0).ok_or_else(|| wrong("block_out_channels", "is empty, or begins with 0"))?;
    if widths.iter().any(|all| all % width != 0) {
        return Err(wrong("block_out_channels", "are no multiples of the first"));
    }
    for (key, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
        let types = keys.texts(key)?.unwrap_or_else(|| vec![block]);
        if types.len() != widths.len() || types.iter().any(|name| *name != block) {
            return Err(wrong(key, &format!("is not `{block}` for each level")));
        }
    }
    let pixel_convs = keys.flag("use_quant_conv", true)?;
    if keys.flag("use_post_quant_conv", true)? != pixel_convs {
        return Err(wrong("use_post_quant_conv", "differs from `use_quant_conv`"));
    }
    let config = AutoencoderConfig {
        size: keys.whole("sample_size", 32)?,
        channels: keys.whole("latent_channels", 4)?,
        width,
        factors: widths.iter().map(|all| all / width).collect(),
        res_blocks: keys.whole("layers_per_block", 1)?,
        groups: keys.whole("norm_num_groups", 32)?,
        attention: keys.flag("mid_block_add_attention", true)?,
        pixel_convs,
        kl_weight: KL_WEIGHT,
        scale: Some(keys.real("scaling_factor", 0.18215)? as f32),
        shift: keys.real("shift_factor", 0.0)? as f32,
    };
    Ok(written("autoencoder", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: AutoencoderConfig = typed(table)?;
    let levels = c.factors.len();
    let widths: Vec<usize> = c.factors.iter().map(|factor| factor * c.width).collect();
    let shift = if c.shift == 0.0 { Value::Null } else { json!(short(c.shift)) };
    Ok(json!({
        "in_channels": 3, "out_channels": 3, "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels], "block_out_channels": widths, "layers_per_block": c.res_blocks, "act_fn": "silu",
        "latent_channels": c.channels, "norm_num_groups": c.groups, "sample_size": c.size, "scaling_factor": short(c.scale.unwrap_or(1.0)),
        "shift_factor": shift, "force_upcast": true, "use_quant_conv": c.pixel_convs, "use_post_quant_conv": c.pixel_convs,
        "mid_block_add_attention": c.attention,
    }))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: AutoencoderConfig = typed(table)?;
    let widths: Vec<usize> = c.factors.iter().map(|factor| factor * c.width).collect();
    let mut parts = Parts(Vec::new());
    let (finest, coarsest) = (widths[0], widths[widths.len() - 1]);
    parts.window("encoder.in", "encoder.conv_in", [finest, 3, 3], true);
    let mut at = finest;
    for (level, width) in widths.iter().enumerate() {
        let (ours, theirs) = (format!("encoder.down.{level}"), format!("encoder.down_blocks.{level}"));
        residuals(&mut parts, [&ours, &theirs], c.res_blocks, [*width, at]);
        at = *width;
        if level < c.halvings() {
            parts.window(&format!("{ours}.halve"), &format!("{theirs}.downsamplers.0.conv"), [at, at, 3], true);
        }
    }
    middle(&mut parts, "encoder", coarsest, c.attention);
    parts.norm("encoder.norm", "encoder.conv_norm_out", coarsest);
    parts.window("encoder.out", "encoder.conv_out", [2 * c.channels, coarsest, 3], true);
    parts.window("decoder.in", "decoder.conv_in", [coarsest, c.channels, 3], true);
    middle(&mut parts, "decoder", coarsest, c.attention);
    at = coarsest;
    for (level, width) in widths.iter().rev().enumerate() {
        let (ours, theirs) = (format!("decoder.up.{level}"), format!("decoder.up_blocks.{level}"));
        residuals(&mut parts, [&ours, &theirs], c.res_blocks + 1, [*width, at]);
        at = *width;
        if level < c.halvings() {
            parts.window(&format!("{ours}.double"), &format!("{theirs}.upsamplers.0.conv"), [at, at, 3], true);
        }
    }
    parts.norm("decoder.norm", "decoder.conv_norm_out", finest);
    parts.window("decoder.out", "decoder.conv_out", [3, finest, 3], true);
    if c.pixel_convs {
        parts.window("encoder.moments", "quant_conv", [2 * c.channels, 2 * c.channels, 1], true);
        parts.window("decoder.latents", "post_quant_conv", [c.channels, c.channels, 1], true);
    }
    Ok(parts.0)
}

/// Residual blocks of a level, the first of which may widen.
fn residuals(parts: &mut Parts, [ours, theirs]: [&str; 2], count: usize, [width, first]: [usize; 2]) {
    for i in 0..count {
        let inner = if i == 0 { first } else { width };
        residual(parts, &format!("{ours}.res{}", i + 1), &format!("{theirs}.resnets.{i}"), [width, inner]);
    }
}

fn residual(parts: &mut Parts, ours: &str, theirs: &str, [out, inner]: [usize; 2]) {
    for (i, inner) in [(1, inner), (2, out)] {
        parts.norm(&format!("{ours}.norm{i}"), &format!("{theirs}.norm{i}"), inner);
        parts.window(&format!("{ours}.conv{i}"), &format!("{theirs}.conv{i}"), [out, inner, 3], true);
    }
    if out != inner {
        parts.window(&format!("{ours}.past"), &format!("{theirs}.conv_shortcut"), [out, inner, 1], true);
    }
}

fn middle(parts: &mut Parts, half: &str, width: usize, is_attended: bool) {
    for i in 0..2 {
        residual(parts, &format!("{half}.middle.res{}", i + 1), &format!("{half}.mid_block.resnets.{i}"), [width; 2]);
    }
    if is_attended {
        let (ours, theirs) = (format!("{half}.middle.attn"), format!("{half}.mid_block.attentions.0"));
        parts.norm(&format!("{ours}.norm"), &format!("{theirs}.group_norm"), width);
        for (part, name) in [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")] {
            parts.view(format!("{ours}.{part}.weight"), format!("{theirs}.{name}.weight"), &[width; 2], View::Pixel);
            parts.add(format!("{ours}.{part}.bias"), format!("{theirs}.{name}.bias"), &[width]);
        }
    }
}
