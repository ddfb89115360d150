//! Where copies of what is published under URLs are kept on this machine: `HAIRPIN_CACHE`, or `hairpin` in the user's cache folder.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use crate::StoreError;

/// The folder of this machine that belongs to a URL.
#[must_use]
pub fn cache(url: &str) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("HAIRPIN_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("hairpin")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/hairpin")))
        .unwrap_or_else(|| std::env::temp_dir().join("hairpin"));
    let url = url.trim_end_matches('/');
    let last: String =
        url.rsplit('/').next().unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    base.join(format!("{last}-{}", &blake3::hash(url.as_bytes()).to_hex()[..12]))
}

/// `path` itself, or, where it is a URL, a folder of this machine with the set that is published there, fetched unless it is here.
/// # Errors
/// When nothing is published there, or it cannot be read.
pub fn here(path: &Path) -> Result<Cow<'_, Path>, StoreError> {
    if !crate::is_url(path) {
        return Ok(Cow::Borrowed(path));
    }
    let url = path.to_string_lossy();
    #[cfg(not(feature = "cloud"))]
    return Err(StoreError::Feature { url: disk::printable_line(&url).into_owned() });
    #[cfg(feature = "cloud")]
    {
        let bucket = crate::Bucket::open(&url)?;
        let set = bucket.set("")?;
        let folder = cache(&url);
        let to = folder.join(&set.id);
        let _lock = lock(&folder)?;
        if !to.is_dir() {
            crate::Store::fetch(&bucket, "", &to)?;
        }
        Ok(Cow::Owned(to))
    }
}

/// Held while a folder is filled: of several processes of this machine, one fetches.
/// # Errors
/// When the folder cannot be made.
pub fn lock(folder: &Path) -> Result<fs::File, StoreError> {
    fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
    let path = folder.join("fetch.lock");
    let file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(StoreError::io("create", &path))?;
    file.lock().map_err(StoreError::io("lock", &path))?;
    Ok(file)
}
