//! Where sets of files are published: checkpoints, exports, prepared data. A set is the files of one folder under one name; it is there
//! whole or not at all.
//!
//! ```text
//! Folder    a folder of this machine: a set is a folder in it, published by one rename
//! Bucket    what lies under a URL (feature `cloud`): files by their hashes, then a manifest, put last and only if there is none
//! ```
//! Start at [`Store`]. [`open`] gives the one that a path or a URL names, [`here`] a folder of this machine with what is published there.
//!
//! **Invariant:** what is read is what was published, by its hash, or an error; files of two writers never stand under one manifest.
//! **Absent on purpose:** what is in the files, and which sets stay: whoever publishes knows both.

#[cfg(feature = "cloud")]
mod bucket;
mod cache;
mod error;
mod folder;
mod patience;
mod set;

use std::path::Path;

#[cfg(feature = "cloud")]
pub use bucket::{Bucket, download};
pub use cache::{cache, here, lock};
pub use error::StoreError;
pub use folder::Folder;
pub use patience::Patience;
pub use set::{Entry, Set};

/// A place for sets of files. The name `""` stands for the place itself.
pub trait Store: Send + Sync {
    /// Names of the sets that are published, sorted.
    /// # Errors
    /// When the place cannot be read.
    fn list(&self) -> Result<Vec<String>, StoreError>;

    /// Names under which something lies that no publication has finished, sorted.
    /// # Errors
    /// When the place cannot be read.
    fn unfinished(&self) -> Result<Vec<String>, StoreError>;

    /// Publish the files of `folder` as the set `name`: whoever looks, also after a kill, finds all of them or none. The same files again
    /// are no error, and no work where they lie there. `folder` may be moved.
    /// # Errors
    /// [`StoreError::Taken`] when another whole set is published there, in a place that others may write to at the same time; one that is
    /// damaged is replaced. When a file cannot be written, or is not there afterwards as it was sent.
    fn publish(&self, folder: &Path, name: &str) -> Result<(), StoreError>;

    /// Make `to` a folder with the files of a set, which takes the place of what is there in one step.
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], or when it cannot be read or written.
    fn fetch(&self, name: &str, to: &Path) -> Result<(), StoreError>;

    /// One file of a set.
    /// # Errors
    /// As [`Store::fetch`]; when it is larger than `limit_bytes`.
    fn read(&self, name: &str, file: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// Take a set away, and what was left under its name; at no moment is it published and not whole.
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, name: &str) -> Result<(), StoreError>;

    /// Give a set another name.
    /// # Errors
    /// When it is not there, or cannot be moved.
    fn rename(&self, name: &str, to: &str) -> Result<(), StoreError>;

    /// Put one file beside the sets, in place of the one before: a log, whose last writer is right.
    /// # Errors
    /// When it cannot be written.
    fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), StoreError>;

    /// A file that was put beside the sets, if there is one.
    /// # Errors
    /// When it cannot be read; when it is larger than `limit_bytes`.
    fn get(&self, file: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError>;
}

/// Whether `path` is the URL of an object store.
#[must_use]
pub fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains("://"))
}

/// The store at a path or a URL; credentials come from the environment or the machine's role, and from nowhere else.
/// # Errors
/// [`StoreError::Feature`] in builds without `cloud`; [`StoreError::Url`].
pub fn open(path: &Path) -> Result<Box<dyn Store>, StoreError> {
    if !is_url(path) {
        return Ok(Box::new(Folder::new(path)));
    }
    let url = path.to_string_lossy();
    #[cfg(feature = "cloud")]
    return Ok(Box::new(Bucket::open(&url)?));
    #[cfg(not(feature = "cloud"))]
    Err(StoreError::Feature { url: disk::printable_line(&url).into_owned() })
}
