//! A set of files as its manifest lists them.

use std::{fs::File, io::Read, path::Path};

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Of what is written now.
const VERSION: u32 = 1;

/// The files of a set, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    version: u32,
    /// What these files are and no others: from their names, sizes and hashes.
    pub id: String,
    pub files: Vec<Entry>,
}

/// A file of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub file: String,
    pub bytes: u64,
    pub blake3: String,
}

impl Set {
    /// The files of a folder.
    /// # Errors
    /// When one cannot be read; when a folder is among them.
    pub fn of(folder: &Path) -> Result<Self, StoreError> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
            let path = entry.map_err(StoreError::io("list", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).filter(|name| disk::plain_name(name).is_ok());
            let not = |why: &str| StoreError::io("publish", &path)(std::io::Error::other(why));
            let file = name.ok_or_else(|| not("its name cannot be that of an object"))?.to_owned();
            if path.is_dir() {
                return Err(not("a set holds files, and no folders"));
            }
            let (bytes, blake3) = hash(&path)?;
            files.push(Entry { file, bytes, blake3 });
        }
        files.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(Self { version: VERSION, id: id(&files), files })
    }

    /// What stands in a manifest at `place`.
    /// # Errors
    /// [`StoreError::Damaged`] when it is none, or lists what no manifest of ours would.
    #[cfg_attr(not(feature = "cloud"), allow(dead_code))]
    pub(crate) fn parse(bytes: &[u8], place: &str) -> Result<Self, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { place: place.to_owned(), problem };
        let set: Self = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if let Some((entry, why)) = set.files.iter().find_map(|entry| Some((entry, disk::plain_name(&entry.file).err()?))) {
            return Err(damaged(format!("the name of its file `{}` {why}", disk::printable_line(&entry.file))));
        }
        if set.version != VERSION || set.id != id(&set.files) {
            return Err(damaged("its list of files is not that of its own number".into()));
        }
        Ok(set)
    }
}

fn id(files: &[Entry]) -> String {
    let mut hasher = blake3::Hasher::new();
    for Entry { file, bytes, blake3 } in files {
        hasher.update(format!("{file}\0{bytes}\0{blake3}\n").as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Length and hash of a file.
pub(crate) fn hash(path: &Path) -> Result<(u64, String), StoreError> {
    let mut file: File = disk::open(path).map_err(StoreError::io("open", path))?;
    let (mut hasher, mut bytes, mut part) = (blake3::Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut part).map_err(StoreError::io("read", path))? {
            0 => return Ok((bytes, hasher.finalize().to_hex().to_string())),
            count => {
                hasher.update(&part[..count]);
                bytes += count as u64;
            }
        }
    }
}
