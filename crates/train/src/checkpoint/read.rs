//! Reading: every hash is checked before a number is used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::Store;

use super::{CheckpointError, FileEntry, Manifest, NamedTensor, Snapshot, VERSION, step_of};

/// No manifest is larger.
const MANIFEST_BYTES: u64 = 64 << 20;

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
/// [`CheckpointError::AllDamaged`] when there are checkpoints and none is whole; `None` when there are none.
pub fn latest_whole(folder: &Path) -> Result<Option<(PathBuf, Snapshot, Vec<CheckpointError>)>, CheckpointError> {
    let mut damaged = Vec::new();
    for (_, path) in list(folder).into_iter().rev() {
        match read(&path) {
            Ok(snapshot) => return Ok(Some((path, snapshot, damaged))),
            Err(error) => damaged.push(error),
        }
    }
    if damaged.is_empty() { Ok(None) } else { Err(all_damaged(folder, &damaged)) }
}

pub(crate) fn all_damaged(folder: &Path, errors: &[CheckpointError]) -> CheckpointError {
    CheckpointError::AllDamaged { folder: folder.to_owned(), problems: errors.iter().map(|e| format!("- {}", e.with_cause())).collect() }
}

/// Read one checkpoint.
/// # Errors
/// When a file is missing, any byte of it has changed, or a number is not finite.
pub fn read(path: &Path) -> Result<Snapshot, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let manifest = manifest(path)?;
    let mut tensors = Vec::new();
    for shard in &manifest.shards {
        let bytes = file(path, shard)?;
        let views = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("`{}`: {e}", shard.file)))?;
        for (name, view) in views.iter() {
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if values.iter().any(|value| !value.is_finite()) {
                return Err(damaged(format!("`{name}` holds numbers that are not finite")));
            }
            tensors.push(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values });
        }
    }
    let tokenizer = manifest.tokenizer.iter().map(|entry| Ok((entry.file.clone(), file(path, entry)?)));
    let tokenizer = Arc::new(tokenizer.collect::<Result<_, CheckpointError>>()?);
    let Manifest { step, recipe, held_out, state, data, kernels, .. } = manifest;
    // The order of the files' own tables is not the order of writing.
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Snapshot { step, recipe, held_out, state, data, tokenizer, kernels, tensors })
}

/// One file of a checkpoint, as its manifest wants it.
fn file(path: &Path, entry: &FileEntry) -> Result<Vec<u8>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    // A manifest from elsewhere opens nothing outside its folder.
    disk::plain_name(&entry.file).map_err(|why| damaged(format!("the name of its file `{}` {why}", disk::printable_line(&entry.file))))?;
    let bytes = disk::read(&path.join(&entry.file), entry.bytes).map_err(|e| damaged(format!("`{}`: {e}", entry.file)))?;
    let got = blake3::hash(&bytes).to_hex();
    if got.as_str() != entry.blake3 {
        return Err(damaged(format!("the hash of `{}` is {got}, the manifest says {}", entry.file, entry.blake3)));
    }
    Ok(bytes)
}

/// What a checkpoint says of itself, without its tensors.
/// # Errors
/// When it is missing, has changed, or is of a later version.
pub fn manifest(path: &Path) -> Result<Manifest, CheckpointError> {
    parse(path, |name| disk::read(&path.join(name), MANIFEST_BYTES).map_err(|e| e.to_string()))
}

/// Whether all files of a checkpoint are there as its manifest wants them; none is held in memory.
pub(super) fn is_whole(path: &Path) -> bool {
    let (Ok(manifest), Ok(set)) = (manifest(path), store::Set::of(path)) else { return false };
    let is_there = |entry: &FileEntry| set.files.iter().any(|file| file.file == entry.file && file.blake3 == entry.blake3);
    manifest.shards.iter().chain(&manifest.tokenizer).all(is_there)
}

/// What the checkpoint that is published as `name` says of itself.
pub(super) fn manifest_in(store: &dyn Store, name: &str) -> Result<Manifest, CheckpointError> {
    parse(Path::new(name), |file| store.read(name, file, MANIFEST_BYTES).map_err(|e| e.with_cause()))
}

fn parse(path: &Path, read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Manifest, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let part = |name: &str| read(name).map_err(|e| damaged(format!("`{name}`: {e}")));
    let (text, want) = (part("manifest.json")?, part("manifest.blake3")?);
    if blake3::hash(&text).to_hex().as_bytes() != want {
        return Err(damaged("the hash of `manifest.json` is not that in `manifest.blake3`".into()));
    }
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(&text) {
        Ok(Head { version }) if version > VERSION => return Err(CheckpointError::Version { path: path.to_owned(), version }),
        _ => {}
    }
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(|e| damaged(format!("`manifest.json`: {e}")))?;
    if manifest.version < 2 {
        // It may tell what was measured on the weights of an earlier step.
        manifest.held_out = manifest.held_out.filter(|_| was_measured(&manifest));
    }
    Ok(manifest)
}

/// Whether a run of version 1 measured its held-out loss at this checkpoint's step.
fn was_measured(manifest: &Manifest) -> bool {
    crate::recipe::Recipe::parse(&manifest.recipe, "", &[])
        .is_ok_and(|recipe| manifest.step.is_multiple_of(recipe.eval.every_steps) || manifest.step == recipe.train.steps)
}
