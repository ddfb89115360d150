//! Writing a folder: tensors one by one, so that no second copy of the weights is in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use data::Tokenizer;
use models::decoder::{DecoderConfig, Norm};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::{layouts::Layout, parts::Part, refuse, turned};
use crate::{TrainError, run::Loaded};

/// How weights are written.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub numbers: Numbers,
    /// No file of weights is larger, unless one tensor is.
    pub shard_bytes: u64,
}

impl Default for Format {
    fn default() -> Self {
        Self { numbers: Numbers::F32, shard_bytes: 5_000_000_000 }
    }
}

/// What a weight is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    F32,
    /// Rounded to the nearest.
    Bf16,
    /// The same; numbers beyond 65,504 are refused.
    F16,
}

impl Numbers {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// Write `loaded` to `folder`, which comes whole or not at all where nothing stands yet; of one that does, files that are no weights stay.
/// # Errors
/// When no layout holds such a model, naming what stands in the way, or a file cannot be written.
pub fn export(loaded: &Loaded, tokenizer: &Tokenizer, folder: &Path, format: Format) -> Result<(), TrainError> {
    if folder.symlink_metadata().is_ok() {
        return write(loaded, tokenizer, folder, format);
    }
    let part = disk::beside(folder, ".part");
    let _ = fs::remove_dir_all(&part);
    let written =
        write(loaded, tokenizer, &part, format).and_then(|()| fs::rename(&part, folder).map_err(TrainError::io("create", folder)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    written
}

fn write(loaded: &Loaded, tokenizer: &Tokenizer, folder: &Path, format: Format) -> Result<(), TrainError> {
    let config = loaded.model.language().and_then(|l| l.decoder()).ok_or(TrainError::NotLanguage)?;
    if !config.head.has_tokens() {
        return Err(refuse("model.head", "a model that ends in one number has no Hugging Face layout here: export the policy".into()));
    }
    // A norm of the embedding is the same for a token wherever it stands: it goes into the table, where nothing else reads that.
    let is_folded = config.embed_norm && !config.tied && config.norm == Norm::RmsNorm && config.embed_scale.is_none();
    let config = &DecoderConfig { embed_norm: config.embed_norm && !is_folded, ..config.clone() };
    let layout = Layout::of(config)?;
    fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let parts = (layout.parts)(config);
    let arrays: Vec<Written<'_>> = parts.iter().map(|part| Written { part, loaded, is_folded, numbers: format.numbers }).collect();
    if format.numbers == Numbers::F16 {
        let beyond = |array: &&Written<'_>| array.values().iter().any(|value| value.abs() > 65_504.0);
        if let Some(array) = arrays.iter().find(beyond) {
            let problem = format!("`{}` has numbers that f16 cannot hold", array.part.theirs);
            return Err(TrainError::Value { key: "model", problem, help: "export it with `--dtype bf16` or `f32`".into() });
        }
    }
    write_weights(&arrays, folder, format)?;
    write_texts(layout, config, tokenizer, folder, format)
}

/// One tensor of theirs, made when it is written.
#[derive(Clone, Copy)]
struct Written<'a> {
    part: &'a Part,
    loaded: &'a Loaded,
    is_folded: bool,
    numbers: Numbers,
}

impl Written<'_> {
    fn values(&self) -> Vec<f32> {
        let (part, cols) = (self.part, self.part.cols());
        let mut all = Vec::with_capacity(part.rows() * cols);
        for piece in &part.pieces {
            let rows = piece.rows.start * cols..piece.rows.end * cols;
            all.extend_from_slice(self.array(&piece.ours).get(rows).unwrap_or_default());
        }
        if part.offset != 0.0 {
            all.iter_mut().for_each(|value| *value -= part.offset);
        }
        if part.is_turned { turned(&all, part.rows(), cols) } else { all }
    }

    fn array(&self, name: &str) -> Cow<'_, [f32]> {
        let table = self.loaded.model.params();
        let plain = |name: &str| table.find(name).map_or(&[][..], |id| self.loaded.store.value(id));
        let values = plain(name);
        let Some(config) = self.loaded.model.language().and_then(|l| l.decoder()).filter(|_| self.is_folded && name == "embed.weight")
        else {
            return Cow::Borrowed(values);
        };
        let (mut normed, mut inv_rms) = (values.to_vec(), vec![0.0; config.vocab]);
        kernels::norm::rms_norm(values, plain("embed.norm.weight"), config.eps, &mut normed, &mut inv_rms);
        Cow::Owned(normed)
    }

    fn bytes(&self) -> u64 {
        (self.part.dims.iter().product::<usize>() * self.numbers.bytes()) as u64
    }
}

/// Its shape beside it, which the trait wants by reference.
struct Shaped<'a>(Written<'a>, Vec<usize>);

impl View for Shaped<'_> {
    fn dtype(&self) -> Dtype {
        self.0.numbers.dtype()
    }
    fn shape(&self) -> &[usize] {
        &self.1
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.values();
        Cow::Owned(match self.0.numbers {
            Numbers::F32 => bytemuck::cast_slice(&values).to_vec(),
            Numbers::Bf16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
            Numbers::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        })
    }
    fn data_len(&self) -> usize {
        self.0.bytes() as usize
    }
}

/// One file, or several and an index; files of weights of another time are removed, since they would be read in their place.
fn write_weights(arrays: &[Written<'_>], folder: &Path, format: Format) -> Result<(), TrainError> {
    let mut shards: Vec<Vec<Written<'_>>> = Vec::new();
    let mut room = 0;
    for array in arrays {
        match shards.last_mut() {
            Some(shard) if array.bytes() <= room => shard.push(*array),
            _ => {
                shards.push(vec![*array]);
                room = format.shard_bytes;
            }
        }
        room = room.saturating_sub(array.bytes());
    }
    let count = shards.len();
    let name = |i: usize| if count == 1 { "model.safetensors".to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with("model") && (file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json")) {
            fs::remove_file(entry.path()).map_err(TrainError::io("remove", &entry.path()))?;
        }
    }
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let path = folder.join(name(i));
        let scratch = disk::beside(&path, ".part");
        let views: Vec<(&str, Shaped<'_>)> =
            shard.iter().map(|one| (one.part.theirs.as_str(), Shaped(*one, one.part.their_dims()))).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &scratch).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(source) => TrainError::io("write", &path)(source),
            other => refuse("model.safetensors", other.to_string()),
        })?;
        let synced = fs::File::open(&scratch).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&scratch, &path));
        synced.map_err(TrainError::io("write", &path))?;
        map.extend(shard.iter().map(|one| (one.part.theirs.clone(), name(i))));
    }
    if count > 1 {
        let total: u64 = arrays.iter().map(Written::bytes).sum();
        text(folder, "model.safetensors.index.json", &json!({"metadata": {"total_size": total}, "weight_map": map}))?;
    }
    Ok(())
}

fn text(folder: &Path, name: &str, value: &Value) -> Result<(), TrainError> {
    let path = folder.join(name);
    disk::write(&path, format!("{value:#}\n")).map_err(TrainError::io("write", &path))
}

/// The configuration, the tokenizer, and what begins and ends a text.
fn write_texts(layout: &Layout, config: &DecoderConfig, tokenizer: &Tokenizer, folder: &Path, format: Format) -> Result<(), TrainError> {
    let (tokens, has_begin) = tokenizer.for_others()?;
    let path = folder.join("tokenizer.json");
    disk::write(&path, tokens).map_err(TrainError::io("write", &path))?;
    let ends = tokenizer.ends();
    let begin = ends.before_prompt.first().filter(|_| has_begin).copied();
    let stops = if let [stop] = ends.stops[..] { json!(stop) } else { json!(ends.stops) };
    let mut model = layout.config(config);
    (model["bos_token_id"], model["eos_token_id"]) = (json!(begin), stops.clone());
    // By the name that programs know now, and by the one before.
    (model["dtype"], model["torch_dtype"]) = (json!(format.numbers.name()), json!(format.numbers.name()));
    text(folder, "config.json", &model)?;
    text(folder, "generation_config.json", &json!({"_from_model_config": true, "bos_token_id": begin, "eos_token_id": stops}))?;
    let mut own = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context, "clean_up_tokenization_spaces": false,
        "eos_token": tokenizer.name(ends.end_of_text), "bos_token": begin.and_then(|id| tokenizer.name(id)),
        "add_bos_token": begin.is_some(), "add_eos_token": false,
    });
    for (key, value) in tokenizer.kept() {
        own[key] = value.clone();
    }
    text(folder, "tokenizer_config.json", &own)?;
    if let Some(template) = tokenizer.chat_template() {
        let path = folder.join("chat_template.jinja");
        disk::write(&path, template).map_err(TrainError::io("write", &path))?;
    }
    Ok(())
}
