//! Hugging Face folders of models of images (`config.json`, `model.safetensors`, `preprocessor_config.json`), out and in: `vit`
//! (ViTForImageClassification), `vit_mae` (ViTMAEForPreTraining) and `clip` (CLIPModel), as transformers 5 writes and reads them. Weights
//! go as f32. Of a config every key is known or refused.

mod config;
mod layout;

use std::{collections::HashMap, path::Path};

use layout::Part;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use train::{TrainError, run::Loaded};

use crate::tasks::{DEVIATION, MEAN};

/// Of a `config.json`.
const LARGEST_BYTES: u64 = 64 << 20;

/// A model from outside.
pub struct Imported {
    /// A recipe's `[model]` table.
    pub model: toml::Table,
    /// By our names.
    pub tensors: HashMap<String, Vec<f32>>,
    /// Names of classes, by number, where it has some.
    pub classes: Vec<String>,
}

/// Whether a folder holds one of the layouts that are read here.
#[must_use]
pub fn knows(folder: &Path) -> bool {
    let json = disk::read_text(&folder.join("config.json"), LARGEST_BYTES).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    json.is_some_and(|json| json.get("model_type").and_then(Value::as_str).is_some_and(|kind| layout::KINDS.contains(&kind)))
}

/// Write `loaded` to `folder`, with the names of its classes.
/// # Errors
/// When no layout holds such a model, or a file cannot be written.
pub fn export(loaded: &Loaded, classes: &[String], folder: &Path) -> Result<(), TrainError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::Io { action, path, source }
    };
    let (kind, table) = (models::kind(&loaded.recipe.model).name, loaded.model.config());
    let parts = layout::parts(kind, &table)?;
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let params = loaded.model.params();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for Part { ours, theirs, dims, view } in parts {
        let value = params.find(&ours).map_or(&[][..], |id| loaded.store.value(id));
        tensors.push((theirs, dims.clone(), view.out(value, &dims)));
    }
    tensors.extend(layout::fixed(kind, &table)?);
    let path = folder.join("model.safetensors");
    let wrong = |e: safetensors::SafeTensorError| refuse("model.safetensors", e.to_string());
    let view = |dims: &[usize], values| TensorView::new(Dtype::F32, dims.to_vec(), bytemuck::cast_slice(values)).map_err(wrong);
    let views =
        tensors.iter().map(|(name, dims, values)| Ok((name.clone(), view(dims, values)?))).collect::<Result<Vec<_>, TrainError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    disk::write(&path, bytes).map_err(io("write", &path))?;
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        disk::write(&path, format!("{value:#}\n")).map_err(io("write", &path))
    };
    let mut model = config::write(kind, &table, classes)?;
    if kind == "clip"
        && let Ok(tokenizer) = loaded.tokenizer()
    {
        // Where a text ends is where its state is read.
        let end = tokenizer.ends().end_of_text;
        (model["text_config"]["eos_token_id"], model["text_config"]["pad_token_id"]) = (json!(end), json!(end));
        model["text_config"]["bos_token_id"] = json!(tokenizer.ends().before_prompt.iter().find(|token| **token != end));
    }
    write("config.json", &model)?;
    let size = config::image_size(kind, &table);
    let processor = if kind == "clip" { "CLIPImageProcessor" } else { "ViTImageProcessor" };
    write(
        "preprocessor_config.json",
        &json!({
            "image_processor_type": processor, "do_resize": true, "size": {"height": size, "width": size}, "resample": 2,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": MEAN, "image_std": DEVIATION,
        }),
    )?;
    if kind == "clip" && loaded.tokenizer_path.is_file() {
        let to = folder.join("tokenizer.json");
        std::fs::copy(&loaded.tokenizer_path, &to).map_err(io("write", &to))?;
    }
    Ok(())
}

/// Read a folder of one of the layouts, in f32, f16 or bf16.
/// # Errors
/// When it is of another architecture, or its config or tensors do not fit, naming the key.
pub fn import(folder: &Path) -> Result<Imported, TrainError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::Io { action: "read", path, source }
    };
    let path = folder.join("config.json");
    let text = disk::read_text(&path, LARGEST_BYTES).map_err(io(&path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| refuse("config.json", e.to_string()))?;
    let (model, classes) = config::read(&json)?;
    let kind = models::kind(&model).name;
    models::build(&model)?;
    let path = folder.join("model.safetensors");
    let bytes = disk::read(&path, u64::MAX).map_err(io(&path))?;
    let mut theirs = read_tensors(&bytes)?;
    let mut tensors = HashMap::new();
    for part in layout::parts(kind, &model)? {
        let found = theirs.remove(&part.theirs).or_else(|| theirs.remove(&layout::other_name(&part.theirs)));
        let (dims, values) = found.ok_or_else(|| refuse("model.safetensors", format!("`{}` is missing", part.theirs)))?;
        if dims != part.dims {
            return Err(refuse("model.safetensors", format!("`{}` is {dims:?}, and config.json wants {:?}", part.theirs, part.dims)));
        }
        tensors.insert(part.ours, part.view.back(&values, &part.dims));
    }
    for (name, _, want) in layout::fixed(kind, &model)? {
        let Some((_, have)) = theirs.remove(&name) else { continue };
        if have.len() != want.len() || have.iter().zip(&want).any(|(a, b)| (a - b).abs() > 1e-4) {
            return Err(refuse("model.safetensors", format!("`{name}` are not the fixed waves of arXiv:2111.06377, but others")));
        }
    }
    if let Some(name) = theirs.keys().filter(|name| !name.ends_with("position_ids")).min() {
        return Err(refuse("model.safetensors", format!("`{name}` is no part of this layout")));
    }
    Ok(Imported { model, tensors, classes })
}

fn refuse(key: &'static str, problem: String) -> TrainError {
    let help = format!("the layouts of images that are known: {}", layout::KINDS.join(", "));
    TrainError::Value { key, problem, help }
}

fn read_tensors(bytes: &[u8]) -> Result<HashMap<String, (Vec<usize>, Vec<f32>)>, TrainError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| refuse("model.safetensors", e.to_string()))?;
    let mut all = HashMap::new();
    for (name, view) in tensors.iter() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            _ if name.ends_with("position_ids") => continue,
            other => return Err(refuse("model.safetensors", format!("`{name}` is of type {other:?}"))),
        };
        all.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
