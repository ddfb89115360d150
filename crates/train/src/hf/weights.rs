//! The weights of a folder, read where they lie: of each tensor only the rows that are asked for are in memory.
//!
//! Of several files that could hold them, those that transformers 5 takes: `model.safetensors`, its index, `pytorch_model.bin`, its index.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use safetensors::tensor::Metadata;
use serde_json::Value;

use super::{
    LARGEST_BYTES,
    number::{Found, Number},
    pickle,
};
use crate::TrainError;

/// Of a safetensors header.
const LARGEST_HEADER_BYTES: u64 = 100 << 20;
const FILES: [(&str, &str); 3] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// How a problem of a file becomes an error, with the layouts that are known where it is asked.
pub type Refuse = fn(&'static str, String) -> TrainError;

/// See the head of this file.
pub struct Weights {
    refuse: Refuse,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Tensor>,
}

/// Where one tensor lies.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub dims: Vec<usize>,
    kind: Number,
    /// The number of its file, and where in it the first number begins.
    file: usize,
    start: u64,
}

impl Weights {
    /// Read where each tensor of `folder` lies.
    /// # Errors
    /// When there are no weights, or a file is torn, is no such file, or an index names one outside of the folder.
    pub fn open(folder: &Path, refuse: Refuse) -> Result<Self, TrainError> {
        let mut all = Self { refuse, files: Vec::new(), tensors: BTreeMap::new() };
        for (whole, index) in FILES {
            let is_pickle = whole.ends_with(".bin");
            let names = if folder.join(whole).is_file() {
                vec![whole.to_owned()]
            } else if folder.join(index).is_file() {
                files_of(folder, index, refuse)?
            } else {
                continue;
            };
            for name in names {
                all.add(&folder.join(&name), &name, is_pickle)?;
            }
            return Ok(all);
        }
        let beside = if folder.join("model.gguf").exists() { " (a `.gguf` file is not read)" } else { "" };
        let problem =
            format!("`{}` holds neither `model.safetensors` nor `pytorch_model.bin`, nor an index of either{beside}", folder.display());
        Err(refuse("model.safetensors", problem))
    }

    fn add(&mut self, path: &Path, name: &str, is_pickle: bool) -> Result<(), TrainError> {
        let file = File::open(path).map_err(TrainError::io("read", path))?;
        let found = if is_pickle { pickle::tensors(&file) } else { header(&file) };
        let number = self.files.len();
        let wrong = |problem| (self.refuse)("model.safetensors", format!("`{name}`: {problem}"));
        for (tensor, dims, kind, start) in found.map_err(wrong)? {
            self.tensors.insert(tensor, Tensor { dims, kind, file: number, start });
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The tensor that has one of these names, the first of them that there is, and that name.
    #[must_use]
    pub fn get<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Option<(&str, &Tensor)> {
        names.into_iter().find_map(|name| self.tensors.get_key_value(name)).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The same, of these dimensions and of numbers that weights are kept in.
    /// # Errors
    /// When there is none, or it is another.
    pub fn find<'n>(&self, names: impl IntoIterator<Item = &'n str> + Clone, dims: &[usize]) -> Result<(&str, &Tensor), TrainError> {
        let wrong = |problem| (self.refuse)("model.safetensors", problem);
        let first = names.clone().into_iter().next().unwrap_or_default();
        let (name, tensor) = self.get(names).ok_or_else(|| wrong(format!("`{first}` is missing")))?;
        if tensor.dims != dims {
            return Err(wrong(format!("`{first}` is {:?}, and config.json wants {dims:?}", tensor.dims)));
        }
        if let Number::Other(what) = tensor.kind {
            return Err(wrong(format!("`{first}` holds {what}: weights that were quantised are not read")));
        }
        Ok((name, tensor))
    }

    /// All numbers of a tensor.
    /// # Errors
    /// As [`Weights::read`].
    pub fn all(&self, tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
        let count = tensor.dims.iter().product();
        let mut values = Vec::with_capacity(count);
        self.read(tensor, 0, count, &mut values)?;
        Ok(values)
    }

    /// Of all its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The numbers of `tensor` from the one at `first` on, so many, behind those of `to`.
    /// # Errors
    /// When the file has become shorter.
    pub fn read(&self, tensor: &Tensor, first: usize, count: usize, to: &mut Vec<f32>) -> Result<(), TrainError> {
        /// Bytes read at one time.
        const PIECE: usize = 1 << 20;
        let (path, file) = &self.files[tensor.file];
        let size = tensor.kind.bytes();
        let mut piece = vec![0; PIECE.min(count * size)];
        let (mut at, mut left) = (tensor.start + (first * size) as u64, count * size);
        while left > 0 {
            let now = &mut piece[..left.min(PIECE)];
            file.read_exact_at(now, at).map_err(TrainError::io("read", path))?;
            tensor.kind.read(now, to);
            (at, left) = (at + now.len() as u64, left - now.len());
        }
        Ok(())
    }
}

/// The tensors of a safetensors file, by its header.
fn header(mut file: &File) -> Result<Vec<Found>, String> {
    let mut len = [0; 8];
    file.read_exact(&mut len).map_err(|_| "it ends before its header".to_owned())?;
    let len = u64::from_le_bytes(len);
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    if len > LARGEST_HEADER_BYTES || len + 8 > size {
        return Err(format!("its header would be {len} bytes of {size}"));
    }
    let mut text = vec![0; len as usize];
    file.read_exact(&mut text).map_err(|e| e.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| format!("its header is damaged: {e}"))?;
    let start = 8 + len;
    let mut all = Vec::new();
    for (name, info) in metadata.tensors() {
        if start + info.data_offsets.1 as u64 > size {
            return Err(format!("it ends within `{name}`"));
        }
        all.push((name, info.shape.clone(), Number::of(info.dtype), start + info.data_offsets.0 as u64));
    }
    Ok(all)
}

/// The files that an index names.
fn files_of(folder: &Path, index: &'static str, refuse: Refuse) -> Result<Vec<String>, TrainError> {
    let path = folder.join(index);
    let text = disk::read_text(&path, LARGEST_BYTES).map_err(TrainError::io("read", &path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| refuse(index, e.to_string()))?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| refuse(index, "`weight_map` is missing".into()))?;
    let names: std::collections::BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    for name in &names {
        if let Err(problem) = disk::plain_name(name) {
            return Err(refuse(index, format!("the name `{name}` {problem}")));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}
