//! Hugging Face folders of models of images (`config.json`, weights, `preprocessor_config.json`), out and in, as transformers 5 and diffusers
//! write and read them: [`layouts`] has a file for each class. Of a config every key is known or refused. Weights go through [`train::hf`].

mod layouts;

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use layouts::{Layout, Part};
use serde_json::{Value, json};
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    hf::{Array, Format, Tensor, Weights, recipe_of, write_folder, write_json, write_run, write_weights},
    run::Loaded,
};

use crate::{
    classes,
    numbers::{DEVIATION, MEAN},
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
        let place = |part: &Part| part.ours.iter().position(|ours| ours == name);
        let Some((part, tensor, at)) = self.parts.iter().find_map(|(part, tensor)| Some((part, tensor, place(part)?))) else {
            return Ok(Vec::new());
        };
        let all = part.view.back(&self.weights.all(tensor)?, &part.dims);
        let each = all.len() / part.ours.len();
        Ok(all[at * each..(at + 1) * each].to_vec())
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
    json.is_some_and(|json| Layout::of_json(&json).is_ok())
}

/// Write `loaded` to `folder`, with the names of its classes. It comes whole or not at all where nothing stands yet.
/// # Errors
/// When no layout holds such a model, or a file cannot be written.
pub fn export(loaded: &Loaded, classes: &[String], folder: &Path, format: Format) -> Result<(), TrainError> {
    let (table, params) = (loaded.model.config(), loaded.model.params());
    let layout = Layout::of_table(&table)?;
    let array = |Part { ours, theirs, dims, view }: Part| {
        let value = |ours: &String| params.find(ours).map_or(&[][..], |id| loaded.store.value(id));
        let values: Vec<&[f32]> = ours.iter().map(value).collect();
        Array { name: theirs, dims: dims.clone(), values: Box::new(move || Cow::Owned(view.out(&values.concat(), &dims))) }
    };
    let fixed =
        |(name, dims, values): (String, Vec<usize>, Vec<f32>)| Array { name, dims, values: Box::new(move || Cow::Owned(values.clone())) };
    let mut arrays: Vec<Array<'_>> = (layout.parts)(&table)?.into_iter().map(array).collect();
    arrays.extend((layout.fixed)(&table)?.into_iter().map(fixed));
    let config = layout.config(&table, classes)?;
    write_folder(folder, |folder| {
        write_weights(&arrays, folder, layout.stem(), format)?;
        write_texts(loaded, layout, config, folder, format)
    })
}

fn write_texts(loaded: &Loaded, layout: &Layout, mut model: Value, folder: &Path, format: Format) -> Result<(), TrainError> {
    let is_clip = layout.kind == "clip";
    if is_clip && let Ok(tokenizer) = loaded.tokenizer() {
        // Where a text ends is where its state is read.
        let end = tokenizer.ends().end_of_text;
        (model["text_config"]["eos_token_id"], model["text_config"]["pad_token_id"]) = (json!(end), json!(end));
        model["text_config"]["bos_token_id"] = json!(tokenizer.ends().before_prompt.iter().find(|token| **token != end));
    }
    if layout.processor.is_some() {
        format.tell(&mut model);
    }
    write_json(folder, "config.json", &model)?;
    let Some((processor, size)) = layout.processor else { return Ok(()) };
    let size = size(&loaded.model.config())?;
    write_json(
        folder,
        "preprocessor_config.json",
        &json!({
            "image_processor_type": processor, "do_resize": true, "size": {"height": size, "width": size}, "resample": 2,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": MEAN, "image_std": DEVIATION,
        }),
    )?;
    if is_clip && loaded.tokenizer_path.is_file() {
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
    let layout = Layout::of_json(&json)?;
    let (model, classes) = layout.read_config(&json)?;
    models::build(&model)?;
    let weights = Weights::open(folder, refuse)?;
    let mut left: BTreeSet<&str> = weights.names().filter(|name| !name.ends_with("position_ids")).collect();
    let mut parts: Vec<(Part, Tensor)> = Vec::new();
    for part in (layout.parts)(&model)? {
        let other = layouts::other_name(&part.theirs);
        let find = |dims: &[usize]| weights.find([part.theirs.as_str(), &other], dims);
        let found = match (part.view, &part.dims[..]) {
            (layouts::View::Pixel, [out, inner]) => find(&part.dims).or_else(|error| find(&[*out, *inner, 1, 1]).map_err(|_| error)),
            _ => find(&part.dims),
        };
        let (name, tensor) = found?;
        left.remove(name);
        let tensor = tensor.clone();
        // What a layout writes several times is one thing here.
        if let Some((first, one)) = parts.iter().find(|(first, _)| first.ours == part.ours) {
            if weights.all(one)? != weights.all(&tensor)? {
                let problem = format!("`{}` differs from `{}`, and both are one here", part.theirs, first.theirs);
                return Err(refuse("model.safetensors", problem));
            }
            continue;
        }
        parts.push((part, tensor));
    }
    for (name, dims, want) in (layout.fixed)(&model)? {
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
    let name = |layout: &Layout| match layout.class {
        layouts::Class::Transformers(_, class) | layouts::Class::Diffusers(class) => class,
    };
    let help = format!("the layouts of images that are known: {}", layouts::ALL.iter().map(name).collect::<Vec<_>>().join(", "));
    TrainError::Value { key, problem, help }
}

#[cfg(test)]
mod tests;
