//! What a file holds, known by hash: data prepared before are used again only when every file that they came from still holds the
//! same.
//!
//! Hashes of files that were read before are remembered with size and times, and a file is read again when any of these has
//! changed. The time of the last change of an inode (`ctime`) is among them, which no program can set, so a file of the same size
//! and a borrowed modification time is seen. A file changed less than two seconds before it was read (the coarsest clock of a file
//! system) is never taken at its word, as in git's index.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{DataError, readers::Source};

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
    inode: u64,
    read_ns: i128,
    /// Of what it held; why it could not be read, if it could not.
    pub blake3: String,
}

const COARSEST_CLOCK_NS: i128 = 2_000_000_000;

/// What `source` holds, by looking only at its size and times where `before` allows it.
pub(crate) fn of(source: &Source, before: Option<&Known>) -> Known {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    let ns = |secs: i64, ns: i64| i128::from(secs) * 1_000_000_000 + i128::from(ns);
    let mut known = match source.path.metadata() {
        Ok(m) => Known {
            path: source.path.clone(),
            bytes: m.len(),
            modified_ns: ns(m.mtime(), m.mtime_nsec()),
            changed_ns: ns(m.ctime(), m.ctime_nsec()),
            inode: m.ino(),
            read_ns: now,
            blake3: String::new(),
        },
        Err(e) => {
            let blake3 = e.kind().to_string();
            return Known { path: source.path.clone(), bytes: 0, modified_ns: 0, changed_ns: 0, inode: 0, read_ns: now, blake3 };
        }
    };
    if let Some(before) = before
        && known == (Known { read_ns: now, blake3: String::new(), ..before.clone() })
        && before.read_ns - before.changed_ns.max(before.modified_ns) > COARSEST_CLOCK_NS
    {
        return before.clone();
    }
    known.blake3 = hash_file(&source.path).unwrap_or_else(|e| e.kind().to_string());
    known
}

/// blake3 of a file, as hex.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(disk::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// One hash over options and files: of data made from the same, in the same way.
pub(crate) fn fingerprint<'a>(options_blake3: &str, files: impl Iterator<Item = (&'a Source, &'a Known)>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(options_blake3.as_bytes());
    for (source, known) in files {
        hasher.update(format!("{}\0{}\0{}\n", source.name, known.bytes, known.blake3).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// What was known when prepared data were made, beside them; after the hash of the options, one file a line.
pub(crate) const REMEMBERED: &str = "sources.jsonl";

pub(crate) fn remember<'a>(folder: &Path, options_blake3: &str, known: impl Iterator<Item = &'a Known>) -> Result<(), DataError> {
    let path = folder.join(REMEMBERED);
    let fill = |file: &mut std::io::BufWriter<std::fs::File>| {
        serde_json::to_writer(&mut *file, options_blake3)?;
        for known in known {
            file.write_all(b"\n")?;
            serde_json::to_writer(&mut *file, known)?;
        }
        file.write_all(b"\n")
    };
    disk::write_with(&path, fill).map_err(DataError::io("write", &path))
}

/// By path; `None` when they were remembered with other options. A line that is damaged is a file to read again.
pub(crate) fn remembered(folder: &Path, options_blake3: &str) -> Option<HashMap<PathBuf, Known>> {
    let mut lines = BufReader::new(disk::open(&folder.join(REMEMBERED)).ok()?).lines().map_while(Result::ok);
    let options: String = serde_json::from_str(&lines.next()?).ok()?;
    let known = lines.filter_map(|line| serde_json::from_str::<Known>(&line).ok());
    (options == options_blake3).then(|| known.map(|known| (known.path.clone(), known)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_changed_file_is_known_whatever_its_size_and_modification_time_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "one").unwrap();
        let source = Source { name: "a.txt".into(), path: path.clone(), bytes: 3 };
        let first = of(&source, None);
        // Just written: read again, and still the same.
        assert_eq!(of(&source, Some(&first)).blake3, first.blake3);
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(of(&source, Some(&first)).blake3, first.blake3);
        // Read long after the last change: taken at its word, which a wrong hash shows.
        let now = of(&source, None);
        let old = Known { read_ns: now.read_ns + 3 * COARSEST_CLOCK_NS, blake3: "remembered".into(), ..now };
        assert_eq!(of(&source, Some(&old)).blake3, "remembered");
        fs::remove_file(&path).unwrap();
        assert_eq!(of(&source, Some(&old)).blake3, "entity not found");
    }
}
