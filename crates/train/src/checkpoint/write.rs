//! Writing: to a temporary name, hashed and synced, then one rename; on a thread of its own.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use safetensors::{Dtype, tensor::TensorView};

use super::{CheckpointError, Manifest, NamedTensor, ShardEntry, Snapshot, folder_name, list};

/// No shard is larger than this, unless one tensor is.
const SHARD_BYTES: usize = 1 << 30;

/// Writes snapshots in the background, one at a time, and keeps the last few and the best.
pub struct Writer {
    folder: PathBuf,
    keep_last: usize,
    at_work: Option<JoinHandle<Result<PathBuf, CheckpointError>>>,
}

impl Writer {
    /// For checkpoints in `folder`; what an interrupted writer left there is removed.
    #[must_use]
    pub fn new(folder: &Path, keep_last: usize) -> Self {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("step-") && name.to_string_lossy().ends_with(".tmp") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self { folder: folder.to_owned(), keep_last, at_work: None }
    }

    /// Hand over a snapshot and go on; waits only if the one before is still being written.
    /// # Errors
    /// What befell the one before.
    pub fn submit(&mut self, snapshot: Snapshot) -> Result<(), CheckpointError> {
        self.finish()?;
        let (folder, keep_last) = (self.folder.clone(), self.keep_last);
        self.at_work = Some(std::thread::spawn(move || {
            let path = write(&folder, &snapshot)?;
            retain(&folder, keep_last);
            Ok(path)
        }));
        Ok(())
    }

    /// Wait for what was handed over.
    /// # Errors
    /// What befell it.
    pub fn finish(&mut self) -> Result<(), CheckpointError> {
        match self.at_work.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(_))) => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// Write one checkpoint into `folder` and give its path.
/// # Errors
/// When a file cannot be written; nothing is then visible under the checkpoint's name.
pub fn write(folder: &Path, snapshot: &Snapshot) -> Result<PathBuf, CheckpointError> {
    let name = folder_name(snapshot.step);
    let (path, scratch) = (folder.join(&name), folder.join(format!("{name}.tmp")));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(CheckpointError::io("create", &scratch))?;
    let result = write_files(&scratch, snapshot).and_then(|()| {
        // The same step again, after a resume: the new one takes the old one's place, which may be damaged.
        let old = folder.join(format!("{name}.old.tmp"));
        if path.exists() {
            fs::rename(&path, &old).map_err(CheckpointError::io("replace", &path))?;
        }
        fs::rename(&scratch, &path).map_err(CheckpointError::io("create", &path))?;
        let _ = fs::remove_dir_all(&old);
        sync(folder)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    result.map(|()| path)
}

fn write_files(scratch: &Path, snapshot: &Snapshot) -> Result<(), CheckpointError> {
    let mut shards = Vec::new();
    for tensors in cut(&snapshot.tensors) {
        let views = tensors.iter().map(|t| view(t, scratch)).collect::<Result<Vec<_>, _>>()?;
        let bytes = safetensors::serialize(views, None::<HashMap<String, String>>);
        let bytes = bytes.map_err(|e| CheckpointError::Damaged { path: scratch.to_owned(), problem: e.to_string() })?;
        let file = format!("tensors-{:05}.safetensors", shards.len());
        let blake3 = write_file(&scratch.join(&file), &bytes)?;
        shards.push(ShardEntry { file, bytes: bytes.len() as u64, blake3 });
    }
    let Snapshot { step, recipe, bits_per_byte, state, .. } = snapshot.clone();
    let manifest = Manifest { version: 1, step, recipe, bits_per_byte, state, shards };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| CheckpointError::io("write", scratch)(e.into()))?;
    let hash = write_file(&scratch.join("manifest.json"), &text)?;
    write_file(&scratch.join("manifest.blake3"), hash.as_bytes())?;
    sync(scratch)
}

fn view<'a>(tensor: &'a NamedTensor, path: &Path) -> Result<(String, TensorView<'a>), CheckpointError> {
    let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.values));
    let wrong =
        |e: safetensors::SafeTensorError| CheckpointError::Damaged { path: path.to_owned(), problem: format!("{}: {e}", tensor.name) };
    Ok((tensor.name.clone(), view.map_err(wrong)?))
}

/// Runs of tensors that fill a shard.
fn cut(tensors: &[NamedTensor]) -> Vec<&[NamedTensor]> {
    let (mut runs, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if i > start && bytes + 4 * tensor.values.len() > SHARD_BYTES {
            runs.push(&tensors[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += 4 * tensor.values.len();
    }
    runs.push(&tensors[start..]);
    runs
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<String, CheckpointError> {
    fs::write(path, bytes).map_err(CheckpointError::io("write", path))?;
    sync(path)?;
    Ok(blake3::hash(bytes).to_hex().to_string())
}

fn sync(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(CheckpointError::io("sync", path))
}

/// Remove all but the last `keep_last` and the best by held-out loss.
fn retain(folder: &Path, keep_last: usize) {
    let all = list(folder);
    let loss = |path: &Path| super::read::bits_per_byte(path).unwrap_or(f64::INFINITY);
    let best = all.iter().map(|(step, path)| (loss(path), *step)).min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let old = all.len().saturating_sub(keep_last.max(1));
    for (step, path) in all.iter().take(old) {
        if best.is_none_or(|(_, best)| best != *step) {
            let _ = fs::remove_dir_all(path);
        }
    }
}
