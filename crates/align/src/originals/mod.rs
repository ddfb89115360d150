//! The original model's replies, kept ahead of time: parts of so many prompts, each a parquet file that is published whole in a folder or
//! under a URL.
//!
//! ```text
//! part-1f0c3a9b-000003-of-000012/replies.parquet    a row a reply: prompt, response, seed, ln p of each token, reward, model, tokenizer
//! ```
//! What a part holds follows from the model, the prompts, the options and its number, and the letters in its name from the first three: many
//! workers write parts of one place, each the next that is missing from a place of its own on, and the same part twice is the same part.
//! Start at [`keep`] and [`read`].

#[cfg(feature = "parquet")]
mod columns;

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use store::{Store, StoreError};
use train::run::Loaded;

use crate::{
    AlignError,
    passes::AT_ONCE,
    respond::{self, Options, Responses},
    rollouts::Source,
    rows::{Encoder, tokenizer_blake3},
};

/// Prompts of a part.
pub const PROMPTS: usize = AT_ONCE;
const FILE: &str = "replies.parquet";
/// What the name of a part begins with.
const PART: &str = "part-";
/// Of one part.
const LARGEST_BYTES: u64 = 1 << 32;

fn stored(error: StoreError) -> AlignError {
    AlignError::Data(data::DataError::Store(error))
}

/// Parts of a place, of which this process wrote some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Parts {
    pub written: usize,
    pub there: usize,
    pub of: usize,
}

/// Write the parts of `prompts` that `place`, a folder or a URL, does not hold yet, one after the other, until none is missing or `stop`.
/// `by` names the judge; `done` is told how many parts are there.
/// # Errors
/// When the model cannot write, or the place cannot be read or written.
pub fn keep(
    loaded: &mut Loaded,
    model: &str,
    prompts: &[String],
    place: &Path,
    options: Options,
    (judge, by): (Option<&Source>, &str),
    stop: &AtomicBool,
    mut done: impl FnMut(usize),
) -> Result<Parts, AlignError> {
    let store = store::open(place).map_err(stored)?;
    if !store::is_url(place) {
        // Whoever publishes holds the lock, so what is unfinished now was left by a worker that was killed.
        let _lock = store::lock(place).map_err(stored)?;
        store.unfinished().map_err(stored)?.iter().try_for_each(|name| store.remove(name)).map_err(stored)?;
    }
    let encoder = Encoder::new(&loaded.tokenizer_path.clone(), loaded.recipe.batch.context)?;
    let tokenizer = tokenizer_blake3(&loaded.tokenizer_path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{model} {tokenizer} {by} {options:?}").as_bytes());
    prompts.iter().for_each(|prompt| {
        hasher.update(blake3::hash(prompt.as_bytes()).as_bytes());
    });
    let key = hasher.finalize().to_hex()[..8].to_owned();
    let of = prompts.len().div_ceil(PROMPTS);
    let name = |part: usize| format!("{PART}{key}-{part:06}-of-{of:06}");
    // Workers that begin at the same time begin at different parts, on machines and in containers with equal process numbers too.
    let first = RandomState::new().hash_one(&key) as usize % of.max(1);
    let mut parts = Parts { of, ..Parts::default() };
    loop {
        let there: HashSet<String> = store.list().map_err(stored)?.into_iter().collect();
        let missing = (0..of).map(|i| (first + i) % of).find(|part| !there.contains(&name(*part)));
        parts.there = (0..of).filter(|part| there.contains(&name(*part))).count();
        done(parts.there);
        let Some(part) = missing.filter(|_| !stop.load(Ordering::Relaxed)) else { return Ok(parts) };
        let first = part * PROMPTS;
        let chosen: Vec<(usize, &String)> = prompts.iter().enumerate().skip(first).take(PROMPTS).collect();
        let all = respond::write(loaded, &encoder, model, &chosen, options, judge)?;
        parts.written += usize::from(publish(&*store, place, &name(part), &all)?);
    }
}

/// Publish a part; false where another worker was first.
fn publish(store: &dyn Store, place: &Path, name: &str, all: &[Responses]) -> Result<bool, AlignError> {
    let is_url = store::is_url(place);
    // A folder is published by a rename on its own disk, by one worker at a time; of a bucket the manifest is put if there is none.
    let _lock = if is_url { None } else { Some(store::lock(place).map_err(stored)?) };
    if store.list().map_err(stored)?.iter().any(|other| other == name) {
        return Ok(false);
    }
    let mut scratch = tempfile::Builder::new();
    let scratch = scratch.prefix(name).suffix(".tmp");
    let scratch = if is_url { scratch.tempdir() } else { scratch.tempdir_in(place) }.map_err(AlignError::io("write into", place))?;
    let path = scratch.path().join(FILE);
    disk::write(&path, columns_of(all, &path)?).map_err(AlignError::io("write", &path))?;
    match store.publish(scratch.path(), name) {
        Ok(()) => Ok(true),
        // By a worker of other kernels, whose bits differ in their last places: it is the same part.
        Err(StoreError::Taken { .. }) => Ok(false),
        Err(error) => Err(stored(error)),
    }
}

#[cfg(feature = "parquet")]
fn columns_of(all: &[Responses], path: &Path) -> Result<Vec<u8>, AlignError> {
    columns::write(all).map_err(|e| AlignError::io("write", path)(std::io::Error::other(e)))
}

#[cfg(not(feature = "parquet"))]
fn columns_of(_all: &[Responses], path: &Path) -> Result<Vec<u8>, AlignError> {
    Err(AlignError::Data(data::DataError::Feature { url: path.display().to_string(), feature: "parquet" }))
}

/// Whether replies are kept at `path`, and not a run.
/// # Errors
/// When the place cannot be read.
pub fn are_kept(path: &Path) -> Result<bool, AlignError> {
    if !store::is_url(path) && !path.is_dir() {
        return Ok(path.is_file());
    }
    Ok(parts(&*store::open(path).map_err(stored)?)?.next().is_some())
}

/// Names of the parts of a place.
fn parts(store: &dyn Store) -> Result<impl Iterator<Item = String> + use<>, AlignError> {
    Ok(store.list().map_err(stored)?.into_iter().filter(|name| name.starts_with(PART)))
}

/// Replies that are kept at `path`: a file of JSON lines or of parquet, or a folder or URL of parts.
/// # Errors
/// When it cannot be read, parts are missing, or parts of two models, judges or lists of prompts lie there.
pub fn read(path: &Path) -> Result<Vec<Responses>, AlignError> {
    if !store::is_url(path) && !path.is_dir() {
        return if crate::preferences::is_parquet(path)? { rows(path) } else { respond::read(path) };
    }
    let store = store::open(path).map_err(stored)?;
    let names: Vec<String> = parts(&*store)?.collect();
    let few = |problem: String, help: &str| AlignError::TooFew { path: path.to_owned(), problem, help: help.into() };
    let again = "run the same `hairpin align originals` again: it writes what is missing";
    let wholes: HashSet<(&str, &str)> = names.iter().filter_map(|name| Some((name.get(5..13)?, name.rsplit('-').next()?))).collect();
    if wholes.len() > 1 {
        let help = "give each its own place: they differ in their model, prompts, options or judge";
        return Err(few(format!("the parts of {} sets of replies", wholes.len()), help));
    }
    let Some((_, of)) = wholes.into_iter().next() else { return Err(few("no part".into(), again)) };
    if of.parse() != Ok(names.len()) {
        return Err(few(format!("{} of {} parts", names.len(), of.trim_start_matches('0')), again));
    }
    let scratch = tempfile::tempdir().map_err(AlignError::io("read", path))?;
    let mut all = Vec::new();
    for name in names {
        let bytes = store.read(&name, FILE, LARGEST_BYTES).map_err(stored)?;
        let file = scratch.path().join(FILE);
        disk::write(&file, bytes).map_err(AlignError::io("write", &file))?;
        all.extend(rows(&file)?);
    }
    Ok(all)
}

/// Rows of a parquet file as replies.
fn rows(path: &Path) -> Result<Vec<Responses>, AlignError> {
    let (mut all, mut wrong) = (Vec::new(), None);
    data::records(path, &mut |number, row| {
        let row = row.and_then(|row| serde_json::from_value::<Row>(row).map_err(|e| e.to_string()));
        match row {
            Ok(row) => all.push(row.into()),
            Err(problem) => wrong = Some(format!("row {number}: {problem}")),
        }
    })?;
    match wrong {
        None => Ok(all),
        Some(problem) => {
            let help = "it is damaged or no file of replies: write it again with `hairpin align originals`".into();
            Err(AlignError::TooFew { path: path.to_owned(), problem: format!("what is no reply, in {problem}"), help })
        }
    }
}

/// A reply as its row.
#[derive(serde::Deserialize)]
struct Row {
    prompt: String,
    response: String,
    seed: u64,
    log_probs: Vec<f32>,
    reward: Option<f64>,
    model: String,
    tokenizer: String,
}

impl From<Row> for Responses {
    fn from(row: Row) -> Self {
        Self {
            prompt: row.prompt,
            responses: vec![row.response],
            seeds: vec![row.seed],
            model: row.model,
            tokenizer: Some(row.tokenizer).filter(|hash| !hash.is_empty()),
            log_probs: vec![row.log_probs],
            rewards: row.reward.into_iter().collect(),
        }
    }
}
