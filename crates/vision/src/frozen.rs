//! Models that were trained before and now only run forward: read whole from a run's folder or from a Hugging Face one, with the running
//! average of the weights where a run keeps one. They run in f32, one sample at a time, so that what they say depends on neither batches nor
//! ranks.

use std::{
    collections::HashMap,
    hash::Hash,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use engine::{EngineError, Inputs, Precision, Tape, Tensor};
use models::Model;
use parallel::Replicated;
use train::{TrainError, run};

use crate::{hf, passes};

/// See the head of this file.
pub(crate) struct Frozen {
    /// The model's `[model]` table, written out.
    pub table: toml::Table,
    /// Of its tokenizer, if it has one.
    pub tokenizer_path: PathBuf,
    /// Of its sizes and weights.
    pub blake3: String,
    store: Mutex<Replicated>,
}

/// The `[model]` table of what `path` holds, which the recipe's `key` names, written out, without its weights; checked to be of `kind`.
/// # Errors
/// As [`Frozen::open`].
pub(crate) fn table(path: &Path, kind: &'static str, key: &'static str) -> Result<toml::Table, TrainError> {
    let model =
        if hf::knows(path) { hf::import(path)?.model } else { run::recipe_of(path).map_err(|e| neither(path, kind, key, &e))?.model };
    let table = models::build(&model)?.config();
    is_of(&table, path, kind, key)?;
    Ok(table)
}

fn neither(path: &Path, kind: &str, key: &'static str, error: &TrainError) -> TrainError {
    let problem = format!("`{}` is neither a run nor a folder of a known layout: {error}", path.display());
    let help = format!("give the folder of a run of a `{kind}`, or a Hugging Face folder that `hairpin import` knows");
    TrainError::Value { key, problem, help }
}

fn is_of(table: &toml::Table, path: &Path, kind: &str, key: &'static str) -> Result<(), TrainError> {
    let found = models::kind(table).name;
    if found == kind {
        return Ok(());
    }
    let problem = format!("`{}` holds a model of kind `{found}`, not `{kind}`", path.display());
    Err(TrainError::Value { key, problem, help: format!("give the run of a `{kind}`") })
}

impl Frozen {
    /// Read `path`, which the recipe's `key` names, and check that it is of `kind`.
    /// # Errors
    /// When it is neither a run nor a folder of a known layout, or of another kind.
    pub fn open(path: &Path, kind: &'static str, key: &'static str) -> Result<Self, TrainError> {
        let (table, store, tokenizer_path) = if hf::knows(path) {
            let imported = hf::import(path)?;
            let model = models::build(&imported.model)?;
            let mut failed = None;
            let store = Replicated::solo(model.params(), |id| {
                imported.values(&model.params().spec(id).name).unwrap_or_else(|error| {
                    failed = Some(error);
                    Vec::new()
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            (model.config(), store, path.join("tokenizer.json"))
        } else {
            let (loaded, _) = run::load_averaged(path).map_err(|error| neither(path, kind, key, &error))?;
            (loaded.model.config(), loaded.store, loaded.tokenizer_path)
        };
        is_of(&table, path, kind, key)?;
        let model = models::build(&table)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(table.to_string().as_bytes());
        for id in model.params().ids() {
            hasher.update(bytemuck::cast_slice(store.value(id)));
        }
        Ok(Self { table, tokenizer_path, blake3: hasher.finalize().to_hex().to_string(), store: Mutex::new(store) })
    }

    /// What `pass` gives of `count` samples of `inputs`.
    /// # Errors
    /// When shapes do not fit, or memory is short.
    pub fn say<M: Model>(
        &self,
        model: &M,
        count: usize,
        inputs: impl FnMut(std::ops::Range<u64>) -> Result<Inputs, TrainError>,
        pass: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>,
    ) -> Result<Vec<f32>, TrainError> {
        // Whoever waits here runs no loop of another that is in here: ranks have threads of their own, and those that make samples ahead
        // ask for nothing of this.
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        passes::run(model, &mut *store, Precision::F32, count as u64, inputs, pass)
    }
}

/// What was said of samples before, as far as a bound allows: what is beyond it is computed anew, to the same bits.
pub(crate) struct Cache<K> {
    said: Mutex<HashMap<K, Arc<[f32]>>>,
    bound_bytes: u64,
}

/// Share of the free memory that each of them may have.
const SHARE: u64 = 8;

/// That share, in bytes.
pub(crate) fn kept_bytes() -> u64 {
    limits::available_bytes().unwrap_or(4 << 30) / SHARE
}

impl<K: Eq + Hash> Cache<K> {
    /// An empty one; of what is never asked for again it keeps nothing.
    pub fn new(is_kept: bool) -> Self {
        Self { said: Mutex::default(), bound_bytes: if is_kept { kept_bytes() } else { 0 } }
    }

    fn said(&self) -> MutexGuard<'_, HashMap<K, Arc<[f32]>>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of `key`, or what `say` gives.
    /// # Errors
    /// Those of `say`.
    pub fn get(&self, key: K, say: impl FnOnce() -> Result<Vec<f32>, TrainError>) -> Result<Arc<[f32]>, TrainError> {
        if let Some(said) = self.said().get(&key) {
            return Ok(said.clone());
        }
        let new: Arc<[f32]> = say()?.into();
        let mut said = self.said();
        if (said.len() as u64 + 1) * (4 * new.len() as u64 + size_of::<K>() as u64) <= self.bound_bytes {
            said.insert(key, new.clone());
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_bound_is_said_anew_and_what_is_within_is_not() {
        let counted = std::cell::Cell::new(0);
        let ask = |cache: &Cache<u32>, key: u32| {
            let say = || {
                counted.set(counted.get() + 1);
                Ok(vec![key as f32; 4])
            };
            assert_eq!(cache.get(key, say).unwrap()[0], key as f32);
        };
        // Two of 16 bytes and their keys.
        let cache = Cache { said: Mutex::default(), bound_bytes: 40 };
        (0..3).chain(0..3).for_each(|key| ask(&cache, key));
        assert_eq!(counted.get(), 4, "three, and the third again");
        counted.set(0);
        let cache = Cache::new(false);
        [1, 1].into_iter().for_each(|key| ask(&cache, key));
        assert_eq!(counted.get(), 2);
    }
}
