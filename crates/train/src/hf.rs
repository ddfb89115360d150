//! Hugging Face folders (`config.json`, weights, `tokenizer.json`): out and in, in the layouts that [`layouts`] knows.

mod export;
mod keys;
mod layouts;
mod number;
mod parts;
mod pickle;
mod rope;
mod weights;
mod write;

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use data::Tokenizer;
pub use export::export;
pub use keys::{Keys, of_all_layouts};
use layouts::Layout;
use models::{Model, decoder::DecoderConfig};
use parts::Part;
use serde_json::Value;
pub use weights::{Refuse, Tensor, Weights};
pub use write::{Array, Format, Numbers, STEMS, write_folder, write_json, write_weights};

use crate::{TrainError, checkpoint, recipe::Recipe};

/// Of a `config.json` or an index.
const LARGEST_BYTES: u64 = 64 << 20;

/// A model from outside; its numbers stay in its files until they are asked for.
pub struct Imported {
    /// A recipe's `[model]` table.
    pub model: toml::Table,
    /// With the ends that came with it.
    pub tokenizer: Tokenizer,
    /// What of the folder was left out, or not taken as it is written.
    pub notes: Vec<String>,
    config: DecoderConfig,
    weights: Weights,
    /// Each with the tensor of theirs that it is.
    parts: Vec<(Part, Tensor)>,
}

/// Read a folder of one of the layouts. All that can be wrong with it but the numbers themselves is found here.
/// # Errors
/// When it is of another architecture, or its config or tensors do not fit, naming the key.
pub fn import(folder: &Path) -> Result<Imported, TrainError> {
    let path = folder.join("config.json");
    let text = disk::read_text(&path, LARGEST_BYTES).map_err(TrainError::io("read", &path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| refuse("config.json", e.to_string()))?;
    let (layout, mut config) = Layout::read(&json)?;
    let weights = Weights::open(folder, refuse)?;
    let mut notes = Vec::new();
    let head = Head::of(layout, &config, &weights)?;
    if config.tied && head == Head::ItsOwn {
        notes.push("`tie_word_embeddings` is true, and the weights hold another output layer: it is taken, as transformers does".into());
        config.tied = false;
    }
    let mut left: BTreeSet<&str> = weights.names().collect();
    let mut parts = Vec::new();
    for mut part in (layout.parts)(&config) {
        if head == Head::Alone && part.pieces.iter().all(|piece| piece.ours == "embed.weight") {
            part.theirs = head_name(layout, &config);
        }
        let (name, tensor) = weights.find(names(&part.theirs), &part.their_dims())?;
        left.remove(name);
        let tensor = tensor.clone();
        parts.push((part, tensor));
    }
    let further = further_layers(&json, config.layers);
    let (of_further, rest): (Vec<&str>, Vec<&str>) =
        left.into_iter().partition(|name| further.iter().any(|f| name.starts_with(f.as_str())));
    if !of_further.is_empty() {
        notes.push(format!("{} tensors of layers that predict further tokens are left out, as transformers does", of_further.len()));
    }
    let head = head_name(layout, &config);
    if let Some(name) = rest.iter().find(|name| !follows(name, config.tied.then_some(head.as_str()))) {
        return Err(refuse("model.safetensors", format!("`{name}` is no part of this layout")));
    }
    let mut model = toml::Table::try_from(&config).map_err(|e| refuse("config.json", e.to_string()))?;
    model.insert("kind".into(), "decoder".into());
    let tokenizer = Tokenizer::load_from_elsewhere(&folder.join("tokenizer.json"), None, None)?;
    notes.extend(tokenizer.notes().iter().cloned());
    Ok(Imported { model, tokenizer, notes, config, weights, parts })
}

impl Imported {
    /// The numbers of one of our arrays.
    /// # Errors
    /// When a file cannot be read any more.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        let runs_of = |(number, (part, _)): (usize, &(Part, Tensor))| {
            part.runs_of(name).into_iter().map(move |run| (number, run)).collect::<Vec<_>>()
        };
        let mut runs: Vec<_> = self.parts.iter().enumerate().flat_map(runs_of).collect();
        runs.sort_by_key(|(_, (_, to))| to.start);
        let mut values = Vec::new();
        let mut turned: Option<(usize, Vec<f32>)> = None;
        for (number, (from, to)) in runs {
            let (part, tensor) = &self.parts[number];
            let (cols, rows) = (part.cols(), to.len());
            let start = values.len();
            if part.is_turned {
                if turned.as_ref().is_none_or(|(of, _)| *of != number) {
                    turned = Some((number, self::turned(&self.weights.all(tensor)?, cols, part.rows())));
                }
                let all = turned.as_ref().map_or(&[][..], |(_, all)| all);
                values.extend_from_slice(&all[from * cols..(from + rows) * cols]);
            } else {
                values.reserve(rows * cols);
                self.weights.read(tensor, from * cols, rows * cols, &mut values)?;
            }
            if part.offset != 0.0 {
                values[start..].iter_mut().for_each(|value| *value += part.offset);
            }
        }
        Ok(values)
    }

    /// The decoder that the folder describes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// As [`recipe_of`] its model.
    /// # Errors
    /// When its sizes cannot be.
    pub fn recipe(&self, folder: &Path) -> Result<Recipe, TrainError> {
        recipe_of(&self.model, self.config.context, folder)
    }

    /// As [`write_run`] into `folder`.
    /// # Errors
    /// As there.
    pub fn write(&self, folder: &Path, model: &dyn Model) -> Result<(), TrainError> {
        write_run(folder, &self.recipe(folder)?, model, self.tokenizer.files()?, refuse, |name| self.values(name))
    }
}

/// Write a model from outside as a checkpoint of step 0 into `folder`, one shard of numbers in memory. `files` are kept with it.
/// # Errors
/// What `values` says of one of the model's arrays, numbers that are not finite, or when a file cannot be written; nothing is then visible.
pub fn write_run(
    folder: &Path,
    recipe: &Recipe,
    model: &dyn Model,
    files: checkpoint::TokenizerFiles,
    refuse: Refuse,
    values: impl Fn(&str) -> Result<Vec<f32>, TrainError>,
) -> Result<(), TrainError> {
    let snapshot = checkpoint::Snapshot {
        step: 0,
        recipe: recipe.to_toml(),
        held_out: None,
        state: serde_json::json!({}),
        data: None,
        tokenizer: std::sync::Arc::new(files),
        kernels: Vec::new(),
        tensors: Vec::new(),
    };
    let shapes: Vec<(&str, &[usize])> = model.params().specs().iter().map(|spec| (spec.name.as_str(), spec.shape.dims())).collect();
    std::fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    checkpoint::write_with(folder, &snapshot, &shapes, |i| {
        let (name, _) = shapes[i];
        let values = values(name)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(refuse("model.safetensors", format!("the numbers of `{name}` are not all finite")));
        }
        Ok(Cow::Owned(values))
    })?;
    Ok(())
}

/// A recipe of a `[model]` table from outside, whose data lie in `folder`, where it is going to be.
/// # Errors
/// When its sizes cannot be.
pub fn recipe_of(model: &toml::Table, context: usize, folder: &Path) -> Result<Recipe, TrainError> {
    let table = |key: &str, value: toml::Value| toml::Value::Table(toml::Table::from_iter([(key.to_owned(), value)]));
    let recipe = toml::Table::from_iter([
        ("name".to_owned(), toml::Value::from("imported")),
        ("batch".to_owned(), table("context", (context as i64).into())),
        ("data".to_owned(), table("path", folder.display().to_string().into())),
        ("model".to_owned(), toml::Value::Table(model.clone())),
    ]);
    Recipe::parse(&recipe.to_string(), "the imported model", &[])
}

/// What the weights hold of an output layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    /// None beside the embedding, or the same.
    Shared,
    /// Another than the embedding.
    ItsOwn,
    /// Nothing but it.
    Alone,
}

impl Head {
    /// Which transformers 5 takes where a flag says one thing and the tensors another.
    fn of(layout: &Layout, config: &DecoderConfig, weights: &Weights) -> Result<Self, TrainError> {
        let embed = (layout.parts)(config).into_iter().find(|part| part.pieces.iter().all(|piece| piece.ours == "embed.weight"));
        let embed = embed.and_then(|part| weights.get(names(&part.theirs)));
        let (Some((_, head)), true) = (weights.get(names(&head_name(layout, config))), config.tied) else { return Ok(Self::Shared) };
        let Some((_, embed)) = embed else { return Ok(Self::Alone) };
        if head.dims != embed.dims {
            return Ok(Self::ItsOwn);
        }
        let count = head.dims.iter().product::<usize>();
        for first in (0..count).step_by(1 << 22) {
            let now = (count - first).min(1 << 22);
            let (mut a, mut b) = (Vec::with_capacity(now), Vec::with_capacity(now));
            weights.read(head, first, now, &mut a)?;
            weights.read(embed, first, now, &mut b)?;
            if a != b {
                return Ok(Self::ItsOwn);
            }
        }
        Ok(Self::Shared)
    }
}

/// What this layout calls an output layer of its own.
fn head_name(layout: &Layout, config: &DecoderConfig) -> String {
    let untied = DecoderConfig { tied: false, layers: 0, ..config.clone() };
    let head = (layout.parts)(&untied).into_iter().find(|part| part.pieces.iter().any(|piece| piece.ours == "head.weight"));
    head.map_or_else(String::new, |part| part.theirs)
}

/// What a tensor may be called: a model without its head leaves out the first word.
fn names(name: &str) -> impl Iterator<Item = &str> + Clone {
    [Some(name), name.split_once('.').map(|(_, rest)| rest)].into_iter().flatten()
}

/// Masks and angles, which follow from the config, and the output layer that is the embedding.
fn follows(name: &str, tied_head: Option<&str>) -> bool {
    let ends = [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
    ends.iter().any(|end| name.ends_with(end)) || tied_head == Some(name)
}

/// How the names of layers begin that predict further tokens, which no other model uses.
fn further_layers(json: &Value, layers: usize) -> Vec<String> {
    let count = ["num_nextn_predict_layers", "num_mtp_layers"].iter().find_map(|key| json.get(key).and_then(Value::as_u64)).unwrap_or(0);
    (layers..layers + count.min(64) as usize).map(|i| format!("model.layers.{i}.")).collect()
}

fn refuse(key: &'static str, problem: String) -> TrainError {
    let kinds: Vec<&str> = layouts::ALL.iter().map(|layout| layout.kind).collect();
    TrainError::Value { key, problem, help: format!("the layouts that are known: {}", kinds.join(", ")) }
}

/// `[rows, cols]` to `[cols, rows]`.
fn turned(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for j in 0..cols {
        out.extend((0..rows).map(|i| x[i * cols + j]));
    }
    out
}
