//! DeepSeek-V2 (arXiv:2405.04434): latent attention, whose pairs of a turned head lie side by side; experts in groups, some for all tokens.

use models::decoder::{DecoderConfig, RopeScaling, Router};
use serde_json::{Value, json};

use super::{
    super::{
        keys::Keys,
        parts::{Part, Parts, Piece, whole},
        rope,
    },
    Layout,
    llama::{self, Family, LLAMA},
    refuse, short, with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "deepseek_v2", architecture: "DeepseekV2ForCausalLM", read, write, parts };
const DEEPSEEK_V2: Family = Family { vocab: 102_400, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let c = read_latent(keys, &DEEPSEEK_V2)?;
    // Neither normalises its gates, whatever this says.
    keys.harmless(&["norm_topk_prob"]);
    keys.only("scoring_func", "softmax")?;
    let groups = match keys.text("topk_method", "greedy")? {
        "greedy" => {
            keys.harmless(&["n_group", "topk_group"]);
            None
        }
        "group_limited_greedy" => Some([keys.whole("n_group", 1)?, keys.whole("topk_group", 1)?]),
        other => return Err(refuse("config.json", format!("`topk_method` is `{other}`, not `greedy` or `group_limited_greedy`"))),
    };
    let sizes = Mixed { experts: 64, per_token: 0, ffn: 1407, shared: 2, dense: 0, scale: 1.0 };
    Ok(DecoderConfig { router: Some(Router::Softmax), ..read_experts(keys, c, &sizes, groups)? })
}

fn write(c: &DecoderConfig) -> Value {
    let groups = c.router_groups.is_some_and(|groups| groups > 1);
    let own = json!({
        "topk_method": if groups { "group_limited_greedy" } else { "greedy" }, "scoring_func": "softmax", "norm_topk_prob": false,
        "n_group": c.router_groups, "topk_group": c.router_top_groups,
    });
    with(with(write_latent(c, &DEEPSEEK_V2), write_experts(c)), own)
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        latent(parts, c, i);
        experts(parts, c, i);
        llama::norms(parts, c, i);
    })
}

/// Latent attention, with scores scaled as stretched positions want it.
pub(super) fn read_latent(keys: &Keys<'_>, family: &Family) -> Result<DecoderConfig, TrainError> {
    llama::no_biases(keys)?;
    keys.harmless(&["head_dim", "qk_head_dim", "ep_size", "aux_loss_alpha", "seq_aux"]);
    keys.only("moe_layer_freq", 1)?;
    let [plain, turned, value] =
        [keys.whole("qk_nope_head_dim", 128)?, keys.whole("qk_rope_head_dim", 64)?, keys.whole("v_head_dim", 128)?];
    let mscale = match rope::told(keys, family.rope)? {
        Some(rope) if rope.text("rope_type", rope.text("type", "default")?)? != "default" => match rope.real("mscale_all_dim", 0.0)? {
            0.0 => 1.0,
            all => rope::mscale_of(rope.real("factor", 1.0)?, all),
        },
        _ => 1.0,
    };
    let mut c = llama::read_family(keys, &Family { head_dim: Some(turned), reads_head_dim: false, ..*family })?;
    if c.kv_heads != c.heads {
        return Err(refuse("config.json", format!("`num_key_value_heads` is {}, and latent attention has as many as heads", c.kv_heads)));
    }
    c.head_dim = plain + turned;
    c.rope_dim = Some(turned);
    c.kv_rank = Some(keys.whole("kv_lora_rank", 512)?);
    c.q_rank = if keys.has("q_lora_rank") { keys.size("q_lora_rank")? } else { Some(1536) };
    c.value_dim = Some(value);
    c.attn_scale = (mscale != 1.0).then(|| (mscale * mscale / (c.head_dim as f64).sqrt()) as f32);
    Ok(c)
}

pub(super) fn write_latent(c: &DecoderConfig, family: &Family) -> Value {
    let turned = c.rope_dim.unwrap_or(0);
    let whole = DecoderConfig { head_dim: turned, rope_dim: None, ..c.clone() };
    let mut json = with(
        llama::write_family(&whole, family),
        json!({
            "attention_bias": false, "kv_lora_rank": c.kv_rank, "q_lora_rank": c.q_rank, "qk_nope_head_dim": c.head_dim.saturating_sub(turned),
            "qk_rope_head_dim": turned, "v_head_dim": c.value_dim,
        }),
    );
    if let (Some(scale), Some(RopeScaling::Yarn { factor, .. })) = (c.attn_scale, c.rope_scaling) {
        let mscale = (f64::from(scale) * (c.head_dim as f64).sqrt()).sqrt();
        json["rope_scaling"]["mscale_all_dim"] = json!((mscale - 1.0) / (0.1 * factor.ln()));
    }
    json
}

/// What a class takes where keys of experts are absent; a 0 has to be told.
pub(super) struct Mixed {
    pub experts: usize,
    pub per_token: usize,
    pub ffn: usize,
    pub shared: usize,
    pub dense: usize,
    pub scale: f64,
}

pub(super) fn read_experts(
    keys: &Keys<'_>,
    c: DecoderConfig,
    usual: &Mixed,
    groups: Option<[usize; 2]>,
) -> Result<DecoderConfig, TrainError> {
    let experts = keys.whole("n_routed_experts", usual.experts)?;
    let per_token = keys.whole("num_experts_per_tok", usual.per_token)?;
    let dense = keys.whole("first_k_dense_replace", usual.dense)?;
    if dense >= c.layers {
        return Err(refuse("config.json", format!("`first_k_dense_replace` is {dense}, and leaves no layer of {} with experts", c.layers)));
    }
    let groups = groups.filter(|[groups, _]| *groups > 1);
    Ok(DecoderConfig {
        experts: Some(experts),
        experts_per_token: Some(per_token),
        expert_ffn: Some(keys.whole("moe_intermediate_size", usual.ffn)?),
        shared_experts: Some(keys.whole("n_shared_experts", usual.shared)?),
        dense_layers: Some(dense),
        router_groups: groups.map(|[groups, _]| groups),
        router_top_groups: groups.map(|[_, top]| top),
        router_scale: Some(keys.real("routed_scaling_factor", usual.scale)? as f32),
        balance: Some(0.001),
        ..c
    })
}

pub(super) fn write_experts(c: &DecoderConfig) -> Value {
    json!({
        "n_routed_experts": c.experts, "num_experts_per_tok": c.experts_per_token, "moe_intermediate_size": c.expert_ffn,
        "n_shared_experts": c.shared_experts, "first_k_dense_replace": c.dense_layers, "routed_scaling_factor": c.router_scale.map(short),
    })
}

/// The matrices of latent attention.
pub(super) fn latent(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    let (Some(kv_rank), Some(turned), Some(value)) = (c.kv_rank, c.rope_dim, c.value_dim) else { return };
    let (theirs, ours) = (format!("model.layers.{i}.self_attn"), format!("layers.{i}.attn"));
    let plain = c.head_dim.saturating_sub(turned);
    let run = |name: &str, head: usize, rows: usize| Piece { ours: format!("{ours}.{name}.weight"), rows: head * rows..(head + 1) * rows };
    let pairs = |name: &str, head: usize| pairs(&format!("{ours}.{name}.weight"), head * turned, turned);
    let queries: Vec<Piece> = (0..c.heads).flat_map(|head| std::iter::once(run("q", head, plain)).chain(pairs("q_rope", head))).collect();
    match c.q_rank {
        Some(rank) => {
            parts.matrix(format!("{theirs}.q_a_proj.weight"), &format!("{ours}.q_down.weight"), [rank, c.model]);
            parts.vector(format!("{theirs}.q_a_layernorm.weight"), &format!("{ours}.q_norm.weight"), rank);
            parts.joined(format!("{theirs}.q_b_proj.weight"), Some(rank), queries);
        }
        None => drop(parts.joined(format!("{theirs}.q_proj.weight"), Some(c.model), queries)),
    }
    let down = std::iter::once(whole(&format!("{ours}.kv_down.weight"), kv_rank)).chain(pairs("k_rope", 0)).collect();
    parts.joined(format!("{theirs}.kv_a_proj_with_mqa.weight"), Some(c.model), down);
    parts.vector(format!("{theirs}.kv_a_layernorm.weight"), &format!("{ours}.kv_norm.weight"), kv_rank);
    let up = (0..c.heads).flat_map(|head| [run("k", head, plain), run("v", head, value)]).collect();
    parts.joined(format!("{theirs}.kv_b_proj.weight"), Some(kv_rank), up);
    parts.matrix(format!("{theirs}.o_proj.weight"), &format!("{ours}.out.weight"), [c.model, c.heads * value]);
}

/// Rows of a turned head: the two of a pair lie side by side there, and half a head apart here.
fn pairs(ours: &str, first: usize, turned: usize) -> Vec<Piece> {
    let row = |i: usize| first + i / 2 + i % 2 * (turned / 2);
    (0..turned).map(|i| Piece { ours: ours.to_owned(), rows: row(i)..row(i) + 1 }).collect()
}

pub(super) fn experts(parts: &mut Parts, c: &DecoderConfig, i: usize) {
    llama::experts(parts, c, i, "mlp", ["gate_proj", "up_proj", "down_proj"]);
    if let Some(mixture) = c.mixture(i).filter(|mixture| mixture.shared_ffn > 0) {
        let (theirs, ours) = (format!("model.layers.{i}.mlp.shared_experts"), format!("layers.{i}.mlp.shared"));
        llama::gated(parts, &theirs, &ours, [mixture.shared_ffn, c.model], false);
    }
}
