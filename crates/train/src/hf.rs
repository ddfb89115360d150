//! Hugging Face folders (`config.json`, `model.safetensors`, `tokenizer.json`): out and in, in the layouts of GPT-2, Llama,
//! Qwen3 (which is Llama's with norms on queries and keys), and of those with experts: Mixtral, OLMoE and Qwen3-MoE. An RMSNorm
//! of the embedding goes into the embedding's table. Weights go as f32.

mod keys;

use std::{collections::HashMap, path::Path};

use data::Tokenizer;
use models::decoder::{DecoderConfig, Mlp, Norm, Position, Router};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::{TrainError, run::Loaded};

/// A model from outside.
pub struct Imported {
    /// A recipe's `[model]` table.
    pub model: toml::Table,
    /// By our names.
    pub tensors: HashMap<String, Vec<f32>>,
    /// With the ends that came with it.
    pub tokenizer: Tokenizer,
}

/// Of a `config.json` or an index.
const LARGEST_BYTES: u64 = 64 << 20;

/// Write `loaded` to `folder`, which comes whole or not at all where nothing stands yet; the other files of one that does stay.
/// # Errors
/// When no layout holds such a model, naming what stands in the way, or a file cannot be written.
pub fn export(loaded: &Loaded, tokenizer: &Tokenizer, folder: &Path) -> Result<(), TrainError> {
    if folder.symlink_metadata().is_ok() {
        return write(loaded, tokenizer, folder);
    }
    let part = disk::beside(folder, ".part");
    let _ = std::fs::remove_dir_all(&part);
    let written = write(loaded, tokenizer, &part).and_then(|()| std::fs::rename(&part, folder).map_err(TrainError::io("create", folder)));
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    written
}

fn write(loaded: &Loaded, tokenizer: &Tokenizer, folder: &Path) -> Result<(), TrainError> {
    let config = loaded.model.language().and_then(|l| l.decoder()).ok_or(TrainError::NotLanguage)?;
    let layout = Layout::of(config)?;
    std::fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let table = loaded.model.params();
    let value = |name: &str| table.find(name).map_or(&[][..], |id| loaded.store.value(id));
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for part in layout.parts(config) {
        let [rows, cols] = part.dims;
        let of_part = |name: &String| {
            let all = value(name);
            part.expert.map_or(all, |expert| &all[expert * rows * cols..][..rows * cols])
        };
        let values: Vec<&[f32]> = part.ours.iter().map(of_part).collect();
        let mut joined = values.concat();
        if config.embed_norm && part.ours == ["embed.weight"] {
            // A norm of the embedding is the same for a token wherever it stands: it goes into the table.
            let (plain, weight, mut inv_rms) = (joined.clone(), value("embed.norm.weight"), vec![0.0; rows]);
            kernels::norm::rms_norm(&plain, weight, config.eps, &mut joined, &mut inv_rms);
        }
        let (dims, joined) = match (part.is_turned, part.is_vector) {
            (_, true) => (vec![cols], joined),
            (true, _) => (vec![cols, rows], turned(&joined, rows, cols)),
            _ => (vec![rows, cols], joined),
        };
        tensors.push((part.theirs, dims, joined));
    }
    let path = folder.join("model.safetensors");
    let wrong = |e: safetensors::SafeTensorError| refuse("model.safetensors", e.to_string());
    let view = |dims: &[usize], values| TensorView::new(Dtype::F32, dims.to_vec(), bytemuck::cast_slice(values)).map_err(wrong);
    let views = tensors.iter().map(|(name, dims, values)| Ok((name.clone(), view(dims, values)?)));
    let views = views.collect::<Result<Vec<_>, TrainError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    disk::write(&path, bytes).map_err(TrainError::io("write", &path))?;
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        disk::write(&path, format!("{value:#}\n")).map_err(TrainError::io("write", &path))
    };
    let (text, has_begin) = tokenizer.for_others()?;
    let path = folder.join("tokenizer.json");
    disk::write(&path, text).map_err(TrainError::io("write", &path))?;
    let ends = tokenizer.ends();
    let begin = ends.before_prompt.first().filter(|_| has_begin).copied();
    let stops = if let [stop] = ends.stops[..] { json!(stop) } else { json!(ends.stops) };
    let mut model = layout.config(config);
    (model["bos_token_id"], model["eos_token_id"]) = (json!(begin), stops.clone());
    write("config.json", &model)?;
    write("generation_config.json", &json!({"_from_model_config": true, "bos_token_id": begin, "eos_token_id": stops}))?;
    write(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context, "clean_up_tokenization_spaces": false,
            "eos_token": tokenizer.name(ends.end_of_text), "bos_token": begin.and_then(|id| tokenizer.name(id)),
            "add_bos_token": begin.is_some(), "add_eos_token": false,
        }),
    )
}

/// Read a folder of one of the layouts, in f32, f16 or bf16, in one file or several.
/// # Errors
/// When it is of another architecture, or its config or tensors do not fit, naming the key.
pub fn import(folder: &Path) -> Result<Imported, TrainError> {
    let path = folder.join("config.json");
    let text = disk::read_text(&path, LARGEST_BYTES).map_err(TrainError::io("read", &path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| refuse("config.json", e.to_string()))?;
    let (layout, config) = Layout::read(&json)?;
    config.check()?;
    let mut theirs = read_tensors(folder)?;
    let mut tensors = HashMap::new();
    for part in layout.parts(&config) {
        let short = part.theirs.strip_prefix("transformer.").unwrap_or(&part.theirs);
        let found = theirs.remove(&part.theirs).or_else(|| theirs.remove(short));
        let (dims, values) = found.ok_or_else(|| refuse("model.safetensors", format!("`{}` is missing", part.theirs)))?;
        let [rows, cols] = part.dims;
        let want = match (part.is_turned, part.is_vector) {
            (_, true) => vec![cols],
            (true, _) => vec![cols, rows],
            _ => vec![rows, cols],
        };
        if dims != want {
            return Err(refuse("model.safetensors", format!("`{}` is {dims:?}, and config.json wants {want:?}", part.theirs)));
        }
        let values = if part.is_turned && !part.is_vector { turned(&values, cols, rows) } else { values };
        let each = values.len() / part.ours.len();
        for (name, values) in part.ours.iter().zip(values.chunks(each.max(1))) {
            // Experts come one after the other.
            tensors.entry(name.clone()).or_insert_with(Vec::new).extend_from_slice(values);
        }
    }
    // Masks and angles follow from the config, and a tied head is the embedding.
    let follows = |name: &str| {
        let ends = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
        ends.iter().any(|end| name.ends_with(end)) || config.tied && name == "lm_head.weight"
    };
    if let Some(name) = theirs.keys().filter(|name| !follows(name)).min() {
        return Err(refuse("model.safetensors", format!("`{name}` is no part of this layout")));
    }
    let mut model = toml::Table::try_from(&config).map_err(|e| refuse("config.json", e.to_string()))?;
    model.insert("kind".into(), "decoder".into());
    // A size that says nothing would be taken for the dial's.
    Ok(Imported { model, tensors, tokenizer: Tokenizer::load_from_elsewhere(&folder.join("tokenizer.json"), None, None)? })
}

fn refuse(key: &'static str, problem: String) -> TrainError {
    TrainError::Value { key, problem, help: "GPT-2, Llama, Qwen3, Mixtral, OLMoE and Qwen3-MoE layouts are known".into() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Gpt2,
    Llama,
    Qwen3,
    Mixtral,
    Olmoe,
    Qwen3Moe,
}

/// One tensor of theirs: the ours that it joins, and how it lies.
struct Part {
    theirs: String,
    ours: Vec<String>,
    /// `[out, in]`; a vector has its length last.
    dims: [usize; 2],
    is_vector: bool,
    /// GPT-2 keeps linear layers as `[in, out]`.
    is_turned: bool,
    /// The matrix of ours that it is, where ours holds all experts.
    expert: Option<usize>,
}

impl Layout {
    fn of(c: &DecoderConfig) -> Result<Self, TrainError> {
        let no = |what: &str| Err(refuse("model", format!("no Hugging Face layout has {what}")));
        let norm_stays = c.embed_norm && (c.tied || c.norm != Norm::RmsNorm);
        if c.parallel_block || norm_stays || c.window.is_some() {
            return no("these blocks: sequential ones are needed, without window or a norm of a tied embedding");
        }
        if c.kv_rank.is_some() {
            return no("latent attention");
        }
        match (c.norm, c.position, c.mlp) {
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

    fn parts(self, c: &DecoderConfig) -> Vec<Part> {
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
            let linears = [
                ("self_attn.q_proj", "attn.q", q, m),
                ("self_attn.k_proj", "attn.k", kv, m),
                ("self_attn.v_proj", "attn.v", kv, m),
                ("self_attn.o_proj", "attn.out", m, q),
            ];
            parts.extend(linears.map(|(t, o, out, inner)| matrix(theirs(t), &ours(o), out, inner)));
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
            } else {
                let linears =
                    [("mlp.gate_proj", "mlp.gate", c.ffn, m), ("mlp.up_proj", "mlp.up", c.ffn, m), ("mlp.down_proj", "mlp.down", m, c.ffn)];
                parts.extend(linears.map(|(t, o, out, inner)| matrix(theirs(t), &ours(o), out, inner)));
            }
            parts.extend(
                [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")].map(|(t, o)| vector(theirs(t), &ours(o), m)),
            );
            if c.qk_norm {
                let widths = if c.qk_norm_joint { [q, kv] } else { [c.head_dim; 2] };
                let names = [("self_attn.q_norm", "attn.q_norm"), ("self_attn.k_norm", "attn.k_norm")];
                parts.extend(names.into_iter().zip(widths).map(|((t, o), width)| vector(theirs(t), &ours(o), width)));
            }
        }
        parts.push(vector("model.norm.weight".into(), &["norm.weight".into()], m));
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

    fn config(self, c: &DecoderConfig) -> Value {
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
            Self::Llama | Self::Gpt2 => ("LlamaForCausalLM", "llama"),
        };
        let mut json = json!({
            "architectures": [architecture], "model_type": kind, "vocab_size": c.vocab, "max_position_embeddings": c.context,
            "hidden_size": c.model, "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim, "intermediate_size": c.ffn, "hidden_act": "silu", "rms_norm_eps": c.eps, "rope_theta": c.theta,
            "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "initializer_range": c.init_std,
            "tie_word_embeddings": c.tied, "torch_dtype": "float32", "dtype": "float32",
        });
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

    fn read(json: &Value) -> Result<(Self, DecoderConfig), TrainError> {
        let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("");
        let whole = |key: &str| {
            let value = json.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
            value.ok_or_else(|| refuse("config.json", format!("`{key}` is missing or no whole number")))
        };
        let real = |key: &str, default: f64| match json.get(key) {
            None | Some(Value::Null) => Ok(default as f32),
            Some(value) => value.as_f64().map(|v| v as f32).ok_or_else(|| refuse("config.json", format!("`{key}` is {value}, no number"))),
        };
        let given = |key: &str| json.get(key).is_some_and(|v| !v.is_null() && v != &Value::Bool(false));
        let base = |model: usize, layers: usize, heads: usize| -> Result<DecoderConfig, TrainError> {
            // Head size and width of the feed-forward part are set by the caller; any that can be will do here.
            let (head_dim, ffn) = (Some(2), Some(1));
            let options = models::decoder::DecoderOptions {
                layers: Some(layers),
                model: Some(model),
                heads: Some(heads),
                head_dim,
                ffn,
                embed_norm: Some(false),
                zero_init: Some(false),
                ..Default::default()
            };
            Ok(options.resolve()?)
        };
        if ["gpt2", "llama", "qwen3", "mixtral", "olmoe", "qwen3_moe"].contains(&kind) {
            keys::check(kind, json)?;
        }
        match kind {
            "gpt2" => {
                let activation = json.get("activation_function").and_then(Value::as_str).unwrap_or("gelu_new");
                if !["gelu_new", "gelu_pytorch_tanh"].contains(&activation) {
                    return Err(refuse("config.json", format!("`activation_function` is `{activation}`, not `gelu_new`")));
                }
                let (model, layers, heads) = (whole("n_embd")?, whole("n_layer")?, whole("n_head")?);
                if heads == 0 || model % heads != 0 {
                    return Err(refuse("config.json", format!("`n_head` is {heads}, which does not divide `n_embd` = {model}")));
                }
                let config = DecoderConfig {
                    vocab: whole("vocab_size")?,
                    context: whole("n_positions")?,
                    head_dim: model / heads,
                    kv_heads: heads,
                    ffn: if given("n_inner") { whole("n_inner")? } else { 4 * model },
                    norm: Norm::LayerNorm,
                    norm_bias: true,
                    eps: real("layer_norm_epsilon", 1e-5)?,
                    position: Position::Learned,
                    mlp: Mlp::GeluTanh,
                    bias: true,
                    tied: true,
                    init_std: real("initializer_range", 0.02)?,
                    ..base(model, layers, heads)?
                };
                Ok((Self::Gpt2, config))
            }
            "llama" | "qwen3" | "mixtral" | "olmoe" | "qwen3_moe" => {
                // Newer folders keep the base of the angles in a table of its own.
                let rope = ["rope_parameters", "rope_scaling"].iter().find_map(|key| json.get(key).filter(|v| !v.is_null()));
                let theta = match rope.and_then(|r| r.get("rope_theta")).and_then(Value::as_f64) {
                    Some(theta) => theta as f32,
                    None => real("rope_theta", if kind == "mixtral" { 1e6 } else { 1e4 })?,
                };
                let activation = json.get("hidden_act").and_then(Value::as_str).unwrap_or("silu");
                if activation != "silu" {
                    return Err(refuse("config.json", format!("`hidden_act` is `{activation}`, not `silu`")));
                }
                let (model, layers, heads) = (whole("hidden_size")?, whole("num_hidden_layers")?, whole("num_attention_heads")?);
                let has_rough_eps = ["mixtral", "olmoe"].contains(&kind);
                let head_dim = if given("head_dim") { whole("head_dim")? } else { model / heads.max(1) };
                let layout = match kind {
                    "llama" => Self::Llama,
                    "qwen3" => Self::Qwen3,
                    "mixtral" => Self::Mixtral,
                    "olmoe" => Self::Olmoe,
                    _ => Self::Qwen3Moe,
                };
                let config = DecoderConfig {
                    vocab: whole("vocab_size")?,
                    context: whole("max_position_embeddings")?,
                    head_dim,
                    kv_heads: if given("num_key_value_heads") { whole("num_key_value_heads")? } else { heads },
                    ffn: whole("intermediate_size")?,
                    eps: real("rms_norm_eps", if has_rough_eps { 1e-5 } else { 1e-6 })?,
                    theta,
                    tied: given("tie_word_embeddings"),
                    qk_norm: [Self::Qwen3, Self::Olmoe, Self::Qwen3Moe].contains(&layout),
                    qk_norm_joint: layout == Self::Olmoe,
                    init_std: real("initializer_range", 0.02)?,
                    ..base(model, layers, heads)?
                };
                if matches!(layout, Self::Llama | Self::Qwen3) {
                    return Ok((layout, config));
                }
                // Newer folders call the experts of all three by Mixtral's name.
                let count = if given("num_local_experts") { whole("num_local_experts")? } else { whole("num_experts")? };
                let is_normalised = layout == Self::Mixtral || given("norm_topk_prob");
                let mixed = DecoderConfig {
                    experts: Some(count),
                    experts_per_token: Some(whole("num_experts_per_tok")?),
                    expert_ffn: Some(whole(if layout == Self::Qwen3Moe { "moe_intermediate_size" } else { "intermediate_size" })?),
                    shared_experts: Some(0),
                    dense_layers: Some(0),
                    router: Some(if is_normalised { Router::SoftmaxNormalised } else { Router::Softmax }),
                    router_scale: Some(1.0),
                    balance: Some(real("router_aux_loss_coef", 0.001)?),
                    ..config
                };
                Ok((layout, mixed))
            }
            other => Err(refuse("config.json", format!("`model_type` is `{other}`"))),
        }
    }
}

/// `[rows, cols]` to `[cols, rows]`.
fn turned(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for j in 0..cols {
        out.extend((0..rows).map(|i| x[i * cols + j]));
    }
    out
}

/// All tensors of a folder's safetensors files.
fn read_tensors(folder: &Path) -> Result<HashMap<String, (Vec<usize>, Vec<f32>)>, TrainError> {
    let mut files = vec!["model.safetensors".to_owned()];
    let index = folder.join("model.safetensors.index.json");
    if index.symlink_metadata().is_ok() {
        let text = disk::read_text(&index, LARGEST_BYTES).map_err(TrainError::io("read", &index))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| refuse("model.safetensors.index.json", e.to_string()))?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| refuse("model.safetensors.index.json", "`weight_map` is missing".into()))?;
        files = map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        files.sort();
        files.dedup();
    }
    let mut all = HashMap::new();
    for file in files {
        if let Err(problem) = disk::plain_name(&file) {
            return Err(refuse("model.safetensors.index.json", format!("the name `{file}` {problem}")));
        }
        let path = folder.join(&file);
        let bytes = disk::read(&path, u64::MAX).map_err(TrainError::io("read", &path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| refuse("model.safetensors", format!("`{file}`: {e}")))?;
        for (name, view) in tensors.iter() {
            let data = view.data();
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::BF16 => data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
                Dtype::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
                // Masks and the like, which some folders carry along.
                _ => continue,
            };
            all.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
    }
    Ok(all)
}
