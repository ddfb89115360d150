//! Beginning with the weights of another run or of an imported model, and where it is asked for with the optimiser's state. They are copied as they are: the model
//! has to be the same, and the tokenizer, unless rows are to go by the names of tokens ([`rows`]). **Absent on purpose:** weights that are cut or
//! padded.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use data::Tokenizer;
use models::{Beginning, Model};

use super::{loaded, resume, rows};
use crate::{
    TrainError,
    checkpoint::{self, CheckpointError, Snapshot},
    feed::Feed,
    optim::{STATE, average_name},
    recipe::{Optim, OptimKind, Recipe},
};

/// Of a `tokenizer.json`.
const LARGEST_BYTES: u64 = 512 << 20;

/// What a run begins with.
pub(super) struct Weights {
    /// By name, those of the whole model.
    pub values: HashMap<String, Vec<f32>>,
    /// Of the optimiser whose state is among the values, where this run's goes on with it.
    pub updates: Option<u64>,
    pub notes: Vec<String>,
}

/// Read what the run of `recipe`, resolved, of `model` over `feed` begins with from `path`: a run's folder, a checkpoint, or an
/// imported model.
/// # Errors
/// When there is none that is whole, or the model or the tokenizer is another one, naming in what.
pub(super) fn weights(path: &Path, recipe: &Recipe, model: &dyn Model, feed: &dyn Feed) -> Result<Weights, TrainError> {
    let path = &*checkpoint::here(path)?;
    let (checkpoint, mut snapshot, damaged) = loaded::newest(path)?;
    let mut notes: Vec<String> = damaged.iter().map(CheckpointError::with_cause).collect();
    let updates = recipe.from.as_ref().is_some_and(|from| from.optimiser).then(|| updates(&snapshot, recipe, path)).transpose()?;
    let optimiser = updates.map_or("a fresh optimiser".to_owned(), |updates| format!("its optimiser after {updates} updates"));
    notes.push(format!("beginning with the weights of `{}` and {optimiser}", checkpoint.display()));
    let theirs = Recipe::parse(&snapshot.recipe, &checkpoint.display().to_string(), &[])?;
    if let Some(beginning) = models::beginning(&recipe.model, &theirs.model) {
        if updates.is_some() {
            let problem = format!("its optimiser is that of a model of kind `{}`", beginning.from);
            let help = "leave `from.optimiser` out: the optimiser then begins anew".into();
            return Err(TrainError::OtherWeights { path: path.to_owned(), problem, help });
        }
        return of_another_kind(beginning, snapshot, &theirs, (recipe, model), path, notes);
    }
    let tokenizer = loaded::tokenizer_path(&checkpoint, path, &theirs);
    let is_same = if feed.tokenizer().is_some() { is_same_tokenizer(&tokenizer, feed)? } else { Some(true) };
    let is_by_name = is_same != Some(true) && recipe.from.as_ref().is_some_and(|from| from.rows_by_name);
    if let Some(ours) = feed.tokenizer().filter(|_| is_by_name) {
        notes.push(rows::by_name(&mut snapshot, &Tokenizer::load(&tokenizer)?, ours, model, recipe.seed));
    }
    check(&snapshot, &theirs, recipe, model, path)?;
    match is_same {
        Some(true) => {}
        _ if is_by_name => {}
        None => notes.push(format!("`{}` holds no tokenizer: whether the data's is the same is not known", checkpoint.display())),
        Some(false) => {
            let problem = format!("its tokenizer `{}` is not that of the data in `{}`", tokenizer.display(), recipe.data.path.display());
            let help = format!(
                "prepare the data with it, by `[data.tokenizer]` with `kind = \"load\"` and `path = {:?}`; or give the tokens of the same name \
                 their rows by `from.rows_by_name = true`; or leave `--from` out to begin anew",
                tokenizer.display().to_string()
            );
            return Err(TrainError::OtherWeights { path: path.to_owned(), problem, help });
        }
    }
    let mut weights = values(snapshot, recipe, model, notes);
    weights.updates = updates;
    Ok(weights)
}

/// The arrays that a model has in common with one of another kind, and its own beginnings of the others.
fn of_another_kind(
    beginning: &Beginning,
    snapshot: Snapshot,
    theirs: &Recipe,
    (recipe, model): (&Recipe, &dyn Model),
    path: &Path,
    mut notes: Vec<String>,
) -> Result<Weights, TrainError> {
    let other = |problem: String| {
        let help =
            format!("give the recipe the `[model.{}]` table of the run that it begins with", beginning.shared.join("]` and `[model."));
        TrainError::OtherWeights { path: path.to_owned(), problem, help }
    };
    let (written, ours) = (models::build(&theirs.model)?.config(), model.config());
    if let Some(key) = beginning.shared.iter().find(|key| written.get(**key) != ours.get(**key)) {
        return Err(other(format!("its `model.{key}` is another than this recipe's")));
    }
    let is_left_out = |name: &str| name.starts_with(STATE) || beginning.left_out.iter().any(|start| name.starts_with(start));
    let mut values: HashMap<String, Vec<f32>> =
        snapshot.tensors.into_iter().filter(|tensor| !is_left_out(&tensor.name)).map(|tensor| (tensor.name, tensor.values)).collect();
    for (name, made) in (beginning.made)(&written)? {
        notes.push(format!("`{name}` begins as what is fixed in a model of kind `{}`", beginning.from));
        values.insert(name.to_owned(), made);
    }
    let table = model.params();
    for name in beginning.anew {
        let Some(id) = table.find(name) else { continue };
        notes.push(format!("`{name}` begins anew"));
        values.insert((*name).to_owned(), table.initial(id, recipe.seed));
    }
    let specs: BTreeMap<&str, usize> = table.specs().iter().map(|spec| (spec.name.as_str(), spec.shape.elements())).collect();
    let found = |name: &str| values.get(name).map(Vec::len);
    if let Some((name, count)) = specs.iter().find(|(name, count)| found(name) != Some(**count)) {
        return Err(other(format!("`{name}` has {count} numbers in this recipe's model and {} there", found(name).unwrap_or(0))));
    }
    if let Some(name) = values.keys().filter(|name| !specs.contains_key(name.as_str())).min() {
        return Err(other(format!("`{name}` is no part of this recipe's model")));
    }
    Ok(with_average(Weights { values, updates: None, notes }, recipe, model))
}

/// That the weights are those of `model`.
fn check(snapshot: &Snapshot, theirs: &Recipe, recipe: &Recipe, model: &dyn Model, path: &Path) -> Result<(), TrainError> {
    let Some(problem) = other_model(snapshot, theirs, recipe, model) else { return Ok(()) };
    let help =
        "give the recipe the `[model]` table that is written in the checkpoint's `manifest.json`, or leave `--from` out to begin anew";
    Err(TrainError::OtherWeights { path: path.to_owned(), problem, help: help.into() })
}

/// A head begins anew where the weights have none of its kind, and one that the model has not is left out.
fn values(snapshot: Snapshot, recipe: &Recipe, model: &dyn Model, mut notes: Vec<String>) -> Weights {
    let mut values: HashMap<String, Vec<f32>> = snapshot.tensors.into_iter().map(|tensor| (tensor.name, tensor.values)).collect();
    let table = model.params();
    let left_out = HEADS.iter().filter(|name| values.contains_key(**name) && table.specs().iter().all(|spec| spec.name != **name));
    notes.extend(left_out.map(|name| format!("`{name}` is left out: this model does not end in it")));
    for id in table.ids() {
        let name = &table.spec(id).name;
        if HEADS.contains(&name.as_str()) && !values.contains_key(name) {
            notes.push(format!("`{name}` begins anew: the weights hold none"));
            values.insert(name.clone(), table.initial(id, recipe.seed));
        }
    }
    with_average(Weights { values, updates: None, notes }, recipe, model)
}

/// The same with an average of weights that have stood still, where `recipe` keeps one.
fn with_average(mut weights: Weights, recipe: &Recipe, model: &dyn Model) -> Weights {
    if recipe.optim.average > 0.0 {
        for name in model.params().specs().iter().map(|spec| &spec.name) {
            if let Some(values) = weights.values.get(name).cloned() {
                weights.values.entry(average_name(name)).or_insert(values);
            }
        }
    }
    weights
}

/// How many updates the optimiser of `snapshot` has seen, whose state fits that of `recipe`.
/// # Errors
/// When it holds none, or that of another optimiser.
fn updates(snapshot: &Snapshot, recipe: &Recipe, path: &Path) -> Result<u64, TrainError> {
    let holds = |kind: &str| snapshot.tensors.iter().any(|tensor| tensor.name.starts_with(&format!("{STATE}{kind}/")));
    let is_muon = recipe.optim.kind == OptimKind::Muon;
    let problem = match (holds("m"), holds("momentum")) {
        (false, _) => "it holds no state of an optimiser, as is so of what was imported or exported",
        (true, muon) if muon != is_muon => "its optimiser, `optim.kind`, is another one",
        _ if recipe.from.as_ref().is_some_and(|from| from.rows_by_name) => {
            "averages of gradients do not go by names of tokens (`from.rows_by_name`)"
        }
        _ => return Ok(snapshot.step + snapshot.state["updates_before"].as_u64().unwrap_or(0)),
    };
    let help = "leave `from.optimiser` out: the optimiser then begins anew, which a warm-up (`schedule.warmup_steps`) makes safe";
    Err(TrainError::OtherWeights { path: path.to_owned(), problem: problem.into(), help: help.into() })
}

/// What a decoder ends in: of two models that differ in no more, one can begin with the other's weights.
const HEADS: [&str; 3] = ["head.weight", "scalar.weight", "scalar.bias"];

/// `recipe` with what its `[model]` leaves open as the model has it that the run begins with: all of it where it names no size. Once
/// the run in `out` has a checkpoint, its own recipe tells.
/// # Errors
/// When that recipe cannot be read.
pub fn with_its_model(recipe: &Recipe, out: &Path) -> Result<Recipe, TrainError> {
    let Some(from) = &recipe.from else { return Ok(recipe.clone()) };
    let of_checkpoint = |path: &Path| checkpoint::manifest(path).ok().and_then(|m| Recipe::parse(&m.recipe, "a checkpoint", &[]).ok());
    let theirs = if checkpoint::list(out).is_empty() {
        // Where none can be read, reading the weights tells why.
        let from = checkpoint::here(&from.path)?;
        let listed = checkpoint::list(&from).into_iter().rev().map(|(_, path)| path);
        std::iter::once(from.to_path_buf()).chain(listed).find_map(|path| of_checkpoint(&path))
    } else {
        Some(Recipe::read(&out.join("recipe.toml"), &[])?)
    };
    let mut recipe = recipe.clone();
    let Some(theirs) = theirs.map(|theirs| theirs.model) else { return Ok(recipe) };
    let beginning = models::beginning(&recipe.model, &theirs);
    let is_sized = DIALS.iter().any(|key| recipe.model.contains_key(*key));
    let is_short = |value: &toml::Value| value.as_integer().is_some_and(|most| most < recipe.batch.context as i64);
    for (key, value) in theirs {
        let is_of_tokens = from.rows_by_name && key == "vocab";
        let is_open = beginning.is_none_or(|beginning| beginning.shared.contains(&key.as_str()));
        let is_open = is_open && !(is_of_tokens || is_sized && SIZES.contains(&key.as_str()) || key == "context" && is_short(&value));
        if is_open && !recipe.model.contains_key(&key) {
            recipe.model.insert(key, value);
        }
    }
    Ok(recipe)
}

/// What sets the sizes of a decoder, and the sizes.
const DIALS: [&str; 2] = ["depth", "preset"];
const SIZES: [&str; 6] = ["layers", "model", "heads", "kv_heads", "head_dim", "ffn"];

/// In what the model of `snapshot` is not the one of `ours`: the names and shapes of its arrays, or an option that shows in none.
fn other_model(snapshot: &Snapshot, theirs: &Recipe, ours: &Recipe, model: &dyn Model) -> Option<String> {
    let is_same_head = theirs.model.get("head") == ours.model.get("head");
    let is_state = |name: &str| name.starts_with(STATE);
    let counts = |name: &&str| is_same_head || !HEADS.contains(name);
    let there: BTreeMap<&str, &[usize]> =
        snapshot.tensors.iter().filter(|t| !is_state(&t.name)).map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
    let here: BTreeMap<&str, &[usize]> = model.params().specs().iter().map(|spec| (spec.name.as_str(), spec.shape.dims())).collect();
    let names: std::collections::BTreeSet<&str> = there.keys().chain(here.keys()).copied().filter(counts).collect();
    let count = names.iter().filter(|name| there.get(*name) != here.get(*name)).count();
    if let Some(name) = names.into_iter().find(|name| there.get(name) != here.get(name)) {
        let shape = |shape: Option<&&[usize]>| shape.map_or("absent".to_owned(), |dims| format!("{dims:?}"));
        let (there, here) = (shape(there.get(name)), shape(here.get(name)));
        return Some(format!("`{name}` is {there} there and {here} in this recipe's model ({count} such arrays)"));
    }
    // A longer or shorter context is the same model where no array depends on it.
    let bare = |recipe: &Recipe| {
        let mut recipe = Recipe { model: recipe.model.clone(), optim: Optim::default(), ..ours.clone() };
        recipe.model.remove("context");
        recipe.model.remove("head");
        if ours.from.as_ref().is_some_and(|from| from.rows_by_name) {
            recipe.model.remove("vocab");
        }
        recipe.objective.clear();
        recipe
    };
    let differences = resume::differences(&bare(theirs), &bare(ours));
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Whether a `tokenizer.json` says what that of `feed` says, however it is laid out; unknown where there is none.
/// # Errors
/// When the feed's cannot be read.
pub fn is_same_tokenizer(path: &Path, feed: &dyn Feed) -> Result<Option<bool>, TrainError> {
    let Ok(theirs) = disk::read(path, LARGEST_BYTES) else { return Ok(None) };
    if blake3::hash(&theirs).to_hex().as_str() == feed.content().tokenizer_blake3 {
        return Ok(Some(true));
    }
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let files = feed.tokenizer_files()?;
    let ours = files.iter().find(|(name, _)| name == "tokenizer.json").and_then(|(_, bytes)| value(bytes));
    Ok(Some(ours.is_some() && value(&theirs) == ours))
}
