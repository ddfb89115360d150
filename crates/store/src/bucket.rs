//! Sets as objects under a URL.
//!
//! ```text
//! URL/NAME/published.json     names, sizes and hashes of the files; put last, and only if there is none
//! URL/NAME/ID/FILE            each file, under the number of its own set
//! ```
//! `ID` follows from the hashes of all files, so that what stands under one manifest was sent for it: two writers of other files never
//! meet, two of the same files send the same bytes. A file that lies there whole is not sent again, so an upload that was cut goes on.
//! Each object is read back and its hash compared before the manifest is put.
//!
//! Stores that number versions of objects keep what is removed; parts of uploads that were cut are removed by a rule of the bucket.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    path::{Path as FilePath, PathBuf},
};

use futures_util::{StreamExt, TryStreamExt};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion, WriteMultipart, path::Path};

use crate::{Entry, Set, Store, StoreError, set};

/// The manifest of a set.
const MANIFEST: &str = "published.json";
const MANIFEST_BYTES: u64 = 64 << 20;
/// Larger files go in parts of this size, so many of them on the way at once.
const PART_BYTES: usize = 16 << 20;
const PARTS_AT_ONCE: usize = 4;
/// A store takes 10,000 parts at most.
const MOST_PARTS: u64 = 9_000;
/// Of whose variables the clients of these stores are set up.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// See the head of this file.
pub struct Bucket {
    url: String,
    objects: Box<dyn ObjectStore>,
    prefix: Path,
    runtime: tokio::runtime::Runtime,
}

/// Copy the objects under a URL, or the one at it, that `is_wanted` into `folder`: the name of each, its copy and its bytes.
/// # Errors
/// When one cannot be read or written.
pub fn download(url: &str, folder: &FilePath, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, PathBuf, u64)>, StoreError> {
    let bucket = Bucket::open(url)?;
    let objects: Vec<_> = bucket.run("list", &bucket.prefix, bucket.objects.list(Some(&bucket.prefix)).try_collect())?;
    let wanted = objects.into_iter().filter(|object: &object_store::ObjectMeta| is_wanted(object.location.as_ref())).enumerate();
    let copy = |(i, object): (usize, object_store::ObjectMeta)| {
        // A flat name, so that no object's name can point outside the folder.
        let to = folder.join(format!("object-{i:08}"));
        let gone = || StoreError::Missing { place: bucket.shown(&object.location) };
        let (bytes, _) = bucket.copy_to(&object.location, &to)?.ok_or_else(gone)?;
        Ok((object.location.to_string(), to, bytes))
    };
    wanted.map(copy).collect()
}

impl Bucket {
    /// The store that a URL names.
    /// # Errors
    /// [`StoreError::Url`] when it names none, or holds a credential.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let shown = disk::printable_line(url).into_owned();
        let wrong = |problem: String| StoreError::Url { url: shown.clone(), problem: disk::printable_line(&problem).into_owned() };
        let parsed = url::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
        if parsed.password().is_some() || parsed.query().is_some() && !matches!(parsed.scheme(), "http" | "https") {
            let problem = "credentials do not belong in a URL: set the variables that the store's own programs read, such as \
                           `AWS_ACCESS_KEY_ID`, or run where a role has them";
            return Err(wrong(problem.into()));
        }
        let variables = std::env::vars().filter(|(key, _)| VARIABLES.iter().any(|start| key.to_ascii_uppercase().starts_with(start)));
        let (objects, prefix) = object_store::parse_url_opts(&parsed, variables).map_err(|e| wrong(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| wrong(e.to_string()))?;
        Ok(Self { url: shown.trim_end_matches('/').to_owned(), objects, prefix, runtime })
    }

    /// What is published under a name.
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], or when it cannot be read.
    pub fn set(&self, name: &str) -> Result<Set, StoreError> {
        Ok(self.manifest(name)?.ok_or_else(|| StoreError::Missing { place: self.shown(&self.at(name)) })?.0)
    }

    fn manifest(&self, name: &str) -> Result<Option<(Set, UpdateVersion)>, StoreError> {
        let at = self.at(name).join(MANIFEST);
        let Some((bytes, version)) = self.small(&at, MANIFEST_BYTES)? else { return Ok(None) };
        Ok(Some((Set::parse(&bytes, &self.shown(&at))?, version)))
    }

    fn at(&self, name: &str) -> Path {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// An object as a person would write it.
    fn shown(&self, at: &Path) -> String {
        let rest = at.as_ref().strip_prefix(self.prefix.as_ref()).unwrap_or_default().trim_start_matches('/');
        if rest.is_empty() { self.url.clone() } else { format!("{}/{rest}", self.url) }
    }

    fn run<T>(&self, action: &'static str, at: &Path, work: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        self.runtime.block_on(work).map_err(|e| self.error(action, at, &e))
    }

    fn error(&self, action: &'static str, at: &Path, error: &Error) -> StoreError {
        let (place, problem) = (self.shown(at), problem(error));
        match error {
            Error::Generic { .. } | Error::JoinError { .. } => StoreError::Away { action, place, problem },
            _ => StoreError::Refused { action, place, problem },
        }
    }

    /// An object that is held in memory, if it is there.
    fn small(&self, at: &Path, limit_bytes: u64) -> Result<Option<(Vec<u8>, UpdateVersion)>, StoreError> {
        let get = async {
            let got = match self.objects.get(at).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                got => got?,
            };
            let (bytes, version) = (got.meta.size, UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() });
            if bytes > limit_bytes {
                return Ok(Some(Err(bytes)));
            }
            Ok(Some(Ok((got.bytes().await?.to_vec(), version))))
        };
        match self.run("read", at, get)? {
            None => Ok(None),
            Some(Ok(got)) => Ok(Some(got)),
            Some(Err(bytes)) => {
                Err(StoreError::Damaged { place: self.shown(at), problem: format!("its {bytes} bytes are more than {limit_bytes}") })
            }
        }
    }

    /// Copy an object to a file; its length and hash, if it is there.
    fn copy_to(&self, at: &Path, to: &FilePath) -> Result<Option<(u64, String)>, StoreError> {
        let file = File::create(to).map_err(StoreError::io("create", to))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut failed = None;
        let read = self.stream(at, None, |part| out.write_all(part).map_err(|e| failed = Some(e)).is_ok());
        if let Some(e) = failed {
            return Err(StoreError::io("write", to)(e));
        }
        let read = read?;
        let file = out.into_inner().map_err(|e| StoreError::io("write", to)(e.into_error()))?;
        file.sync_all().map_err(StoreError::io("sync", to))?;
        Ok(read)
    }

    /// Length and hash of an object, whose bytes go to `take` until that says no; nothing where it is not there, or not as long as it should
    /// be. Not by a look first: a store that refuses says why only to who wants to read.
    fn stream(&self, at: &Path, want_bytes: Option<u64>, mut take: impl FnMut(&[u8]) -> bool) -> Result<Option<(u64, String)>, StoreError> {
        let read = async {
            let got = match self.objects.get(at).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                got => got?,
            };
            if want_bytes.is_some_and(|want| got.meta.size != want) {
                return Ok(None);
            }
            let (mut stream, mut hasher, mut bytes) = (got.into_stream(), blake3::Hasher::new(), 0);
            while let Some(part) = stream.try_next().await? {
                hasher.update(&part);
                bytes += part.len() as u64;
                if !take(&part) {
                    break;
                }
            }
            Ok(Some((bytes, hasher.finalize().to_hex().to_string())))
        };
        self.run("read", at, read)
    }

    /// Whether an object is there as it should be.
    fn is_whole(&self, at: &Path, entry: &Entry) -> Result<bool, StoreError> {
        Ok(self.stream(at, Some(entry.bytes), |_| true)? == Some((entry.bytes, entry.blake3.clone())))
    }

    /// Put a file, in parts where it is large.
    fn send(&self, path: &FilePath, at: &Path) -> Result<(), StoreError> {
        let mut file = disk::open(path).map_err(StoreError::io("open", path))?;
        let bytes = file.metadata().map_err(StoreError::io("open", path))?.len();
        let io = |e: std::io::Error| StoreError::io("read", path)(e);
        if bytes <= PART_BYTES as u64 {
            let mut all = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut all).map_err(io)?;
            return self.run("put", at, self.objects.put(at, PutPayload::from(all))).map(|_| ());
        }
        let size = PART_BYTES.max(bytes.div_ceil(MOST_PARTS) as usize);
        let send = async {
            let mut upload = WriteMultipart::new_with_chunk_size(self.objects.put_multipart(at).await?, size);
            loop {
                let mut part = vec![0; size];
                let count = match fill(&mut file, &mut part) {
                    Ok(count) => count,
                    Err(e) => {
                        upload.abort().await?;
                        return Ok(Err(e));
                    }
                };
                if count == 0 {
                    upload.finish().await?;
                    return Ok(Ok(()));
                }
                part.truncate(count);
                if let Err(e) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                    // The first error tells why.
                    let _ = upload.abort().await;
                    return Err(e);
                }
                upload.put(part.into());
            }
        };
        self.run("put", at, send)?.map_err(io)
    }

    /// Put a manifest, only if there is none.
    fn seal(&self, name: &str, set: &Set) -> Result<(), StoreError> {
        let at = self.at(name).join(MANIFEST);
        let text = serde_json::to_vec_pretty(set).map_err(|e| StoreError::io("write", FilePath::new(MANIFEST))(e.into()))?;
        let put = async |mode: PutMode| match self.objects.put_opts(&at, text.clone().into(), PutOptions::from(mode)).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(e) => Err(e),
        };
        if self.run("publish", &at, put(PutMode::Create))? {
            return Ok(());
        }
        let (bytes, version) = self.small(&at, MANIFEST_BYTES)?.unwrap_or((Vec::new(), UpdateVersion { e_tag: None, version: None }));
        match Set::parse(&bytes, "") {
            // Ours, whose answer was lost, or a twin's.
            Ok(there) if there == *set => Ok(()),
            Ok(there) if self.holds(name, &there)? => Err(StoreError::Taken { place: self.shown(&self.at(name)) }),
            // What is damaged makes room, unless somebody else was faster.
            _ if self.run("publish", &at, put(PutMode::Update(version)))? => Ok(()),
            _ => Err(StoreError::Taken { place: self.shown(&self.at(name)) }),
        }
    }

    /// Whether all files of a set are there.
    fn holds(&self, name: &str, set: &Set) -> Result<bool, StoreError> {
        let under = self.at(name).join(set.id.as_str());
        set.files.iter().try_fold(true, |all, entry| Ok(all && self.is_whole(&under.clone().join(entry.file.as_str()), entry)?))
    }

    /// Names under the place's own, and what lies in each.
    fn names(&self) -> Result<std::collections::BTreeMap<String, Vec<String>>, StoreError> {
        let objects: Vec<_> = self.run("list", &self.prefix, self.objects.list(Some(&self.prefix)).try_collect())?;
        let mut names = std::collections::BTreeMap::<String, Vec<String>>::new();
        for object in objects {
            let location = object.location.as_ref();
            let rest = location.strip_prefix(self.prefix.as_ref()).unwrap_or(location).trim_start_matches('/');
            if let Some((name, file)) = rest.split_once('/') {
                names.entry(name.to_owned()).or_default().push(file.to_owned());
            }
        }
        Ok(names)
    }

    fn named(&self, is_published: bool) -> Result<Vec<String>, StoreError> {
        let has = |files: &[String]| files.iter().any(|file| file == MANIFEST) == is_published;
        Ok(self.names()?.into_iter().filter(|(_, files)| has(files)).map(|(name, _)| name).collect())
    }

    fn delete(&self, at: &Path) -> Result<(), StoreError> {
        let delete = async {
            match self.objects.delete(at).await {
                Err(Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.run("remove", at, delete)
    }

    fn delete_under(&self, at: &Path) -> Result<(), StoreError> {
        let objects: Vec<_> = self.run("list", at, self.objects.list(Some(at)).map_ok(|object| object.location).try_collect())?;
        let delete = self.objects.delete_stream(futures_util::stream::iter(objects.into_iter().map(Ok)).boxed());
        let gone = |result: Result<Path, Error>| async move {
            match result {
                Err(Error::NotFound { .. }) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.run("remove", at, delete.then(gone).try_collect::<()>())
    }
}

impl Store for Bucket {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.named(true)
    }

    fn unfinished(&self) -> Result<Vec<String>, StoreError> {
        self.named(false)
    }

    fn publish(&self, folder: &FilePath, name: &str) -> Result<(), StoreError> {
        let set = Set::of(folder)?;
        let under = self.at(name).join(set.id.as_str());
        for entry in &set.files {
            let at = under.clone().join(entry.file.as_str());
            if self.is_whole(&at, entry)? {
                continue;
            }
            self.send(&folder.join(&entry.file), &at)?;
            if !self.is_whole(&at, entry)? {
                let problem = "the store does not hold what was just sent to it".to_owned();
                return Err(StoreError::Away { action: "put", place: self.shown(&at), problem });
            }
        }
        let sealed = self.seal(name, &set);
        if let Err(StoreError::Taken { .. }) = sealed {
            self.delete_under(&under)?;
        }
        sealed
    }

    fn fetch(&self, name: &str, to: &FilePath) -> Result<(), StoreError> {
        let set = self.set(name)?;
        let part = disk::beside(to, ".tmp");
        std::fs::create_dir_all(&part).map_err(StoreError::io("create", &part))?;
        for left in std::fs::read_dir(&part).map_err(StoreError::io("list", &part))?.flatten() {
            if set.files.iter().all(|entry| *entry.file != *left.file_name()) {
                std::fs::remove_file(left.path()).map_err(StoreError::io("remove", &left.path()))?;
            }
        }
        for entry in &set.files {
            let (path, at) = (part.join(&entry.file), self.at(name).join(set.id.as_str()).join(entry.file.as_str()));
            let want = (entry.bytes, entry.blake3.clone());
            // What a kill left is used where it is whole.
            if path.is_file() && set::hash(&path)? == want {
                continue;
            }
            let damaged = |problem: String| StoreError::Damaged { place: self.shown(&at), problem };
            let got = self.copy_to(&at, &path)?.ok_or_else(|| damaged("it is gone".into()))?;
            if got != want || set::hash(&path)? != want {
                return Err(damaged(format!("it has {} bytes of {} and the hash {}, not {}", got.0, want.0, got.1, want.1)));
            }
        }
        disk::swap_folder(&part, to).map_err(StoreError::io("create", to))
    }

    fn read(&self, name: &str, file: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let set = self.set(name)?;
        let at = self.at(name).join(set.id.as_str()).join(file);
        let damaged = |problem: &str| StoreError::Damaged { place: self.shown(&at), problem: problem.into() };
        let entry = set.files.iter().find(|entry| entry.file == file).ok_or_else(|| damaged("the manifest lists no such file"))?;
        let (bytes, _) = self.small(&at, limit_bytes)?.ok_or_else(|| damaged("it is gone"))?;
        let got = blake3::hash(&bytes).to_hex();
        if got.as_str() != entry.blake3 {
            return Err(damaged(&format!("its hash is {got}, the manifest says {}", entry.blake3)));
        }
        Ok(bytes)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let at = self.at(name);
        self.delete(&at.clone().join(MANIFEST))?;
        self.delete_under(&at)
    }

    fn rename(&self, name: &str, to: &str) -> Result<(), StoreError> {
        let set = self.set(name)?;
        for Entry { file, .. } in &set.files {
            let [from, to] = [name, to].map(|name| self.at(name).join(set.id.as_str()).join(file.as_str()));
            self.run("copy", &from, self.objects.copy(&from, &to))?;
        }
        self.seal(to, &set)?;
        self.remove(name)
    }

    fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let at = self.at(file);
        self.run("put", &at, self.objects.put(&at, PutPayload::from(bytes))).map(|_| ())
    }

    fn get(&self, file: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.small(&self.at(file), limit_bytes)?.map(|(bytes, _)| bytes))
    }
}

/// As many bytes as there are, up to `part`'s.
fn fill(file: &mut File, part: &mut [u8]) -> std::io::Result<usize> {
    let mut have = 0;
    while have < part.len() {
        match file.read(&mut part[have..])? {
            0 => break,
            count => have += count,
        }
    }
    Ok(have)
}

/// What a store answered, in one line. Of an answer in XML only its code and message: S3 repeats a request that it refuses, with the
/// token that it was signed by.
fn problem(error: &Error) -> String {
    let text = error.to_string();
    let between = |tag: &str| Some(text.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>"))?.0);
    let told = match text.find('<') {
        None => text.clone(),
        Some(at) => {
            let answer: Vec<&str> = ["Code", "Message"].into_iter().filter_map(between).collect();
            format!("{} {}", text[..at].trim_end(), answer.join(": "))
        }
    };
    disk::printable_line(told.trim()).into_owned()
}
