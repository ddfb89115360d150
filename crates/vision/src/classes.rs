//! The names of classes, which a checkpoint keeps so that a model can be used without its images.

use std::path::Path;

use train::checkpoint::{self, TokenizerFiles};

const FILE: &str = "classes.json";
const LARGEST_BYTES: u64 = 64 << 20;

/// Of a run, a checkpoint or an imported model, by number; none where it keeps none.
#[must_use]
pub fn of(folder: &Path) -> Vec<String> {
    let checkpoints = std::iter::once(folder.to_owned()).chain(checkpoint::list(folder).into_iter().rev().map(|(_, path)| path));
    let read = |path: std::path::PathBuf| disk::read_text(&path.join(FILE), LARGEST_BYTES).ok();
    checkpoints.filter_map(read).find_map(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// How many there are, in words.
#[must_use]
pub fn counted(count: usize) -> String {
    format!("{count} class{}", if count == 1 { "" } else { "es" })
}

/// What a checkpoint keeps of them.
#[must_use]
pub fn files(names: &[String]) -> TokenizerFiles {
    if names.is_empty() {
        return Vec::new();
    }
    vec![(FILE.to_owned(), serde_json::to_vec(names).unwrap_or_default())]
}
