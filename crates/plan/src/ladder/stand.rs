//! What a phase stands on: earlier phases, whose weights it begins with or is judged by. Their hashes are kept beside its run from its
//! beginning on, so that it is not taken for what it was once one of them is another.

use std::{collections::BTreeMap, path::Path};

use train::{TrainError, recipe::Recipe};

/// In a phase's folder: by a phase's name, the hash of its newest checkpoint.
const FILE: &str = "stands-on.json";
const LARGEST_BYTES: u64 = 1 << 20;

/// Of `phases`, names and folders, those whose folder `recipe` names.
pub(super) fn named<'a>(recipe: &Recipe, phases: &'a [(String, String)]) -> Vec<&'a (String, String)> {
    let recipe = toml::Value::try_from(recipe).unwrap_or(toml::Value::Boolean(false));
    phases.iter().filter(|(_, folder)| is_named(&recipe, folder)).collect()
}

fn is_named(value: &toml::Value, text: &str) -> bool {
    match value {
        toml::Value::String(other) => other == text,
        toml::Value::Array(all) => all.iter().any(|one| is_named(one, text)),
        toml::Value::Table(table) => table.values().any(|one| is_named(one, text)),
        _ => false,
    }
}

/// Keep what those are that the phase in `out`, which is about to begin, stands on.
/// # Errors
/// When it cannot be written.
pub(super) fn keep(out: &Path, on: &[&(String, String)]) -> Result<(), TrainError> {
    let hashes = on.iter().filter_map(|(name, folder)| Some((name, align::respond::identity(Path::new(folder)).ok()?)));
    let hashes: BTreeMap<&String, String> = hashes.collect();
    if hashes.is_empty() {
        return Ok(());
    }
    let path = out.join(FILE);
    let io = |source: std::io::Error| TrainError::Io { action: "write", path: path.clone(), source };
    std::fs::create_dir_all(out).map_err(io)?;
    let text = serde_json::to_vec_pretty(&hashes).map_err(|e| io(e.into()))?;
    disk::write(&path, text).map_err(io)
}

/// Which of those that the phase in `out` stands on are others than when it began. Of phases of before this was kept none is known to be.
pub(super) fn changed<'a>(out: &Path, on: &[&'a (String, String)]) -> Vec<&'a str> {
    let kept = disk::read(&out.join(FILE), LARGEST_BYTES).ok();
    let kept: BTreeMap<String, String> = kept.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let is_another = |(name, folder): &&&(String, String)| {
        let before = kept.get(name);
        before.is_some() && align::respond::identity(Path::new(folder)).ok().is_some_and(|now| before != Some(&now))
    };
    on.iter().filter(is_another).map(|(name, _)| name.as_str()).collect()
}
