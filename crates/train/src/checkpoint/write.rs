//! Writing: to a temporary name, hashed and synced, then published; on a thread of its own.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
};

use safetensors::{Dtype, tensor::TensorView};
use store::{Folder, Store, StoreError};

use super::{CheckpointError, FileEntry, Keep, Manifest, Snapshot, Uploader, VERSION, folder_name, retain};

/// No shard is larger than this, unless one tensor is: so much is in memory beside the tensors.
const SHARD_BYTES: usize = 256 << 20;

/// Writes snapshots in the background, one at a time, and keeps the last few, the best, and the one from which more steps can
/// be made; where the run goes to a store too, hands each on to be uploaded.
pub struct Writer {
    folder: PathBuf,
    keep: Keep,
    uploader: Option<Arc<Uploader>>,
    at_work: Option<JoinHandle<Result<PathBuf, CheckpointError>>>,
}

impl Writer {
    /// For checkpoints in `folder`; what an interrupted writer left there is removed.
    #[must_use]
    pub fn new(folder: &Path, keep: Keep, uploader: Option<Uploader>) -> Self {
        let store = Folder::new(folder);
        for name in store.unfinished().into_iter().flatten().filter(|name| name.starts_with("step-")) {
            let _ = store.remove(&name);
        }
        Self { folder: folder.to_owned(), keep, uploader: uploader.map(Arc::new), at_work: None }
    }

    /// Hand over a snapshot and go on; waits only if the one before is still being written, or too many are to be uploaded and nobody
    /// wants to `stop`.
    /// # Errors
    /// What befell the one before.
    pub fn submit(&mut self, snapshot: Snapshot, stop: &AtomicBool) -> Result<(), CheckpointError> {
        self.finish()?;
        if let Some(uploader) = &self.uploader {
            uploader.wait_for_room(stop)?;
        }
        let (folder, keep, uploader) = (self.folder.clone(), self.keep, self.uploader.clone());
        self.at_work = Some(std::thread::spawn(move || {
            let path = write(&folder, &snapshot)?;
            // Before it may go: the upload has names of its own for its files.
            uploader.map_or(Ok(()), |uploader| uploader.submit(&path))?;
            // What cannot be removed now is tried again with the next.
            let _ = retain::retain(&Folder::new(&folder), keep, snapshot.step);
            Ok(path)
        }));
        Ok(())
    }

    /// Upload a checkpoint that is written already.
    /// # Errors
    /// When nothing can be uploaded any more.
    pub fn upload(&mut self, path: &Path) -> Result<(), CheckpointError> {
        self.uploader.as_ref().map_or(Ok(()), |uploader| uploader.submit(path))
    }

    /// What a person should read of uploads since the last time.
    pub fn notes(&mut self) -> Vec<String> {
        self.uploader.as_ref().map_or_else(Vec::new, |uploader| uploader.notes())
    }

    /// How many checkpoints are not uploaded yet.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.uploader.as_ref().map_or(0, |uploader| uploader.behind())
    }

    /// [`Writer::finish`], and wait until all is uploaded: for minutes only, where the machine `is_going`.
    /// # Errors
    /// What befell it.
    pub fn close(&mut self, is_going: bool) -> Result<(), CheckpointError> {
        self.finish()?;
        self.uploader.as_ref().map_or(Ok(()), |uploader| uploader.finish(is_going))
    }

    /// What befell the last one, if it is known by now; does not wait.
    /// # Errors
    /// That.
    pub fn look(&mut self) -> Result<(), CheckpointError> {
        if self.at_work.as_ref().is_some_and(JoinHandle::is_finished) { self.finish() } else { Ok(()) }
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
    let shapes: Vec<_> = snapshot.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    write_with(folder, snapshot, &shapes, |i| Ok(Cow::Borrowed(&snapshot.tensors[i].values[..])))
}

/// Write one checkpoint whose tensors, by name and shape, come one by one: one shard of them is in memory.
/// # Errors
/// What `values` says, or when a file cannot be written; nothing is then visible under the checkpoint's name.
pub fn write_with<'a, E: From<CheckpointError>>(
    folder: &Path,
    snapshot: &Snapshot,
    shapes: &[(&str, &[usize])],
    values: impl Fn(usize) -> Result<Cow<'a, [f32]>, E>,
) -> Result<PathBuf, E> {
    let name = folder_name(snapshot.step);
    let store = Folder::new(folder);
    let (path, scratch) = (folder.join(&name), store.scratch(&name));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(CheckpointError::io("create", &scratch))?;
    // The same step again, after a resume: the new one takes the old one's place, which may be damaged.
    let publish = || {
        store.publish(&scratch, &name).map_err(|error| match error {
            StoreError::Io { action, path, source } => CheckpointError::Io { action, path, source },
            other => other.into(),
        })
    };
    let result = write_files(&scratch, snapshot, shapes, values).and_then(|()| Ok(publish()?));
    if result.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    result.map(|()| path)
}

fn write_files<'a, E: From<CheckpointError>>(
    scratch: &Path,
    snapshot: &Snapshot,
    shapes: &[(&str, &[usize])],
    values: impl Fn(usize) -> Result<Cow<'a, [f32]>, E>,
) -> Result<(), E> {
    let mut shards = Vec::new();
    for run in cut(shapes) {
        let arrays = run.clone().map(&values).collect::<Result<Vec<_>, E>>()?;
        let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if let Some((i, _)) = run.clone().zip(&arrays).find(|(_, values)| !is_finite(values)) {
            return Err(CheckpointError::NotFinite { name: shapes[i].0.to_owned(), step: snapshot.step }.into());
        }
        let views = run.zip(&arrays).map(|(i, values)| view(shapes[i], values, scratch)).collect::<Result<Vec<_>, _>>()?;
        let bytes = safetensors::serialize(views, None::<HashMap<String, String>>);
        let bytes = bytes.map_err(|e| CheckpointError::Damaged { path: scratch.to_owned(), problem: e.to_string() })?;
        drop(arrays);
        shards.push(write_file(scratch, format!("tensors-{:05}.safetensors", shards.len()), &bytes)?);
    }
    let tokenizer = snapshot.tokenizer.iter().map(|(name, bytes)| write_file(scratch, name.clone(), bytes)).collect::<Result<_, _>>()?;
    let Snapshot { step, recipe, held_out, state, data, kernels, .. } = snapshot;
    let manifest = Manifest {
        version: VERSION,
        step: *step,
        recipe: recipe.clone(),
        held_out: *held_out,
        state: state.clone(),
        data: data.clone(),
        kernels: kernels.clone(),
        shards,
        tokenizer,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| CheckpointError::io("write", scratch)(e.into()))?;
    let entry = write_file(scratch, "manifest.json".into(), &text)?;
    write_file(scratch, "manifest.blake3".into(), entry.blake3.as_bytes())?;
    Ok(())
}

fn view<'a>((name, shape): (&str, &[usize]), values: &'a [f32], path: &Path) -> Result<(String, TensorView<'a>), CheckpointError> {
    let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values));
    let wrong = |e: safetensors::SafeTensorError| CheckpointError::Damaged { path: path.to_owned(), problem: format!("{name}: {e}") };
    Ok((name.to_owned(), view.map_err(wrong)?))
}

/// Runs of tensors that fill a shard.
fn cut(shapes: &[(&str, &[usize])]) -> Vec<Range<usize>> {
    let (mut runs, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, (_, shape)) in shapes.iter().enumerate() {
        let own = 4 * shape.iter().product::<usize>();
        if i > start && bytes + own > SHARD_BYTES {
            runs.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += own;
    }
    runs.push(start..shapes.len());
    runs
}

fn write_file(folder: &Path, file: String, bytes: &[u8]) -> Result<FileEntry, CheckpointError> {
    let path = folder.join(&file);
    fs::write(&path, bytes).map_err(CheckpointError::io("write", &path))?;
    sync(&path)?;
    Ok(FileEntry { file, bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() })
}

fn sync(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(CheckpointError::io("sync", path))
}
