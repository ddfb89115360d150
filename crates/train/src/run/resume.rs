//! What a run may go on from: the checkpoints of its folder whose data and whose recipe are those of this run, so far as they
//! decide its bits. Where the data lie, how often is saved or measured, and on how many ranks, decide none.
//!
//! More steps may be made of a run from any checkpoint up to which the learning rate is the same for both numbers of steps: with
//! `wsd` until it comes down. **Absent on purpose:** other rates, batches or models in mid-run.

use std::path::{Path, PathBuf};

use data::Content;

use crate::{
    TrainError,
    checkpoint::{self, CheckpointError, Manifest},
    recipe::{Checkpoint, DataTable, Eval, Parallel, Recipe},
    schedule,
};

/// What a folder holds for a run.
pub struct Standing {
    /// Checkpoints to go on from, the newest first.
    pub checkpoints: Vec<PathBuf>,
    /// Whether the newest of the folder is the first of them; otherwise newer ones were made under another number of steps.
    pub is_newest: bool,
    /// Whether the newest of the folder was made under as many steps as this run is to have.
    pub has_same_steps: bool,
    /// What a person should read: damage, and what is not known of older ones.
    pub notes: Vec<String>,
}

/// Find what the run of `recipe`, resolved, over `data` may go on from in `folder`; nothing where there is no checkpoint.
/// # Errors
/// When the run there is another one, naming what differs; when all its checkpoints are damaged.
pub fn standing(folder: &Path, recipe: &Recipe, data: Option<&Content>) -> Result<Standing, TrainError> {
    let mut standing = Standing { checkpoints: Vec::new(), is_newest: true, has_same_steps: true, notes: Vec::new() };
    let mut damaged = Vec::new();
    let all = checkpoint::list(folder);
    let mut newest_steps = None;
    for (_, path) in all.iter().rev() {
        let manifest = match checkpoint::manifest(path) {
            Ok(manifest) => manifest,
            Err(error) => {
                damaged.push(error);
                continue;
            }
        };
        let theirs = check(folder, path, &manifest, recipe, data)?;
        let steps = *newest_steps.get_or_insert(theirs.train.steps);
        standing.has_same_steps = steps == recipe.train.steps;
        if !is_same_so_far(recipe, &theirs, manifest.step) {
            standing.is_newest = false;
            continue;
        }
        if standing.checkpoints.is_empty() {
            standing.notes.extend(other_beginning(recipe, &theirs));
            standing.notes.extend(unknown(path, &manifest));
            if steps != recipe.train.steps {
                standing.notes.push(format!("the run was one of {steps} steps and becomes one of {}", recipe.train.steps));
            }
        }
        standing.checkpoints.push(path.clone());
    }
    if let Some(steps) = newest_steps
        && standing.checkpoints.is_empty()
    {
        let difference = format!(
            "it was planned for {steps} steps, this recipe for {}, and up to its oldest checkpoint the learning rate of the two is not the same",
            recipe.train.steps
        );
        return Err(TrainError::OtherRecipe { folder: folder.to_owned(), difference });
    }
    if newest_steps.is_none() && !damaged.is_empty() {
        return Err(checkpoint::all_damaged(folder, &damaged).into());
    }
    standing.notes.splice(0..0, damaged.iter().map(CheckpointError::with_cause));
    Ok(standing)
}

/// The recipe of a checkpoint, if all but the number of steps is as `recipe` and `data` want it.
fn check(folder: &Path, path: &Path, manifest: &Manifest, recipe: &Recipe, data: Option<&Content>) -> Result<Recipe, TrainError> {
    let theirs = Recipe::parse(&manifest.recipe, &path.display().to_string(), &[])?;
    if manifest.is_only_weights() {
        // Nothing was trained here yet: only the model has to be the same.
        let ours = Recipe { model: recipe.model.clone(), ..theirs.clone() };
        refuse_other(folder, &theirs, &ours)?;
        return Ok(recipe.clone());
    }
    if let (Some(theirs), Some(ours)) = (&manifest.data, data)
        && let Some(difference) = ours.difference(theirs)
    {
        return Err(TrainError::OtherData { folder: folder.to_owned(), path: recipe.data.path.clone(), difference });
    }
    let mut ours = recipe.clone();
    ours.train.steps = theirs.train.steps;
    refuse_other(folder, &theirs, &ours)?;
    if manifest.step == 0 && recipe.from.is_some() {
        refuse_other_beginning(folder, &theirs, recipe)?;
    }
    Ok(theirs)
}

fn refuse_other(folder: &Path, theirs: &Recipe, ours: &Recipe) -> Result<(), TrainError> {
    let differences = differences(theirs, ours);
    if differences.is_empty() {
        return Ok(());
    }
    Err(TrainError::OtherRecipe { folder: folder.to_owned(), difference: differences.join(", ") })
}

/// Whether the learning rate was the same up to `step`.
fn is_same_so_far(ours: &Recipe, theirs: &Recipe, step: u64) -> bool {
    let share = |recipe: &Recipe, step| schedule::share(&recipe.schedule, step, recipe.train.steps).to_bits();
    ours.train.steps == theirs.train.steps || step <= ours.train.steps && (1..=step).all(|step| share(ours, step) == share(theirs, step))
}

/// Before a run has made a step, what it begins with is all that it is.
pub(super) fn refuse_other_beginning(folder: &Path, theirs: &Recipe, ours: &Recipe) -> Result<(), TrainError> {
    if theirs.from == ours.from {
        return Ok(());
    }
    let difference = format!("it begins with {}, this recipe with {}", beginning(theirs), beginning(ours));
    Err(TrainError::OtherRecipe { folder: folder.to_owned(), difference })
}

fn beginning(recipe: &Recipe) -> String {
    recipe.from.as_ref().map_or("random weights".to_owned(), |from| format!("the weights of `{}`", from.path.display()))
}

/// A run begins once.
fn other_beginning(ours: &Recipe, theirs: &Recipe) -> Option<String> {
    let ours = ours.from.as_ref().filter(|from| theirs.from.as_ref() != Some(*from))?;
    let path = ours.path.display();
    Some(format!("the run began with {} and goes on from its own checkpoint: `{path}` is not read", beginning(theirs)))
}

/// What an older checkpoint does not tell.
fn unknown(path: &Path, manifest: &Manifest) -> Option<String> {
    (manifest.data.is_none() && !manifest.is_only_weights()).then(|| {
        format!("`{}` was written before checkpoints held hashes of their data: whether these are the same is not known", path.display())
    })
}

/// The last step before the learning rate comes down, from which more steps can be made; none where it comes down at once.
#[must_use]
pub(super) fn stable_step(recipe: &Recipe) -> Option<u64> {
    let (schedule, steps) = (&recipe.schedule, recipe.train.steps);
    let peak = |step: &u64| schedule::share(schedule, *step, steps) == 1.0;
    (1..steps).rev().find(peak).filter(|step| *step > schedule.warmup_steps.min(steps / 2))
}

/// `recipe` without what changes no bit of the weights: of two runs with equal ones over the same data, each can go on from the
/// other.
#[must_use]
pub fn decisive(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    (recipe.name, recipe.parallel, recipe.train.threads, recipe.train.recompute) = (String::new(), Parallel::default(), None, false);
    (recipe.checkpoint, recipe.eval) = (Checkpoint::default(), Eval::default());
    // What it began with is in its checkpoints by now.
    recipe.from = None;
    recipe.data = DataTable { path: PathBuf::new(), ..recipe.data };
    recipe.batch.micro_batch = recipe.batch.micro_batch.min(recipe.batch.sequences / recipe.batch.lanes);
    recipe
}

/// `key = theirs there, ours here` of each decisive key that differs.
pub(super) fn differences(theirs: &Recipe, ours: &Recipe) -> Vec<String> {
    let flat = |recipe: &Recipe| {
        let mut out = std::collections::BTreeMap::new();
        flatten("", &toml::Value::try_from(decisive(recipe)).unwrap_or(toml::Value::Boolean(false)), &mut out);
        out
    };
    let (theirs, ours) = (flat(theirs), flat(ours));
    let absent = || "nothing".to_owned();
    let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let differing = keys.into_iter().filter(|key| theirs.get(*key) != ours.get(*key));
    differing
        .map(|key| {
            let value = |side: &std::collections::BTreeMap<String, String>| side.get(key).cloned().unwrap_or_else(absent);
            format!("it has `{key} = {}`, this recipe `{}`", value(&theirs), value(&ours))
        })
        .collect()
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut std::collections::BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                flatten(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value, out);
            }
        }
        other => {
            out.insert(prefix.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(set: &[&str]) -> Recipe {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse("[model]\ndepth = 2\n[train]\nsteps = 100\n[schedule]\nwarmup_steps = 10\n", "test", &set).unwrap()
    }

    #[test]
    fn what_changes_no_bit_is_no_difference_and_what_does_is_named() {
        let same = [
            "data.path=/elsewhere/./data/",
            "checkpoint.every_steps=3",
            "checkpoint.keep_last=9",
            "eval.every_steps=7",
            "eval.windows=5",
            "from.path=/elsewhere",
            "name=other",
            "train.recompute=true",
            "train.threads=1",
            "batch.micro_batch=99",
            "parallel.strategy=zero1",
        ];
        for set in same {
            assert!(differences(&recipe(&[]), &recipe(&[set])).is_empty(), "{set}");
        }
        for set in ["optim.lr=0.5", "seed=9", "data.fraction=0.5", "batch.micro_batch=2", "train.clip=3.0", "guard.window=9"] {
            let key = set.split('=').next().unwrap();
            let found = differences(&recipe(&[]), &recipe(&[set]));
            assert!(found.len() == 1 && found[0].contains(key), "{set}: {found:?}");
        }
    }

    #[test]
    fn more_steps_follow_where_the_learning_rate_has_not_come_down() {
        let (short, long) = (recipe(&[]), recipe(&["train.steps=200"]));
        // 60% of a hundred steps are the way down, and in f32 a hair more.
        assert_eq!(stable_step(&short), Some(39));
        assert!(is_same_so_far(&long, &short, 39) && !is_same_so_far(&long, &short, 40));
        let cosine = |steps: &str| recipe(&["schedule.kind=cosine", steps]);
        assert!(!is_same_so_far(&cosine("train.steps=200"), &cosine("train.steps=100"), 20));
        assert!(is_same_so_far(&cosine("train.steps=100"), &cosine("train.steps=100"), 100));
        let constant = |steps: &str| recipe(&["schedule.floor_ratio=1.0", steps]);
        assert!(is_same_so_far(&constant("train.steps=200"), &constant("train.steps=100"), 100));
    }
}
