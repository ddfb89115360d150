//! Hugging Face folders (`config.json`, `model.safetensors`, `tokenizer.json`): out and in, in the layouts that [`layout`] knows. An
//! RMSNorm of the embedding goes into the embedding's table. Weights go as f32.

mod keys;
mod layout;
mod read;

use std::{collections::HashMap, path::Path};

use data::Tokenizer;
use layout::Layout;
use models::Model;
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
    let (layout, config) = read::config(&json)?;
    config.check()?;
    let decoder = models::decoder::Decoder::new(config.clone())?;
    let table = decoder.params();
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
        let mut rest = &values[..];
        for name in &part.ours {
            // Experts come one after the other; of what is joined each has its own length.
            let len = if part.ours.len() == 1 { values.len() } else { table.find(name).map_or(each, |id| table.spec(id).shape.elements()) };
            let (own, after) = rest.split_at(len.min(rest.len()));
            tensors.entry(name.clone()).or_insert_with(Vec::new).extend_from_slice(own);
            rest = after;
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
    TrainError::Value { key, problem, help: format!("the layouts that are known: {}", layout::KINDS.join(", ")) }
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
