//! The store: a folder with one folder for each job, whose `job.json` is the [`Record`], readable and mendable by hand.
//!
//! ```text
//! jobs/writer.lock          held by the one process that writes records
//! jobs/inbox/*.json         what others want: launch, stop, resume; taken in order, applied, deleted
//! jobs/NAME/job.json        the record, replaced whole
//! jobs/NAME/recipe.toml     its files
//! jobs/NAME/log             what it says
//! jobs/NAME/run/            its checkpoints and metrics, where it runs on this machine's files
//! ```
//! **Invariant:** an order is applied before it is deleted, and applying it twice is applying it once: a kill loses none.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{LaunchError, job::check_name, record::Record};

/// Of a record: a job of many files and attempts.
const LARGEST_BYTES: u64 = 64 << 20;
const INBOX: &str = "inbox";
const RECORD: &str = "job.json";

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// What a user wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    Launch(Vec<Record>),
    Stop { names: Vec<String>, kill: bool },
    Resume { names: Vec<String> },
}

/// Held by the one that writes records.
#[derive(Debug)]
pub struct WriterLock(#[expect(dead_code, reason = "held for its lock")] File);

impl Store {
    /// The store in `folder`, made where there is none.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn open(folder: &Path) -> Result<Self, LaunchError> {
        let store = Self::at(folder)?;
        let inbox = store.folder.join(INBOX);
        fs::create_dir_all(&inbox).map_err(LaunchError::io("create", &inbox))?;
        Ok(store)
    }

    /// The same, and nothing is made yet.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn at(folder: &Path) -> Result<Self, LaunchError> {
        Ok(Self { folder: std::path::absolute(folder).map_err(LaunchError::io("find", folder))? })
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of one job.
    #[must_use]
    pub fn home(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Become the writer; `None` while another process is it.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn lock(&self) -> Result<Option<WriterLock>, LaunchError> {
        let path = self.folder.join("writer.lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(LaunchError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(WriterLock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(LaunchError::io("lock", &path)(e)),
        }
    }

    /// All records in the order of their launch, and what is wrong with those that cannot be read.
    /// # Errors
    /// [`LaunchError::Io`] when the folder cannot be listed.
    pub fn list(&self) -> Result<(Vec<Record>, Vec<LaunchError>), LaunchError> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.folder).map_err(LaunchError::io("list", &self.folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == INBOX || !entry.path().is_dir() {
                continue;
            }
            match self.read(&name) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => damaged.push(error),
            }
        }
        records.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.job.name.cmp(&b.job.name)));
        Ok((records, damaged))
    }

    /// One record; `None` where there is none.
    /// # Errors
    /// [`LaunchError::Damaged`] when it is none, or another's.
    pub fn read(&self, name: &str) -> Result<Option<Record>, LaunchError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let path = self.home(name).join(RECORD);
        let damaged = |problem: String| LaunchError::Damaged { path: path.clone(), problem };
        let text = match disk::read(&path, LARGEST_BYTES) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(damaged(e.to_string())),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if record.job.name != name {
            return Err(damaged(format!("it is the record of `{}`", record.job.name)));
        }
        Ok(Some(record))
    }

    /// One record.
    /// # Errors
    /// [`LaunchError::NoJob`] with the nearest names; as [`Store::read`].
    pub fn find(&self, name: &str) -> Result<Record, LaunchError> {
        if let Some(record) = self.read(name)? {
            return Ok(record);
        }
        let (all, _) = self.list()?;
        let mut near: Vec<&str> =
            all.iter().map(|r| r.job.name.as_str()).filter(|other| !name.is_empty() && other.contains(name)).collect();
        near.truncate(3);
        let near = if near.is_empty() { String::new() } else { format!("the nearest are `{}`; ", near.join("`, `")) };
        Err(LaunchError::NoJob { name: name.into(), near })
    }

    /// The record of a job of the same name, if that is the same job.
    /// # Errors
    /// [`LaunchError::NameTaken`] when it is another; as [`Store::read`].
    pub fn known(&self, record: &Record) -> Result<Option<Record>, LaunchError> {
        match self.read(&record.job.name)? {
            Some(known) if known.job.content() != record.job.content() => Err(LaunchError::NameTaken { name: record.job.name.clone() }),
            known => Ok(known),
        }
    }

    /// Write a record. The writer's, whose lock is to be shown.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn write(&self, _lock: &WriterLock, record: &Record) -> Result<(), LaunchError> {
        let home = self.home(&record.job.name);
        let path = home.join(RECORD);
        fs::create_dir_all(&home).map_err(LaunchError::io("create", &home))?;
        let text = serde_json::to_string_pretty(record).map_err(|e| LaunchError::io("write", &path)(e.into()))?;
        disk::write(&path, text + "\n").map_err(LaunchError::io("write", &path))
    }

    /// Put the files of a job that is new into its folder, before its record says that it is there.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn write_files(&self, record: &Record) -> Result<(), LaunchError> {
        let home = self.home(&record.job.name);
        fs::create_dir_all(&home).map_err(LaunchError::io("create", &home))?;
        for (name, text) in &record.job.files {
            let path = home.join(name);
            disk::plain_name(name)
                .map_err(|problem| LaunchError::Damaged { path: path.clone(), problem: format!("the name {problem}") })?;
            disk::write(&path, text).map_err(LaunchError::io("write", &path))?;
        }
        Ok(())
    }

    /// Leave an order for the writer.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn order(&self, order: &Order) -> Result<(), LaunchError> {
        let nanos = (train::clock::unix_secs() * 1e9) as u64;
        let path = self.folder.join(INBOX).join(format!("{nanos:020}-{}.json", std::process::id()));
        let text = serde_json::to_string(order).map_err(|e| LaunchError::io("write", &path)(e.into()))?;
        disk::write(&path, text).map_err(LaunchError::io("write", &path))
    }

    /// All orders that wait, oldest first, each with its file; one that is none is `Err`.
    /// # Errors
    /// [`LaunchError::Io`] when the inbox cannot be listed.
    pub fn orders(&self) -> Result<Vec<(PathBuf, Result<Order, LaunchError>)>, LaunchError> {
        let inbox = self.folder.join(INBOX);
        let entries = fs::read_dir(&inbox).map_err(LaunchError::io("list", &inbox))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_order(path)).collect();
        paths.sort();
        let read = |path: PathBuf| {
            let damaged = |problem: String| LaunchError::Damaged { path: path.clone(), problem };
            let text = disk::read(&path, 16 * LARGEST_BYTES).map_err(|e| damaged(e.to_string()));
            let order = text.and_then(|text| serde_json::from_slice(&text).map_err(|e| damaged(e.to_string())));
            (path, order)
        };
        Ok(paths.into_iter().map(read).collect())
    }
}

/// What a kill left half written begins with a dot.
fn is_order(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && name.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{queue::tests::record, record::State};

    #[test]
    fn records_come_back_and_what_is_damaged_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let lock = store.lock().unwrap().unwrap();
        assert!(store.lock().unwrap().is_none(), "one writer");
        let a = record(&store, "a");
        store.write(&lock, &a).unwrap();
        assert_eq!(store.find("a").unwrap(), a);
        assert!(matches!(store.find("b"), Err(LaunchError::NoJob { .. })));
        assert!(store.read("../a").unwrap().is_none(), "a name is no path");
        let path = folder.path().join("a/job.json");
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        for bad in
            [&whole[..whole.len() / 2], b"", b"[]", text.replace("\"a\"", "\"b\"").as_bytes(), text.replace("queued", "9").as_bytes()]
        {
            fs::write(&path, bad).unwrap();
            let (records, damaged) = store.list().unwrap();
            assert!(records.is_empty() && matches!(damaged[..], [LaunchError::Damaged { .. }]), "{damaged:?}");
        }
    }

    #[test]
    fn orders_come_in_their_order_and_torn_ones_as_errors() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let stop = Order::Stop { names: vec!["a".into()], kill: false };
        store.order(&Order::Launch(vec![record(&store, "a")])).unwrap();
        store.order(&stop).unwrap();
        fs::write(folder.path().join("inbox/.left.json.tmp"), "{").unwrap();
        fs::write(folder.path().join("inbox/99999999999999999999-1.json"), "{\"stop").unwrap();
        let orders = store.orders().unwrap();
        assert_eq!(orders.len(), 3);
        assert!(matches!(&orders[0].1, Ok(Order::Launch(records)) if records[0].state == State::Queued));
        assert_eq!(orders[1].1.as_ref().unwrap(), &stop);
        assert!(orders[2].1.is_err());
    }
}
