//! A trained model, from its run's folder alone.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use data::Tokenizer;
use engine::{ParamId, Precision};
use models::Model;
use parallel::Replicated;

use crate::{
    TrainError,
    checkpoint::{self, CheckpointError, NamedTensor, Snapshot},
    objective::{self, Objective},
    optim::average_name,
    recipe::Recipe,
};

/// A trained model, read back from its folder.
pub struct Loaded {
    pub recipe: Recipe,
    pub model: Box<dyn Model>,
    /// What it was trained by, and is judged by.
    pub objective: Arc<dyn Objective>,
    pub store: Replicated,
    pub precision: Precision,
    pub step: u64,
    /// The `tokenizer.json` that it learnt with: the checkpoint's own, or of older ones that beside it or of its data.
    pub tokenizer_path: PathBuf,
    /// What was wrong with newer checkpoints, in whose place this one was taken.
    pub passed_over: Vec<String>,
}

impl Loaded {
    /// # Errors
    /// When there is none that can be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        Ok(Tokenizer::load(&self.tokenizer_path)?)
    }
}

/// Read the newest whole checkpoint of a run's folder or URL, or a checkpoint itself.
/// # Errors
/// When there is none, or its parameters are not those of its recipe.
pub fn load(folder: &Path) -> Result<Loaded, TrainError> {
    Ok(load_whole(folder)?.0)
}

/// The same, and the arrays of the checkpoint that are no parameters, by name.
fn load_whole(folder: &Path) -> Result<(Loaded, HashMap<String, NamedTensor>), TrainError> {
    let folder = &*checkpoint::here(folder)?;
    let (path, snapshot, damaged) = newest(folder)?;
    let recipe = Recipe::parse(&snapshot.recipe, &path.display().to_string(), &[])?;
    let model = models::build(&recipe.model)?;
    let mut tensors: HashMap<String, NamedTensor> = snapshot.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
    let table = model.params();
    for spec in table.specs() {
        if tensors.get(&spec.name).is_none_or(|t| t.values.len() != spec.shape.elements()) {
            let problem = format!("`{}` is missing or of another size", spec.name);
            return Err(CheckpointError::OtherModel { path, problem }.into());
        }
    }
    let store = Replicated::solo(table, |id| tensors.remove(&table.spec(id).name).map_or_else(Vec::new, |t| t.values));
    let precision = recipe.train.precision.resolve();
    let tokenizer_path = tokenizer_path(&path, folder, &recipe);
    let passed_over = damaged.iter().map(|error| format!("{}; taking `{}`", error.with_cause(), path.display())).collect();
    let objective = objective::of(&recipe);
    Ok((Loaded { objective, precision, step: snapshot.step, model, store, recipe, tokenizer_path, passed_over }, tensors))
}

/// The same with the running average of the weights, where the run keeps one (`optim.average`), and whether it does.
/// # Errors
/// As [`load`].
pub fn load_averaged(folder: &Path) -> Result<(Loaded, bool), TrainError> {
    let (mut loaded, mut others) = load_whole(folder)?;
    let table = loaded.model.params();
    let name = |id: ParamId| average_name(&table.spec(id).name);
    let is_there = |id: ParamId| others.get(&name(id)).is_some_and(|tensor| tensor.values.len() == table.spec(id).shape.elements());
    if loaded.recipe.optim.average == 0.0 || !table.ids().all(is_there) {
        // It keeps none, or holds weights alone, exported or imported.
        return Ok((loaded, false));
    }
    loaded.store = Replicated::solo(table, |id| others.remove(&name(id)).map_or_else(Vec::new, |tensor| tensor.values));
    Ok((loaded, true))
}

/// Where the `tokenizer.json` of a run, a checkpoint or an imported model is, without reading its weights.
/// # Errors
/// When there is no checkpoint, or none whose manifest can be read.
pub fn tokenizer_of(folder: &Path) -> Result<PathBuf, TrainError> {
    let folder = &*checkpoint::here(folder)?;
    let (path, recipe) = newest_recipe(folder)?;
    Ok(tokenizer_path(&path, folder, &recipe))
}

/// The recipe of a run, a checkpoint or an imported model, without reading its weights.
/// # Errors
/// As [`tokenizer_of`].
pub fn recipe_of(folder: &Path) -> Result<Recipe, TrainError> {
    Ok(newest_recipe(&checkpoint::here(folder)?)?.1)
}

fn newest_recipe(folder: &Path) -> Result<(PathBuf, Recipe), TrainError> {
    let checkpoints = std::iter::once(folder.to_owned()).chain(checkpoint::list(folder).into_iter().rev().map(|(_, path)| path));
    for path in checkpoints {
        if let Ok(manifest) = checkpoint::manifest(&path) {
            let recipe = Recipe::parse(&manifest.recipe, &path.display().to_string(), &[])?;
            return Ok((path, recipe));
        }
    }
    Err(CheckpointError::None { folder: folder.to_owned() }.into())
}

/// The checkpoint that `folder` is, or the newest whole one in it, and what is wrong with newer ones.
pub(super) fn newest(folder: &Path) -> Result<(PathBuf, Snapshot, Vec<CheckpointError>), CheckpointError> {
    if folder.join("manifest.json").is_file() {
        return Ok((folder.to_owned(), checkpoint::read(folder)?, Vec::new()));
    }
    checkpoint::latest_whole(folder)?.ok_or_else(|| CheckpointError::None { folder: folder.to_owned() })
}

/// The tokenizer of a checkpoint: its own, or of older ones that beside it or of its data.
pub(super) fn tokenizer_path(checkpoint: &Path, folder: &Path, recipe: &Recipe) -> PathBuf {
    let beside = [checkpoint, folder].into_iter().map(|place| place.join("tokenizer.json")).find(|path| path.is_file());
    beside.unwrap_or_else(|| recipe.data.path.join("tokenizer.json"))
}
