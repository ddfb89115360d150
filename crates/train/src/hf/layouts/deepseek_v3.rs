//! DeepSeek-V3 and R1 (arXiv:2412.19437): V2 with gates by sigmoids and a bias of each expert in the choice. The layers that predict one token
//! more are left out, as transformers does.

use models::decoder::{DecoderConfig, Router};
use serde_json::{Value, json};

use super::{
    super::{keys::Keys, parts::Part},
    Layout,
    deepseek_v2::{Mixed, experts, latent, read_experts, read_latent, write_experts, write_latent},
    llama::{self, Family, LLAMA},
    with,
};
use crate::TrainError;

pub(super) const LAYOUT: Layout = Layout { kind: "deepseek_v3", architecture: "DeepseekV3ForCausalLM", read, write, parts };
const DEEPSEEK_V3: Family =
    Family { vocab: 129_280, model: 7168, layers: 61, heads: 128, kv_heads: Some(128), ffn: 18_432, context: 4096, ..LLAMA };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, TrainError> {
    let c = read_latent(keys, &DEEPSEEK_V3)?;
    keys.only("scoring_func", "sigmoid")?;
    keys.only("topk_method", "noaux_tc")?;
    keys.only("rope_interleave", true)?;
    keys.harmless(&["num_nextn_predict_layers", "num_mtp_layers"]);
    let groups = [keys.whole("n_group", 8)?, keys.whole("topk_group", 4)?];
    let sizes = Mixed { experts: 256, per_token: 8, ffn: 2048, shared: 1, dense: 3, scale: 2.5 };
    let router = if keys.flag("norm_topk_prob", true)? { Router::SigmoidNormalised } else { Router::Sigmoid };
    Ok(DecoderConfig { router: Some(router), router_bias: Some(true), ..read_experts(keys, c, &sizes, Some(groups))? })
}

fn write(c: &DecoderConfig) -> Value {
    let own = json!({
        "norm_topk_prob": c.router == Some(Router::SigmoidNormalised), "rope_interleave": true,
        "n_group": c.router_groups.unwrap_or(1), "topk_group": c.router_top_groups.unwrap_or(1), "num_nextn_predict_layers": 0,
    });
    with(with(write_latent(c, &DEEPSEEK_V3), write_experts(c)), own)
}

fn parts(c: &DecoderConfig) -> Vec<Part> {
    llama::around(c, |parts, i| {
        latent(parts, c, i);
        experts(parts, c, i);
        if let Some(mixture) = c.mixture(i) {
            let ours = format!("layers.{i}.mlp.router.bias");
            parts.vector(format!("model.layers.{i}.mlp.gate.e_score_correction_bias"), &ours, mixture.experts);
        }
        llama::norms(parts, c, i);
    })
}
