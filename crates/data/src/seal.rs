//! Notes of what is done, by which a process that comes after a killed one goes on.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::DataError;

/// Note that something is done.
pub(crate) fn seal(path: &Path, what: &impl Serialize) -> Result<(), DataError> {
    let text = serde_json::to_vec(what).map_err(|e| DataError::io("write", path)(e.into()))?;
    disk::write(path, text).map_err(DataError::io("write", path))
}

/// What was noted before, by this process or another.
pub(crate) fn sealed<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
