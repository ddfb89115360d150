//! Writing: to a temporary name, hashed and synced, then one rename; on a thread of its own.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use safetensors::{Dtype, tensor::TensorView};

use super::{CheckpointError, FileEntry, Manifest, Snapshot, VERSION, folder_name, list, read::manifest};

/// No shard is larger than this, unless one tensor is: so much is in memory beside the tensors.
const SHARD_BYTES: usize = 256 << 20;

/// Which checkpoints stay.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// So many of the newest.
    pub last: usize,
    /// The one of this step: the last before the learning rate comes down.
    pub stable_step: Option<u64>,
}

/// Writes snapshots in the background, one at a time, and keeps the last few, the best, and the one from which more steps can
/// be made.
pub struct Writer {
    folder: PathBuf,
    keep: Keep,
    at_work: Option<JoinHandle<Result<PathBuf, CheckpointError>>>,
}

impl Writer {
    /// For checkpoints in `folder`; what an interrupted writer left there is removed.
    #[must_use]
    pub fn new(folder: &Path, keep: Keep) -> Self {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("step-") && name.to_string_lossy().ends_with(".tmp") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self { folder: folder.to_owned(), keep, at_work: None }
    }

    /// Hand over a snapshot and go on; waits only if the one before is still being written.
    /// # Errors
    /// What befell the one before.
    pub fn submit(&mut self, snapshot: Snapshot) -> Result<(), CheckpointError> {
        self.finish()?;
        let (folder, keep) = (self.folder.clone(), self.keep);
        self.at_work = Some(std::thread::spawn(move || {
            let path = write(&folder, &snapshot)?;
            retain(&folder, keep, snapshot.step);
            Ok(path)
        }));
        Ok(())
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
    let (path, scratch) = (folder.join(&name), folder.join(format!("{name}.tmp")));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(CheckpointError::io("create", &scratch))?;
    // The same step again, after a resume: the new one takes the old one's place, which may be damaged.
    let swap = || disk::swap_folder(&scratch, &path).map_err(CheckpointError::io("create", &path));
    let result = write_files(&scratch, snapshot, shapes, values).and_then(|()| Ok(swap()?));
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
    Ok(sync(scratch)?)
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

/// Of the checkpoints up to the one of `step`, which is whole, remove all but those that `keep` names and the best by held-out
/// loss. Later ones are damaged or of another future: nothing is known of them.
fn retain(folder: &Path, keep: Keep, step: u64) {
    let all: Vec<_> = list(folder).into_iter().filter(|(other, _)| *other <= step).collect();
    let best = best(&all);
    let old = all.len().saturating_sub(keep.last.max(1));
    for (step, path) in all.iter().take(old) {
        if best != Some(*step) && keep.stable_step != Some(*step) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// The step of the checkpoint with the best held-out metric, of those measured on as many windows as the newest; of equal ones
/// the later.
fn best(all: &[(u64, PathBuf)]) -> Option<u64> {
    let measured = |(step, path): &(u64, PathBuf)| {
        let manifest = manifest(path).ok()?;
        let windows = crate::recipe::Recipe::parse(&manifest.recipe, "", &[]).ok().map(|recipe| recipe.eval.windows);
        Some((*step, manifest.held_out.filter(|metric| metric.value.is_finite())?, windows))
    };
    let measured: Vec<_> = all.iter().filter_map(measured).collect();
    let windows = measured.last()?.2;
    let comparable = measured.into_iter().filter(|(.., other)| *other == windows);
    comparable.reduce(|best, one| if best.1.is_better_than(&one.1) { best } else { one }).map(|(step, ..)| step)
}
