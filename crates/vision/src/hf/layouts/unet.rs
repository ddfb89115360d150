//! UNet2DConditionModel of diffusers, as Stable Diffusion 1 and 2 have it. What it is told has 77 tokens, of which its config says nothing.

use models::{typed, unet::UnetConfig};
use serde_json::{Value, json};
use train::{TrainError, hf::Keys};

use super::{Class, Layout, Part, Parts, View, holds_all, no_fixed, refuse, written};

pub(super) const LAYOUT: Layout = Layout {
    kind: "unet",
    holds: holds_all,
    class: Class::Diffusers("UNet2DConditionModel"),
    read,
    write,
    parts,
    fixed: no_fixed,
    processor: None,
};

const TEXT_TOKENS: usize = 77;

fn read(keys: &Keys<'_>) -> Result<toml::Table, TrainError> {
    for (key, wanted) in [
        ("center_input_sample", json!(false)),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("only_cross_attention", json!(false)),
        ("downsample_padding", json!(1)),
        ("mid_block_scale_factor", json!(1)),
        ("act_fn", json!("silu")),
        ("norm_eps", json!(1e-5)),
        ("dual_cross_attention", json!(false)),
        ("upcast_attention", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1)),
        ("time_embedding_type", json!("positional")),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
    ] {
        keys.only(key, wanted)?;
    }
    // The first is how one matrix is written, the second of no effect without what it belongs to.
    keys.harmless(&["use_linear_projection", "addition_embed_type_num_heads"]);
    let wrong = |key: &str, problem: &str| refuse("config.json", format!("`{key}` {problem}"));
    let widths = keys.sizes("block_out_channels")?.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
    let width = *widths.first().filter(|width| **width > 0).ok_or_else(|| wrong("block_out_channels", "is empty, or begins with 0"))?;
    if widths.iter().any(|all| all % width != 0) {
        return Err(wrong("block_out_channels", "are no multiples of the first"));
    }
    let usual = |last: &'static str, others: &'static str| (0..widths.len()).map(move |i| if i + 1 == 4 { last } else { others }).collect();
    let down = keys.texts("down_block_types")?.unwrap_or_else(|| usual("DownBlock2D", "CrossAttnDownBlock2D"));
    let up: Vec<&str> = keys.texts("up_block_types")?.unwrap_or_else(|| {
        let mut up: Vec<&str> = usual("UpBlock2D", "CrossAttnUpBlock2D");
        up.reverse();
        up
    });
    let attended = |types: &[&str], [with, without]: [&str; 2], key: &str| -> Result<Vec<bool>, TrainError> {
        let of = |name: &&str| if *name == with { Some(true) } else { (*name == without).then_some(false) };
        let all: Option<Vec<bool>> = types.iter().map(of).collect();
        all.filter(|all| all.len() == widths.len()).ok_or_else(|| wrong(key, "has another block than these, or not one for each level"))
    };
    let attention = attended(&down, ["CrossAttnDownBlock2D", "DownBlock2D"], "down_block_types")?;
    let mut back = attended(&up, ["CrossAttnUpBlock2D", "UpBlock2D"], "up_block_types")?;
    back.reverse();
    if back != attention {
        return Err(wrong("up_block_types", "attend at other levels than `down_block_types`"));
    }
    // What the class calls the size of a head is the number of heads.
    let named =
        if keys.any("num_attention_heads").is_some_and(|value| !value.is_null()) { "num_attention_heads" } else { "attention_head_dim" };
    keys.harmless(&["attention_head_dim"]);
    let heads = match keys.any(named) {
        Some(Value::Array(_)) => keys.sizes(named)?.unwrap_or_default(),
        _ => vec![keys.whole(named, 8)?; widths.len()],
    };
    let sizes: Vec<usize> = widths.iter().zip(&heads).map(|(width, heads)| width / (*heads).max(1)).collect();
    let is_one = |all: &[usize]| all.iter().all(|one| *one == all[0]);
    let (heads, head_dim) = match (is_one(&heads), is_one(&sizes)) {
        _ if heads.len() != widths.len() || heads.contains(&0) => return Err(wrong(named, "has not one number for each level")),
        (true, _) => (Some(heads[0]), None),
        (false, true) => (None, Some(sizes[0])),
        (false, false) => return Err(wrong(named, "gives neither one number of heads nor one size of them")),
    };
    let channels = keys.whole("in_channels", 4)?;
    let config = UnetConfig {
        size: keys.whole("sample_size", 64)?,
        channels,
        out_channels: keys.whole("out_channels", 4)?,
        width,
        factors: widths.iter().map(|all| all / width).collect(),
        res_blocks: keys.whole("layers_per_block", 2)?,
        attention,
        depth: keys.whole("transformer_layers_per_block", 1)?,
        head_dim,
        heads,
        text_width: keys.whole("cross_attention_dim", 1280)?,
        text_tokens: TEXT_TOKENS,
        groups: keys.whole("norm_num_groups", 32)?,
        encoders: Vec::new(),
    };
    Ok(written("unet", &config))
}

fn write(table: &toml::Table, _classes: &[String]) -> Result<Value, TrainError> {
    let c: UnetConfig = typed(table)?;
    let widths: Vec<usize> = c.factors.iter().map(|factor| factor * c.width).collect();
    let heads = |width: &usize| c.heads.unwrap_or(width / c.head_dim.unwrap_or(1));
    let blocks = |with: &str, without: &str| c.attention.iter().map(|is| if *is { with } else { without }.to_owned()).collect::<Vec<_>>();
    let mut up = blocks("CrossAttnUpBlock2D", "UpBlock2D");
    up.reverse();
    Ok(json!({
        "sample_size": c.size, "in_channels": c.channels, "out_channels": c.out_channels, "block_out_channels": widths,
        "layers_per_block": c.res_blocks, "down_block_types": blocks("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": up,
        "transformer_layers_per_block": c.depth, "attention_head_dim": widths.iter().map(heads).collect::<Vec<_>>(),
        "cross_attention_dim": c.text_width, "norm_num_groups": c.groups, "use_linear_projection": true,
    }))
}

fn parts(table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let c: UnetConfig = typed(table)?;
    let mut parts = Unet { parts: Parts(Vec::new()), time: 4 * c.width, c: &c };
    parts.parts.linear("time.in", "time_embedding.linear_1", [parts.time, c.width]);
    parts.parts.linear("time.out", "time_embedding.linear_2", [parts.time; 2]);
    parts.parts.window("in", "conv_in", [c.width, c.channels, 3], true);
    // As the model is built: what is kept on the way down is read again on the way up.
    let (mut kept, mut at, mut block) = (vec![c.width], c.width, 0);
    for (level, factor) in c.factors.iter().enumerate() {
        let (width, theirs) = (factor * c.width, format!("down_blocks.{level}"));
        for i in 0..c.res_blocks {
            parts.mixed(&format!("down.{block}"), &theirs, i, [width, at], c.attention[level]);
            (at, block) = (width, block + 1);
            kept.push(at);
        }
        if level + 1 < c.factors.len() {
            parts.parts.window(&format!("down.{block}.halve"), &format!("{theirs}.downsamplers.0.conv"), [at, at, 3], true);
            block += 1;
            kept.push(at);
        }
    }
    parts.residual("middle.res1", "mid_block.resnets.0", [at, at]);
    parts.spatial("middle.attn", "mid_block.attentions.0", at);
    parts.residual("middle.res2", "mid_block.resnets.1", [at, at]);
    block = 0;
    for (level, factor) in c.factors.iter().enumerate().rev() {
        let (width, theirs) = (factor * c.width, format!("up_blocks.{}", c.factors.len() - 1 - level));
        for i in 0..=c.res_blocks {
            let inner = at + kept.pop().unwrap_or(0);
            parts.mixed(&format!("up.{block}"), &theirs, i, [width, inner], c.attention[level]);
            if level > 0 && i == c.res_blocks {
                parts.parts.window(&format!("up.{block}.double"), &format!("{theirs}.upsamplers.0.conv"), [width, width, 3], true);
            }
            (at, block) = (width, block + 1);
        }
    }
    parts.parts.norm("norm", "conv_norm_out", c.width);
    parts.parts.window("out", "conv_out", [c.out_channels, c.width, 3], true);
    Ok(parts.parts.0)
}

/// Parts of a U-Net's blocks.
struct Unet<'a> {
    parts: Parts,
    /// Width of the time.
    time: usize,
    c: &'a UnetConfig,
}

impl Unet<'_> {
    fn mixed(&mut self, ours: &str, theirs: &str, i: usize, dims: [usize; 2], is_attended: bool) {
        self.residual(&format!("{ours}.res"), &format!("{theirs}.resnets.{i}"), dims);
        if is_attended {
            self.spatial(&format!("{ours}.attn"), &format!("{theirs}.attentions.{i}"), dims[0]);
        }
    }

    fn residual(&mut self, ours: &str, theirs: &str, [out, inner]: [usize; 2]) {
        let parts = &mut self.parts;
        parts.norm(&format!("{ours}.norm1"), &format!("{theirs}.norm1"), inner);
        parts.window(&format!("{ours}.conv1"), &format!("{theirs}.conv1"), [out, inner, 3], true);
        parts.linear(&format!("{ours}.time"), &format!("{theirs}.time_emb_proj"), [out, self.time]);
        parts.norm(&format!("{ours}.norm2"), &format!("{theirs}.norm2"), out);
        parts.window(&format!("{ours}.conv2"), &format!("{theirs}.conv2"), [out, out, 3], true);
        if out != inner {
            parts.window(&format!("{ours}.past"), &format!("{theirs}.conv_shortcut"), [out, inner, 1], true);
        }
    }

    fn spatial(&mut self, ours: &str, theirs: &str, width: usize) {
        let (text, parts) = (self.c.text_width, &mut self.parts);
        parts.norm(&format!("{ours}.norm"), &format!("{theirs}.norm"), width);
        for (part, name) in [("in", "proj_in"), ("out", "proj_out")] {
            parts.view(format!("{ours}.{part}.weight"), format!("{theirs}.{name}.weight"), &[width; 2], View::Pixel);
            parts.add(format!("{ours}.{part}.bias"), format!("{theirs}.{name}.bias"), &[width]);
        }
        for layer in 0..self.c.depth {
            let (ours, theirs) = (format!("{ours}.layers.{layer}"), format!("{theirs}.transformer_blocks.{layer}"));
            for i in 1..=3 {
                parts.norm(&format!("{ours}.norm{i}"), &format!("{theirs}.norm{i}"), width);
            }
            for (side, name, inner) in [("pixels", "attn1", width), ("text", "attn2", text)] {
                for (part, theirs_of, inner) in [("q", "to_q", width), ("k", "to_k", inner), ("v", "to_v", inner)] {
                    let dims = [width, inner];
                    parts.add(format!("{ours}.{side}.{part}.weight"), format!("{theirs}.{name}.{theirs_of}.weight"), &dims);
                }
                parts.linear(&format!("{ours}.{side}.out"), &format!("{theirs}.{name}.to_out.0"), [width; 2]);
            }
            let both = ["up", "gate"].map(|part| format!("{ours}.ffn.{part}"));
            parts.stacked(&both, &format!("{theirs}.ff.net.0.proj"), [4 * width, width]);
            parts.linear(&format!("{ours}.ffn.down"), &format!("{theirs}.ff.net.2"), [width, 4 * width]);
        }
    }
}
