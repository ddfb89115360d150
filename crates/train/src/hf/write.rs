//! Writing a folder of any layout: tensors one by one, so that no second copy of the weights is in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::{TrainError, checkpoint::CheckpointError};

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

impl Format {
    /// Say in a `config.json` what weights are written as, by the name that programs know now, and by the one before.
    pub fn tell(self, config: &mut Value) {
        (config["dtype"], config["torch_dtype"]) = (json!(self.numbers.name()), json!(self.numbers.name()));
    }
}

/// One tensor, whose numbers are made when it is written.
pub struct Array<'a> {
    pub name: String,
    pub dims: Vec<usize>,
    pub values: Box<dyn Fn() -> Cow<'a, [f32]> + 'a>,
}

impl Array<'_> {
    fn bytes(&self, numbers: Numbers) -> u64 {
        (self.dims.iter().product::<usize>() * numbers.bytes()) as u64
    }
}

/// Let `write` fill `folder`, which comes whole or not at all where nothing stands yet; at a URL, it is published there.
/// # Errors
/// What `write` says, or when the folder cannot be made or published.
pub fn write_folder(folder: &Path, write: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
    let create = |path: &Path| fs::create_dir_all(path).map_err(TrainError::io("create", path));
    if store::is_url(folder) {
        let store = store::open(folder).map_err(CheckpointError::from)?;
        let part = store::cache(&folder.to_string_lossy()).join("export");
        let _ = fs::remove_dir_all(&part);
        let written = create(&part).and_then(|()| write(&part));
        let published = written.and_then(|()| Ok(store.publish(&part, "").map_err(CheckpointError::from)?));
        let _ = fs::remove_dir_all(&part);
        return published;
    }
    if folder.symlink_metadata().is_ok() {
        return create(folder).and_then(|()| write(folder));
    }
    let part = disk::beside(folder, ".part");
    let _ = fs::remove_dir_all(&part);
    let written = create(&part).and_then(|()| write(&part));
    let written = written.and_then(|()| fs::rename(&part, folder).map_err(TrainError::io("create", folder)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    written
}

/// One text of JSON.
/// # Errors
/// When it cannot be written.
pub fn write_json(folder: &Path, name: &str, value: &Value) -> Result<(), TrainError> {
    let path = folder.join(name);
    disk::write(&path, format!("{value:#}\n")).map_err(TrainError::io("write", &path))
}

/// Write weights as one file that begins with `stem`, or as several and an index. What another export left of weights is removed once these are whole, since some of it
/// would be read in their place.
/// # Errors
/// When a file cannot be written, or a number is beyond what it is to be written as.
pub fn write_weights(arrays: &[Array<'_>], folder: &Path, stem: &str, format: Format) -> Result<(), TrainError> {
    if format.numbers == Numbers::F16 {
        let beyond = |array: &&Array<'_>| (array.values)().iter().any(|value| value.abs() > 65_504.0);
        if let Some(array) = arrays.iter().find(beyond) {
            let problem = format!("`{}` has numbers that f16 cannot hold", array.name);
            return Err(TrainError::Value { key: "model", problem, help: "export it with `--dtype bf16` or `f32`".into() });
        }
    }
    let shards = cut(arrays, format);
    let count = shards.len();
    let [whole, index] = [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")];
    let name = |i: usize| if count == 1 { whole.clone() } else { format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1) };
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let path = folder.join(name(i));
        let scratch = disk::beside(&path, ".part");
        let views: Vec<(&str, Written<'_, '_>)> = shard.iter().map(|one| (one.name.as_str(), Written(one, format.numbers))).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &scratch).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(source) => TrainError::io("write", &path)(source),
            other => TrainError::io("write", &path)(std::io::Error::other(other.to_string())),
        })?;
        let synced = fs::File::open(&scratch).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&scratch, &path));
        synced.map_err(TrainError::io("write", &path))?;
        map.extend(shard.iter().map(|one| (one.name.clone(), name(i))));
    }
    let mut written: BTreeSet<String> = (0..count).map(name).collect();
    if count > 1 {
        let total: u64 = arrays.iter().map(|array| array.bytes(format.numbers)).sum();
        write_json(folder, &index, &json!({"metadata": {"total_size": total}, "weight_map": map}))?;
        written.insert(index);
    }
    for entry in fs::read_dir(folder).map_err(TrainError::io("list", folder))?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if is_weights(&file, stem) && !written.contains(&file) {
            fs::remove_file(entry.path()).map_err(TrainError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// What files of weights begin with, of transformers and of diffusers.
pub const STEMS: [&str; 2] = ["model", "diffusion_pytorch_model"];

/// Whether it is what an export calls a file of weights: `model-00002-of-00007.safetensors`.
fn is_weights(file: &str, stem: &str) -> bool {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = file.strip_prefix(stem) else { return false };
    let numbers = rest.strip_prefix('-').and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"));
    [".safetensors", ".safetensors.index.json"].contains(&rest) || numbers.is_some_and(|(i, count)| is_number(i) && is_number(count))
}

/// Runs of arrays that fill a file.
fn cut<'s, 'a>(arrays: &'s [Array<'a>], format: Format) -> Vec<&'s [Array<'a>]> {
    let (mut runs, mut start, mut room) = (Vec::new(), 0, format.shard_bytes);
    for (i, array) in arrays.iter().enumerate() {
        let bytes = array.bytes(format.numbers);
        if i > start && bytes > room {
            runs.push(&arrays[start..i]);
            (start, room) = (i, format.shard_bytes);
        }
        room = room.saturating_sub(bytes);
    }
    runs.push(&arrays[start..]);
    runs
}

struct Written<'s, 'a>(&'s Array<'a>, Numbers);

impl View for Written<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.1.dtype()
    }
    fn shape(&self) -> &[usize] {
        &self.0.dims
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let values = (self.0.values)();
        Cow::Owned(match self.1 {
            Numbers::F32 => bytemuck::cast_slice(&values).to_vec(),
            Numbers::Bf16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
            Numbers::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        })
    }
    fn data_len(&self) -> usize {
        self.0.bytes(self.1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays<'a>() -> Vec<Array<'a>> {
        let one = |name: &str| Array { name: name.to_owned(), dims: vec![4], values: Box::new(|| Cow::Owned(vec![1.0, 2.0, 3.0, 7e4])) };
        vec![one("a"), one("b"), one("c")]
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn an_export_over_another_leaves_its_own_weights_and_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let kept = ["model-best.safetensors", "model_lora.safetensors", "notes.txt"];
        kept.iter().for_each(|name| fs::write(folder.path().join(name), "mine").unwrap());
        let small = Format { shard_bytes: 20, ..Format::default() };
        write_weights(&arrays(), folder.path(), STEMS[0], small).unwrap();
        let shards = (1..=3).map(|i| format!("model-0000{i}-of-00003.safetensors"));
        let with_kept = |own: Vec<String>| {
            let mut all: Vec<String> = own.into_iter().chain(kept.map(str::to_owned)).collect();
            all.sort();
            all
        };
        assert_eq!(files(folder.path()), with_kept(shards.chain(["model.safetensors.index.json".to_owned()]).collect()));
        write_weights(&arrays(), folder.path(), STEMS[0], Format::default()).unwrap();
        assert_eq!(files(folder.path()), with_kept(vec!["model.safetensors".to_owned()]));
        // What is refused leaves what was there.
        let half = Format { numbers: Numbers::F16, ..small };
        assert!(write_weights(&arrays(), folder.path(), STEMS[0], half).unwrap_err().to_string().contains("f16"));
        assert_eq!(files(folder.path()), with_kept(vec!["model.safetensors".to_owned()]));
    }
}
