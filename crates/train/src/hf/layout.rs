//! Layouts of Hugging Face folders: which of ours each of their tensors holds, and what their `config.json` says. Reading one is in
//! [`super::read`]. To add one: a variant of [`Layout`], its arms here and there, and its keys in [`super::keys`].

use models::decoder::{DecoderConfig, Mlp, Norm, Position, RopeScaling, Router};
use serde_json::{Value, json};

use super::refuse;
use crate::TrainError;

/// As `model_type` names them.
pub(super) const KINDS: &[&str] =
    &["gpt2", "llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "stablelm", "starcoder2", "mixtral", "olmoe", "qwen3_moe"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Gpt2,
    Llama,
    Mistral,
    Qwen2,
    Olmo2,
    Phi3,
    StableLm,
    StarCoder2,
    Qwen3,
    Mixtral,
    Olmoe,
    Qwen3Moe,
}

/// One tensor of theirs: the ours that it joins, and how it lies.
pub(super) struct Part {
    pub theirs: String,
    pub ours: Vec<String>,
    /// `[out, in]`; a vector has its length last.
    pub dims: [usize; 2],
    pub is_vector: bool,
    /// GPT-2 keeps linear layers as `[in, out]`.
    pub is_turned: bool,
    /// The matrix of ours that it is, where ours holds all experts.
    pub expert: Option<usize>,
}

impl Layout {
    /// The layout that holds models of this configuration.
    /// # Errors
    /// When none does, naming what stands in the way.
    pub(super) fn of(c: &DecoderConfig) -> Result<Self, TrainError> {
        let no = |what: &str| Err(refuse("model", format!("no Hugging Face layout has {what}")));
        let norm_stays = c.embed_norm && (c.tied || c.norm != Norm::RmsNorm);
        if c.parallel_block || norm_stays {
            return no("these blocks: sequential ones are needed, without a norm of a tied embedding");
        }
        if c.kv_rank.is_some() {
            return no("latent attention");
        }
        match (c.norm, c.position, c.mlp) {
            (Norm::RmsNorm, Position::Rope, Mlp::Swiglu)
                if !c.bias && (c.post_norm || c.qkv_bias || c.window.is_some() || c.rope_dim.is_some()) =>
            {
                match (c.post_norm, c.qkv_bias, c.window.is_some(), c.rope_dim.is_some()) {
                    _ if c.experts.is_some() => no("experts beside such norms, biases, windows or positions"),
                    (true, false, false, false) if c.qk_norm && c.qk_norm_joint => Ok(Self::Olmo2),
                    (false, true, false, false) if !c.qk_norm => Ok(Self::Qwen2),
                    (false, false, true, false) if !c.qk_norm => Ok(Self::Mistral),
                    (false, false, _, true) if !c.qk_norm && c.rope_scaling.is_none() => Ok(Self::Phi3),
                    _ => no("this mixture of norms after parts, biases, windows and partly turned heads"),
                }
            }
            (Norm::LayerNorm, Position::Rope, Mlp::Swiglu)
                if !c.bias && c.norm_bias && !c.qk_norm && !c.post_norm && c.window.is_none() && c.rope_scaling.is_none() =>
            {
                Ok(Self::StableLm)
            }
            (Norm::LayerNorm, Position::Rope, Mlp::GeluTanh)
                if c.bias && c.norm_bias && !c.qk_norm && !c.post_norm && c.rope_dim.is_none() && c.rope_scaling.is_none() =>
            {
                Ok(Self::StarCoder2)
            }
            (Norm::RmsNorm, Position::Rope, Mlp::Swiglu) if !c.bias => match (c.mixture(0), c.qk_norm, c.qk_norm_joint) {
                (None, _, false) if c.experts.is_none() => Ok(if c.qk_norm { Self::Qwen3 } else { Self::Llama }),
                (Some(m), ..) if m.shared_ffn > 0 || m.scale != 1.0 || m.router == Router::SigmoidNormalised => {
                    no("such experts: shared ones, or gates by sigmoids or with a scale")
                }
                (Some(_), true, true) => Ok(Self::Olmoe),
                (Some(_), true, false) => Ok(Self::Qwen3Moe),
                (Some(m), false, _) if m.router == Router::SoftmaxNormalised => Ok(Self::Mixtral),
                _ => no("such a mixture: layers without experts, norms over all heads without them, or gates that do not add to one"),
            },
            (Norm::LayerNorm, Position::Learned, Mlp::GeluTanh)
                if c.bias && c.norm_bias && c.tied && !c.qk_norm && c.kv_heads == c.heads && c.heads * c.head_dim == c.model =>
            {
                Ok(Self::Gpt2)
            }
            _ => no(&format!("{:?}, {:?} and {:?} together with these biases, heads and ties", c.norm, c.position, c.mlp)),
        }
    }

    /// Their tensors.
    pub(super) fn parts(self, c: &DecoderConfig) -> Vec<Part> {
        let matrix = |theirs: String, ours: &[String], out: usize, inner: usize| Part {
            theirs,
            ours: ours.to_vec(),
            dims: [out, inner],
            is_vector: false,
            is_turned: false,
            expert: None,
        };
        let vector = |theirs: String, ours: &[String], len: usize| Part {
            theirs,
            ours: ours.to_vec(),
            dims: [1, len],
            is_vector: true,
            is_turned: false,
            expert: None,
        };
        let (q, kv, m) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.model);
        let mut parts = Vec::new();
        if self == Self::Gpt2 {
            parts.push(matrix("transformer.wte.weight".into(), &["embed.weight".into()], c.vocab, m));
            parts.push(matrix("transformer.wpe.weight".into(), &["positions.weight".into()], c.context, m));
            for i in 0..c.layers {
                let ours = |names: &[&str], end: &str| names.iter().map(|n| format!("layers.{i}.{n}.{end}")).collect::<Vec<_>>();
                let theirs = |n: &str, end: &str| format!("transformer.h.{i}.{n}.{end}");
                let linears: [(&str, &[&str], usize, usize); 4] = [
                    ("attn.c_attn", &["attn.q", "attn.k", "attn.v"], 3 * m, m),
                    ("attn.c_proj", &["attn.out"], m, m),
                    ("mlp.c_fc", &["mlp.up"], c.ffn, m),
                    ("mlp.c_proj", &["mlp.down"], m, c.ffn),
                ];
                for (name, names, out, inner) in linears {
                    parts.push(Part { is_turned: true, ..matrix(theirs(name, "weight"), &ours(names, "weight"), out, inner) });
                    parts.push(vector(theirs(name, "bias"), &ours(names, "bias"), out));
                }
                for (name, norm) in [("ln_1", "attn.norm"), ("ln_2", "mlp.norm")] {
                    for end in ["weight", "bias"] {
                        parts.push(vector(theirs(name, end), &ours(&[norm], end), m));
                    }
                }
            }
            for end in ["weight", "bias"] {
                parts.push(vector(format!("transformer.ln_f.{end}"), &[format!("norm.{end}")], m));
            }
            return parts;
        }
        parts.push(matrix("model.embed_tokens.weight".into(), &["embed.weight".into()], c.vocab, m));
        for i in 0..c.layers {
            let ours = |n: &str| [format!("layers.{i}.{n}.weight")];
            let theirs = |n: &str| format!("model.layers.{i}.{n}.weight");
            let bias = |o: &str| [format!("layers.{i}.{o}.bias")];
            let their_bias = |t: &str| format!("model.layers.{i}.{t}.bias");
            let joined = |names: &[&str]| names.iter().map(|n| format!("layers.{i}.{n}.weight")).collect::<Vec<_>>();
            let linears = [
                ("self_attn.q_proj", "attn.q", q, m),
                ("self_attn.k_proj", "attn.k", kv, m),
                ("self_attn.v_proj", "attn.v", kv, m),
                ("self_attn.o_proj", "attn.out", m, q),
            ];
            let own = if self == Self::Phi3 { &linears[3..] } else { &linears[..] };
            for (t, o, out, inner) in own {
                parts.push(matrix(theirs(t), &ours(o), *out, *inner));
                if c.bias || c.qkv_bias && *o != "attn.out" {
                    parts.push(vector(their_bias(t), &bias(o), *out));
                }
            }
            if self == Self::Phi3 {
                parts.push(matrix(theirs("self_attn.qkv_proj"), &joined(&["attn.q", "attn.k", "attn.v"]), q + 2 * kv, m));
            }
            if let Some(mixture) = c.mixture(i) {
                let (place, names) = self.experts();
                parts.push(matrix(theirs(&format!("{place}.gate")), &ours("mlp.router"), mixture.experts, m));
                for ((t, o), [out, inner]) in
                    names.into_iter().zip(["gate", "up", "down"]).zip([[mixture.ffn, m], [mixture.ffn, m], [m, mixture.ffn]])
                {
                    let of =
                        |expert| matrix(theirs(&format!("{place}.experts.{expert}.{t}")), &ours(&format!("mlp.experts.{o}")), out, inner);
                    parts.extend((0..mixture.experts).map(|expert| Part { expert: Some(expert), ..of(expert) }));
                }
            } else if self == Self::Phi3 {
                parts.push(matrix(theirs("mlp.gate_up_proj"), &joined(&["mlp.gate", "mlp.up"]), 2 * c.ffn, m));
                parts.push(matrix(theirs("mlp.down_proj"), &ours("mlp.down"), m, c.ffn));
            } else if self == Self::StarCoder2 {
                for (t, o, out, inner) in [("mlp.c_fc", "mlp.up", c.ffn, m), ("mlp.c_proj", "mlp.down", m, c.ffn)] {
                    parts.push(matrix(theirs(t), &ours(o), out, inner));
                    parts.push(vector(their_bias(t), &bias(o), out));
                }
            } else {
                let linears =
                    [("mlp.gate_proj", "mlp.gate", c.ffn, m), ("mlp.up_proj", "mlp.up", c.ffn, m), ("mlp.down_proj", "mlp.down", m, c.ffn)];
                parts.extend(linears.map(|(t, o, out, inner)| matrix(theirs(t), &ours(o), out, inner)));
            }
            let norms = match self {
                Self::Olmo2 => ["post_attention_layernorm", "post_feedforward_layernorm"],
                _ => ["input_layernorm", "post_attention_layernorm"],
            };
            for (t, o) in norms.into_iter().zip(["attn.norm", "mlp.norm"]) {
                parts.push(vector(theirs(t), &ours(o), m));
                if c.norm == Norm::LayerNorm {
                    parts.push(vector(their_bias(t), &bias(o), m));
                }
            }
            if c.qk_norm {
                let widths = if c.qk_norm_joint { [q, kv] } else { [c.head_dim; 2] };
                let names = [("self_attn.q_norm", "attn.q_norm"), ("self_attn.k_norm", "attn.k_norm")];
                parts.extend(names.into_iter().zip(widths).map(|((t, o), width)| vector(theirs(t), &ours(o), width)));
            }
        }
        parts.push(vector("model.norm.weight".into(), &["norm.weight".into()], m));
        if c.norm == Norm::LayerNorm {
            parts.push(vector("model.norm.bias".into(), &["norm.bias".into()], m));
        }
        if !c.tied {
            parts.push(matrix("lm_head.weight".into(), &["head.weight".into()], c.vocab, m));
        }
        parts
    }

    /// What they call the mixture of a layer, and an expert's matrices.
    fn experts(self) -> (&'static str, [&'static str; 3]) {
        match self {
            Self::Mixtral => ("block_sparse_moe", ["w1", "w3", "w2"]),
            _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        }
    }

    /// Their `config.json`.
    pub(super) fn config(self, c: &DecoderConfig) -> Value {
        if self == Self::Gpt2 {
            return json!({
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": c.vocab, "n_positions": c.context,
                "n_embd": c.model, "n_layer": c.layers, "n_head": c.heads, "n_inner": c.ffn, "activation_function": "gelu_new",
                "layer_norm_epsilon": c.eps, "resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": 0.0,
                "initializer_range": c.init_std, "tie_word_embeddings": true, "torch_dtype": "float32", "dtype": "float32",
            });
        }
        let (architecture, kind) = match self {
            Self::Mixtral => ("MixtralForCausalLM", "mixtral"),
            Self::Olmoe => ("OlmoeForCausalLM", "olmoe"),
            Self::Qwen3Moe => ("Qwen3MoeForCausalLM", "qwen3_moe"),
            Self::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Self::Mistral => ("MistralForCausalLM", "mistral"),
            Self::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Self::Olmo2 => ("Olmo2ForCausalLM", "olmo2"),
            Self::Phi3 => ("Phi3ForCausalLM", "phi3"),
            Self::StableLm => ("StableLmForCausalLM", "stablelm"),
            Self::StarCoder2 => ("Starcoder2ForCausalLM", "starcoder2"),
            Self::Llama | Self::Gpt2 => ("LlamaForCausalLM", "llama"),
        };
        let mut json = json!({
            "architectures": [architecture], "model_type": kind, "vocab_size": c.vocab, "max_position_embeddings": c.context,
            "hidden_size": c.model, "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim, "intermediate_size": c.ffn, "hidden_act": "silu", "rms_norm_eps": c.eps, "rope_theta": c.theta,
            "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "initializer_range": c.init_std,
            "tie_word_embeddings": c.tied, "torch_dtype": "float32", "dtype": "float32",
        });
        let set = |json: &mut Value, more: Value| {
            for (key, value) in more.as_object().into_iter().flatten() {
                json[key] = value.clone();
            }
        };
        if let Some(scaling) = c.rope_scaling {
            json["rope_scaling"] = match scaling {
                RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_context as u64,
                }),
                RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => json!({
                    "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_context as u64,
                    "beta_fast": beta_fast, "beta_slow": beta_slow, "attention_factor": attention_factor,
                }),
            };
        }
        let turned = c.rope_dim.map_or(1.0, |dim| dim as f64 / c.head_dim as f64);
        match self {
            Self::Mistral => set(&mut json, json!({"sliding_window": c.window})),
            Self::Qwen2 => set(&mut json, json!({"use_sliding_window": false})),
            Self::Phi3 => set(&mut json, json!({"sliding_window": c.window, "partial_rotary_factor": turned, "pad_token_id": null})),
            Self::StableLm => set(
                &mut json,
                json!({"layer_norm_eps": c.eps, "use_qkv_bias": c.qkv_bias, "qk_layernorm": false, "use_parallel_residual": false,
                    "partial_rotary_factor": turned}),
            ),
            Self::StarCoder2 => set(
                &mut json,
                json!({"norm_epsilon": c.eps, "use_bias": true, "hidden_act": "gelu_pytorch_tanh", "sliding_window": c.window,
                    "residual_dropout": c.dropout, "embedding_dropout": c.dropout}),
            ),
            _ => {}
        }
        let foreign: &[&str] = match self {
            Self::Llama | Self::Olmo2 | Self::Qwen3 | Self::Mixtral | Self::Olmoe | Self::Qwen3Moe | Self::Gpt2 => &[],
            Self::StableLm | Self::StarCoder2 => &["attention_bias", "mlp_bias", "rms_norm_eps", "head_dim"],
            _ => &["attention_bias", "mlp_bias"],
        };
        if let Some(entries) = json.as_object_mut() {
            foreign.iter().for_each(|key| drop(entries.remove(*key)));
        }
        if let Some(mixture) = c.mixture(0) {
            let own = match self {
                Self::Qwen3Moe => json!({"moe_intermediate_size": mixture.ffn, "decoder_sparse_step": 1, "mlp_only_layers": []}),
                _ => json!({"intermediate_size": mixture.ffn}),
            };
            let all = json!({
                "num_experts": mixture.experts, "num_local_experts": mixture.experts, "num_experts_per_tok": mixture.per_token,
                "norm_topk_prob": mixture.router == Router::SoftmaxNormalised, "router_aux_loss_coef": mixture.balance,
            });
            for (key, value) in [own, all].iter().filter_map(Value::as_object).flatten() {
                json[key] = value.clone();
            }
        }
        json
    }
}
