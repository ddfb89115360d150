//! Checkpoints: a folder of logical tensors and a manifest, independent of ranks and strategy, from which alone a model can be
//! used: the tokenizer is in it.
//!
//! ```text
//! step-00000500/  tensors-00000.safetensors ...   parameters, optimiser state
//!                 tokenizer.json ...              the tokenizer of its text
//!                 manifest.json                   step, recipe, what the data were, a hash of each file; manifest.blake3 holds its own
//! ```
//! Written to a temporary name on a thread of its own, hashed, synced, then made visible by one rename. A reader checks
//! every hash, and on damage falls back to the newest whole one, saying so. Numbers that are not finite are damage too: they
//! are neither written nor read. A run whose place is a URL is written to a folder of this machine in the same way, and each checkpoint
//! is uploaded beside training ([`Place`], [`Uploader`]).

mod place;
mod read;
mod retain;
mod upload;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use data::Content;
pub use place::{Place, here};
pub(crate) use read::all_damaged;
pub use read::{latest_whole, list, manifest, read};
pub use retain::Keep;
use serde::{Deserialize, Serialize};
pub use upload::Uploader;
pub use write::{Writer, write, write_with};

use crate::metric::Metric;

/// What is written now; 1 knew nothing of data, tokenizer and kernels.
pub const VERSION: u32 = 2;

/// One named array.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// From which step on which kernels computed: of other levels the bits may be others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSpan {
    pub from_step: u64,
    pub level: String,
}

/// The files of a tokenizer, by name.
pub type TokenizerFiles = Vec<(String, Vec<u8>)>;

/// All that a run needs to go on as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Updates made so far; the next sample follows from it.
    pub step: u64,
    /// The resolved recipe.
    pub recipe: String,
    /// Of held-out samples, if it was measured on these weights.
    pub held_out: Option<Metric>,
    /// State of the loop that is no tensor.
    pub state: serde_json::Value,
    /// What it was trained on; unknown of what was imported, and of checkpoints of version 1.
    pub data: Option<Content>,
    pub tokenizer: Arc<TokenizerFiles>,
    pub kernels: Vec<KernelSpan>,
    pub tensors: Vec<NamedTensor>,
}

impl Snapshot {
    /// Whether it holds weights alone, as an import does: any recipe may begin with them.
    #[must_use]
    pub fn is_only_weights(&self) -> bool {
        is_only_weights(self.step, &self.state)
    }
}

fn is_only_weights(step: u64, state: &serde_json::Value) -> bool {
    step == 0 && state.as_object().is_none_or(serde_json::Map::is_empty)
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub step: u64,
    pub recipe: String,
    #[serde(flatten)]
    pub held_out: Option<Metric>,
    pub state: serde_json::Value,
    #[serde(default)]
    pub data: Option<Content>,
    #[serde(default)]
    pub kernels: Vec<KernelSpan>,
    pub shards: Vec<FileEntry>,
    #[serde(default)]
    pub tokenizer: Vec<FileEntry>,
}

impl Manifest {
    /// As [`Snapshot::is_only_weights`].
    #[must_use]
    pub fn is_only_weights(&self) -> bool {
        is_only_weights(self.step, &self.state)
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub file: String,
    pub bytes: u64,
    pub blake3: String,
}

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CheckpointError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(checkpoint::io), help("check that the disk has room and that you may write there; earlier checkpoints are whole"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("checkpoint `{}` is damaged: {problem}", path.display())]
    #[diagnostic(
        code(checkpoint::damaged),
        help("resume from an earlier one: `hairpin train RECIPE --resume` takes the newest that is whole")
    )]
    Damaged { path: PathBuf, problem: String },

    #[error("all checkpoints in `{}` are damaged:\n{}", folder.display(), problems.join("\n"))]
    #[diagnostic(
        code(checkpoint::all_damaged),
        help("bring one back from a copy, or give another `--out` and train anew; nothing in this folder was changed")
    )]
    AllDamaged { folder: PathBuf, problems: Vec<String> },

    #[error("there is no checkpoint in `{}`", folder.display())]
    #[diagnostic(code(checkpoint::none), help("train first: `hairpin train RECIPE --out {}`", folder.display()))]
    None { folder: PathBuf },

    #[error("checkpoint `{}` is of another model: {problem}", path.display())]
    #[diagnostic(code(checkpoint::other_model), help("use the recipe that is written in its manifest"))]
    OtherModel { path: PathBuf, problem: String },

    #[error("checkpoint `{}` has version {version}, and this program reads up to {VERSION}", path.display())]
    #[diagnostic(code(checkpoint::version), help("use the program that wrote it, or a newer one"))]
    Version { path: PathBuf, version: u32 },

    #[error("`{name}` at step {step} holds numbers that are not finite: no checkpoint is written of that")]
    #[diagnostic(code(checkpoint::not_finite), help("the last checkpoint is whole and finite: start another run with a lower `optim.lr`"))]
    NotFinite { name: String, step: u64 },

    #[error("{count} checkpoints of `{}` are not in `{url}`: {cause}", folder.display())]
    #[diagnostic(
        code(checkpoint::not_uploaded),
        help(
            "nothing is lost while that folder is there: when the store is back, `hairpin train RECIPE --out URL --resume` uploads the newest"
        )
    )]
    NotUploaded { folder: PathBuf, url: String, count: usize, cause: String },

    #[error("ranks on several machines found other checkpoints in `{url}`")]
    #[diagnostic(code(checkpoint::apart), help("run the same command again; if it stays, one machine cannot read what the others can"))]
    Apart { url: String },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] store::StoreError),
}

impl CheckpointError {
    /// The error and what caused it, in one line.
    #[must_use]
    pub fn with_cause(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::Store(error) => error.with_cause(),
            _ => self.to_string(),
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// `step-00000500`
pub(crate) fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step in a folder's name, if it is a checkpoint's.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-").filter(|digits| digits.len() >= 8)?.parse().ok()
}

/// A run's own folder, held until dropped: a second run is refused.
pub struct RunLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl RunLock {
    /// # Errors
    /// [`crate::TrainError::Locked`] when another run holds it.
    pub fn acquire(folder: &Path) -> Result<Self, crate::TrainError> {
        std::fs::create_dir_all(folder).map_err(crate::TrainError::io("create", folder))?;
        let path = folder.join("run.lock");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(crate::TrainError::io("create", &path))?;
        file.try_lock().map_err(|_| crate::TrainError::Locked { folder: folder.to_owned() })?;
        Ok(Self(file))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn snapshot(step: u64) -> Snapshot {
        let tensor = |name: &str, n: usize| NamedTensor {
            name: name.into(),
            shape: vec![n, 2],
            values: (0..2 * n).map(|i| i as f32 + step as f32).collect(),
        };
        let tensors = vec![tensor("embed.weight", 5), tensor("optim/m/embed.weight", 5), tensor("norm.weight", 1)];
        Snapshot {
            step,
            recipe: "seed = 1\n".into(),
            held_out: Some(Metric::bits_per_byte(2.5 / step as f64)),
            state: serde_json::json!({"losses": [1.5, 2.0]}),
            data: None,
            tokenizer: Arc::new(vec![("tokenizer.json".into(), b"{}".to_vec())]),
            kernels: vec![KernelSpan { from_step: 1, level: "portable".into() }],
            tensors,
        }
    }

    #[test]
    fn what_is_written_is_read_and_old_ones_go_but_the_best() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(folder.path(), Keep { last: 2, stable_step: None }, None);
        for step in [1, 2, 3, 4] {
            let mut snapshot = snapshot(step);
            snapshot.held_out = Some(Metric::bits_per_byte(if step == 1 { 1.0 } else { 2.0 }));
            writer.submit(snapshot, &std::sync::atomic::AtomicBool::new(false)).unwrap();
        }
        writer.finish().unwrap();
        let steps: Vec<u64> = list(folder.path()).iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [1, 3, 4], "the last two and the best");
        let (path, got, damaged) = latest_whole(folder.path()).unwrap().unwrap();
        let mut want = snapshot(4);
        want.held_out = Some(Metric::bits_per_byte(2.0));
        want.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!((got, damaged.len()), (want, 0));
        assert!(path.ends_with("step-00000004"));
    }

    #[test]
    fn every_flipped_byte_is_caught_and_the_one_before_is_used() {
        let folder = tempfile::tempdir().unwrap();
        for step in [1, 2] {
            write(folder.path(), &snapshot(step)).unwrap();
        }
        let newest = folder.path().join(folder_name(2));
        for entry in std::fs::read_dir(&newest).unwrap().flatten() {
            let whole = std::fs::read(entry.path()).unwrap();
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << (at % 8);
                std::fs::write(entry.path(), &flipped).unwrap();
                assert!(read(&newest).is_err(), "{} byte {at}", entry.path().display());
            }
            for torn in [0, whole.len() / 2, whole.len() - 1] {
                std::fs::write(entry.path(), &whole[..torn]).unwrap();
                assert!(read(&newest).is_err(), "{} cut to {torn}", entry.path().display());
            }
            let (path, _, damaged) = latest_whole(folder.path()).unwrap().unwrap();
            assert_eq!((step_of(&path), damaged.len()), (Some(1), 1));
            std::fs::remove_file(entry.path()).unwrap();
            assert!(read(&newest).is_err(), "a missing file");
            std::fs::write(entry.path(), &whole).unwrap();
            assert!(read(&newest).is_ok());
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_neither_written_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &snapshot(1)).unwrap();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = snapshot(2);
            broken.tensors[1].values[3] = value;
            assert!(matches!(write(folder.path(), &broken), Err(CheckpointError::NotFinite { step: 2, .. })));
            assert_eq!(list(folder.path()).len(), 1, "{value}");
        }
        let path = write(folder.path(), &snapshot(2)).unwrap();
        let file = path.join("tensors-00000.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        forge(&path, |manifest| manifest["shards"][0]["blake3"] = blake3::hash(&bytes).to_hex().to_string().into());
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
        assert_eq!(latest_whole(folder.path()).unwrap().unwrap().1.step, 1);
    }

    /// Change a manifest under hashes that fit.
    fn forge(checkpoint: &Path, change: impl FnOnce(&mut serde_json::Value)) {
        let path = checkpoint.join("manifest.json");
        let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        let text = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(checkpoint.join("manifest.blake3"), blake3::hash(&text).to_hex().as_bytes()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_checkpoint_of_version_1_is_read_and_one_of_a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), &snapshot(1)).unwrap();
        forge(&path, |manifest| {
            let manifest = manifest.as_object_mut().unwrap();
            for key in ["data", "kernels", "tokenizer"] {
                manifest.remove(key);
            }
            manifest["version"] = 1.into();
        });
        let (got, want) = (read(&path).unwrap(), snapshot(1));
        assert_eq!((got.step, got.data.is_none(), got.tokenizer.len(), got.tensors.len()), (1, true, 0, want.tensors.len()));
        forge(&path, |manifest| manifest["version"] = (VERSION + 1).into());
        assert!(matches!(read(&path), Err(CheckpointError::Version { .. })));
    }

    #[test]
    fn a_second_run_on_one_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(folder.path()).unwrap();
        assert!(matches!(RunLock::acquire(folder.path()), Err(crate::TrainError::Locked { .. })));
        drop(first);
        assert!(RunLock::acquire(folder.path()).is_ok());
    }

    #[test]
    fn a_write_that_fails_leaves_the_last_checkpoint_whole() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &snapshot(1)).unwrap();
        // A file stands where the temporary folder would go.
        std::fs::write(folder.path().join("step-00000002.tmp"), "in the way").unwrap();
        assert!(write(folder.path(), &snapshot(2)).is_err());
        assert_eq!(latest_whole(folder.path()).unwrap().unwrap().1.step, 1);
    }
}
