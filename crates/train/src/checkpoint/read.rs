//! Reading: every hash is checked before a number is used.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{CheckpointError, Manifest, NamedTensor, Snapshot, step_of};

/// Checkpoints of a folder by step, oldest first, whole or not.
#[must_use]
pub fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = entries.filter(|path| path.is_dir()).filter_map(|path| Some((step_of(&path)?, path))).collect();
    all.sort();
    all
}

/// The newest whole checkpoint of `folder`, and what is wrong with newer ones.
/// # Errors
/// [`CheckpointError::None`] when there are checkpoints and all are damaged; `None` when there are none.
pub fn latest_whole(folder: &Path) -> Result<Option<(PathBuf, Snapshot, Vec<CheckpointError>)>, CheckpointError> {
    let mut damaged = Vec::new();
    for (_, path) in list(folder).into_iter().rev() {
        match read(&path) {
            Ok(snapshot) => return Ok(Some((path, snapshot, damaged))),
            Err(error) => damaged.push(error),
        }
    }
    if damaged.is_empty() { Ok(None) } else { Err(CheckpointError::None { folder: folder.to_owned() }) }
}

/// Read one checkpoint.
/// # Errors
/// When a file is missing or any byte of it has changed.
pub fn read(path: &Path) -> Result<Snapshot, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let manifest = manifest(path)?;
    let mut tensors = Vec::new();
    for shard in &manifest.shards {
        disk::plain_name(&shard.file).map_err(|e| damaged(format!("the name `{}` {e}", shard.file)))?;
        let file = path.join(&shard.file);
        let bytes = disk::read(&file, u64::MAX).map_err(|e| damaged(format!("`{}`: {e}", shard.file)))?;
        let got = blake3::hash(&bytes).to_hex();
        if got.as_str() != shard.blake3 {
            return Err(damaged(format!("the hash of `{}` is {got}, the manifest says {}", shard.file, shard.blake3)));
        }
        let views = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("`{}`: {e}", shard.file)))?;
        for (name, view) in views.iter() {
            let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            tensors.push(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values });
        }
    }
    let Manifest { step, recipe, bits_per_byte, state, .. } = manifest;
    // The order of the files' own tables is not the order of writing.
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Snapshot { step, recipe, bits_per_byte, state, tensors })
}

/// Of a manifest.
const LARGEST_BYTES: u64 = 64 << 20;

fn manifest(path: &Path) -> Result<Manifest, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let text = disk::read(&path.join("manifest.json"), LARGEST_BYTES).map_err(|e| damaged(format!("`manifest.json`: {e}")))?;
    let want = disk::read(&path.join("manifest.blake3"), LARGEST_BYTES).map_err(|e| damaged(format!("`manifest.blake3`: {e}")))?;
    if blake3::hash(&text).to_hex().as_bytes() != want {
        return Err(damaged("the hash of `manifest.json` is not that in `manifest.blake3`".into()));
    }
    serde_json::from_slice(&text).map_err(|e| damaged(format!("`manifest.json`: {e}")))
}

/// Held-out loss as the manifest tells it, without reading tensors.
pub(super) fn bits_per_byte(path: &Path) -> Option<f64> {
    manifest(path).ok()?.bits_per_byte
}
