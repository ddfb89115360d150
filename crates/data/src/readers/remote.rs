//! Object stores: every object under a URL is copied to a scratch folder and read from there; in builds with the
//! feature `cloud`. `s3://`, `gs://`, `az://`, `http(s)://`, `file://`, credentials from the environment.

use std::path::Path;

use super::{CorpusOptions, Source};
use crate::DataError;

#[cfg(not(feature = "cloud"))]
pub(super) fn fetch(url: &str, _options: &CorpusOptions, _scratch: &Path, _found: &mut Vec<Source>) -> Result<(), DataError> {
    Err(DataError::Feature { url: url.to_owned(), feature: "cloud" })
}

#[cfg(feature = "cloud")]
pub(super) fn fetch(url: &str, options: &CorpusOptions, scratch: &Path, found: &mut Vec<Source>) -> Result<(), DataError> {
    // Of several URLs each has a folder of its own.
    let folder = scratch.join(format!("url-{:08}", found.len()));
    std::fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
    let is_wanted = |name: &str| options.extensions.is_empty() || super::ends_in(name, &options.extensions);
    let objects = store::download(url, &folder, is_wanted)?;
    found.extend(objects.into_iter().map(|(name, path, bytes)| Source { name, path, bytes }));
    Ok(())
}
