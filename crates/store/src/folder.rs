//! Sets as folders of a folder. Whoever publishes holds it alone, by a lock of his own; so a set takes the place of one that is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Store, StoreError};

/// What a set is called while it is written.
const UNFINISHED: &str = ".tmp";

/// See the head of this file.
pub struct Folder {
    folder: PathBuf,
}

impl Folder {
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Where to write what is to be published as `name`: a rename away.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        disk::beside(&self.at(name), UNFINISHED)
    }

    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.folder.clone() } else { self.folder.join(name) }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl Store for Folder {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.names().into_iter().filter(|name| !name.ends_with(UNFINISHED)).collect())
    }

    fn unfinished(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.names().into_iter().filter(|name| name.ends_with(UNFINISHED)).collect())
    }

    fn publish(&self, folder: &Path, name: &str) -> Result<(), StoreError> {
        let to = self.at(name);
        if let Ok(file) = fs::File::open(folder) {
            file.sync_all().map_err(StoreError::io("sync", folder))?;
        }
        disk::swap_folder(folder, &to).map_err(StoreError::io("create", &to))
    }

    fn fetch(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        let from = self.at(name);
        if !from.is_dir() {
            return Err(StoreError::Missing { place: from.display().to_string() });
        }
        let part = disk::beside(to, UNFINISHED);
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part).map_err(StoreError::io("create", &part))?;
        for entry in fs::read_dir(&from).map_err(StoreError::io("list", &from))?.flatten() {
            fs::copy(entry.path(), part.join(entry.file_name())).map_err(StoreError::io("copy", &entry.path()))?;
        }
        disk::swap_folder(&part, to).map_err(StoreError::io("create", to))
    }

    fn read(&self, name: &str, file: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.at(name).join(file);
        disk::read(&path, limit_bytes).map_err(StoreError::io("read", &path))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        // Out of sight in one step, for a kill may leave a part of it.
        let (path, scratch) = (self.at(name), self.scratch(name));
        if !name.ends_with(UNFINISHED) {
            let _ = fs::remove_dir_all(&scratch);
            fs::rename(&path, &scratch).map_err(StoreError::io("remove", &path))?;
            return fs::remove_dir_all(&scratch).map_err(StoreError::io("remove", &scratch));
        }
        fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))
    }

    fn rename(&self, name: &str, to: &str) -> Result<(), StoreError> {
        let (from, to) = (self.at(name), self.at(to));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        }
        fs::rename(&from, &to).map_err(StoreError::io("rename", &from))
    }

    fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let path = self.folder.join(file);
        disk::write(&path, bytes).map_err(StoreError::io("write", &path))
    }

    fn get(&self, file: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.folder.join(file);
        match disk::read(&path, limit_bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }
}
