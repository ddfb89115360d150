//! Hugging Face folders of models of images (`config.json`, `model.safetensors`, `preprocessor_config.json`), out and in: `vit`
//! (ViTForImageClassification), `vit_mae` (ViTMAEForPreTraining) and `clip` (CLIPModel), as transformers 5 writes and reads them. Of
//! a config every key is known or refused. Weights go through [`train::hf`].

mod config;
mod layout;

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use layout::Part;
use serde_json::{Value, json};
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    hf::{Array, Format, Tensor, Weights, recipe_of, write_folder, write_json, write_run, write_weights},
    run::Loaded,
};

use crate::{
    classes,
    tasks::{DEVIATION, MEAN},
};

/// Of a `config.json`.
const LARGEST_BYTES: u64 = 64 << 20;

/// A model from outside; its numbers stay in its files until they are asked for.
pub struct Imported {
    /// A recipe's `[model]` table.
    pub model: toml::Table,
    /// Names of classes, by number, where it has some.
    pub classes: Vec<String>,
    weights: Weights,
    /// Each with the tensor of theirs that it is.
    parts: Vec<(Part, Tensor)>,
}

impl Imported {
    /// The numbers of one of our arrays; of one that there is none of, none.
    /// # Errors
    /// When a file cannot be read any more.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        let Some((part, tensor)) = self.parts.iter().find(|(part, _)| part.ours == name) else { return Ok(Vec::new()) };
        Ok(part.view.back(&self.weights.all(tensor)?, &part.dims))
    }

    /// Write it as a checkpoint of step 0 into `folder`, with `files` besides; the number of its parameters.
    /// # Errors
    /// As [`train::hf::write_run`].
    pub fn write(&self, folder: &Path, files: TokenizerFiles) -> Result<u64, TrainError> {
        let model = models::build(&self.model)?;
        let context = model.language().map_or(1, |l| l.context());
        let files = classes::files(&self.classes).into_iter().chain(files).collect();
        write_run(folder, &recipe_of(&self.model, context, folder)?, &*model, files, refuse, |name| self.values(name))?;
        Ok(model.params().elements())
    }
}

/// Whether a folder holds one of the layouts that are read here.
#[must_use]
pub fn knows(folder: &Path) -> bool {
    let json = disk::read_text(&folder.join("config.json"), LARGEST_BYTES).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    json.is_some_and(|json| json.get("model_type").and_then(Value::as_str).is_some_and(|kind| layout::KINDS.contains(&kind)))
}

/// Write `loaded` to `folder`, with the names of its classes. It comes whole or not at all where nothing stands yet.
/// # Errors
/// When no layout holds such a model, or a file cannot be written.
pub fn export(loaded: &Loaded, classes: &[String], folder: &Path, format: Format) -> Result<(), TrainError> {
    let (kind, table, params) = (models::kind(&loaded.recipe.model).name, loaded.model.config(), loaded.model.params());
    let array = |Part { ours, theirs, dims, view }: Part| {
        let value = params.find(&ours).map_or(&[][..], |id| loaded.store.value(id));
        Array { name: theirs, dims: dims.clone(), values: Box::new(move || Cow::Owned(view.out(value, &dims))) }
    };
    let fixed =
        |(name, dims, values): (String, Vec<usize>, Vec<f32>)| Array { name, dims, values: Box::new(move || Cow::Owned(values.clone())) };
    let mut arrays: Vec<Array<'_>> = layout::parts(kind, &table)?.into_iter().map(array).collect();
    arrays.extend(layout::fixed(kind, &table)?.into_iter().map(fixed));
    write_folder(folder, |folder| {
        write_weights(&arrays, folder, format)?;
        write_texts(loaded, classes, folder, format)
    })
}

fn write_texts(loaded: &Loaded, classes: &[String], folder: &Path, format: Format) -> Result<(), TrainError> {
    let (kind, table) = (models::kind(&loaded.recipe.model).name, loaded.model.config());
    let mut model = config::write(kind, &table, classes)?;
    if kind == "clip"
        && let Ok(tokenizer) = loaded.tokenizer()
    {
        // Where a text ends is where its state is read.
        let end = tokenizer.ends().end_of_text;
        (model["text_config"]["eos_token_id"], model["text_config"]["pad_token_id"]) = (json!(end), json!(end));
        model["text_config"]["bos_token_id"] = json!(tokenizer.ends().before_prompt.iter().find(|token| **token != end));
    }
    format.tell(&mut model);
    write_json(folder, "config.json", &model)?;
    let size = config::image_size(kind, &table);
    let processor = if kind == "clip" { "CLIPImageProcessor" } else { "ViTImageProcessor" };
    write_json(
        folder,
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

/// Read a folder of one of the layouts. All that can be wrong with it but the numbers themselves is found here.
/// # Errors
/// When it is of another architecture, or its config or tensors do not fit, naming the key.
pub fn import(folder: &Path) -> Result<Imported, TrainError> {
    let path = folder.join("config.json");
    let text = disk::read_text(&path, LARGEST_BYTES).map_err(io("read", &path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| refuse("config.json", e.to_string()))?;
    let (model, classes) = config::read(&json)?;
    let kind = models::kind(&model).name;
    models::build(&model)?;
    let weights = Weights::open(folder, refuse)?;
    let mut left: BTreeSet<&str> = weights.names().filter(|name| !name.ends_with("position_ids")).collect();
    let mut parts = Vec::new();
    for part in layout::parts(kind, &model)? {
        let (name, tensor) = weights.find([part.theirs.as_str(), &layout::other_name(&part.theirs)], &part.dims)?;
        left.remove(name);
        let tensor = tensor.clone();
        parts.push((part, tensor));
    }
    for (name, dims, want) in layout::fixed(kind, &model)? {
        if !left.remove(name.as_str()) {
            continue;
        }
        let (_, tensor) = weights.find([name.as_str()], &dims)?;
        if weights.all(tensor)?.iter().zip(&want).any(|(a, b)| (a - b).abs() > 1e-4) {
            return Err(refuse("model.safetensors", format!("`{name}` are not the fixed waves of arXiv:2111.06377, but others")));
        }
    }
    if let Some(name) = left.first() {
        return Err(refuse("model.safetensors", format!("`{name}` is no part of this layout")));
    }
    Ok(Imported { model, classes, weights, parts })
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError + use<> {
    let path = path.to_owned();
    move |source| TrainError::Io { action, path, source }
}

fn refuse(key: &'static str, problem: String) -> TrainError {
    let help = format!("the layouts of images that are known: {}", layout::KINDS.join(", "));
    TrainError::Value { key, problem, help }
}

#[cfg(test)]
mod tests;
