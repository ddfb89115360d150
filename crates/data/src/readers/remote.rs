//! Object stores: every object under a URL is copied to a scratch folder and read from there; in builds with the
//! feature `cloud`. `s3://`, `gs://`, `az://`, `http(s)://`, `file://` and `memory://`, credentials from the environment.

use std::path::Path;

use super::{CorpusOptions, Source};
use crate::DataError;

#[cfg(not(feature = "cloud"))]
pub(super) fn fetch(url: &str, _options: &CorpusOptions, _scratch: &Path, _found: &mut Vec<Source>) -> Result<(), DataError> {
    Err(DataError::Feature { url: url.to_owned(), feature: "cloud" })
}

#[cfg(feature = "cloud")]
pub(super) fn fetch(url: &str, options: &CorpusOptions, scratch: &Path, found: &mut Vec<Source>) -> Result<(), DataError> {
    use futures_util::TryStreamExt;
    use object_store::{ObjectStore, ObjectStoreExt};

    let problem = |e: &dyn std::fmt::Display| DataError::Refused { name: url.to_owned(), fault: e.to_string() };
    let parsed = url::Url::parse(url).map_err(|e| problem(&e))?;
    let (store, prefix) = object_store::parse_url_opts(&parsed, std::env::vars()).map_err(|e| problem(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| problem(&e))?;
    runtime.block_on(async {
        let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.map_err(|e| problem(&e))?;
        for object in objects {
            let name = object.location.to_string();
            if !options.extensions.is_empty() && !super::ends_in(&name, &options.extensions) {
                continue;
            }
            let bytes = store.get(&object.location).await.map_err(|e| problem(&e))?.bytes().await.map_err(|e| problem(&e))?;
            // A flat name, so that no object's name can point outside the folder.
            let path = scratch.join(format!("object-{:08}", found.len()));
            std::fs::write(&path, &bytes).map_err(DataError::io("write", &path))?;
            found.push(Source { name, path, bytes: bytes.len() as u64 });
        }
        Ok(())
    })
}
