//! Readers: from a folder, or one file, to a list of where images are, with what is said of each; one file each, named in [`READERS`].
//!
//! Nothing is decoded here. What cannot be read is named and counted, never a panic: a torn shard gives the images before the tear.

mod file;
mod list;
mod parquet;
mod webdataset;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use registry::{Named, Registry};

use crate::prepared;

/// Endings of images that are read.
pub(crate) const IMAGES: &[&str] =
    if cfg!(feature = "svg") { &["png", "jpg", "jpeg", "webp", "svg"] } else { &["png", "jpg", "jpeg", "webp"] };
/// Endings of images and archives that are not.
const OTHERS: &[&str] = &[
    "gif", "bmp", "tif", "tiff", "heic", "heif", "avif", "jxl", "jp2", "ico", "psd", "svg", "zip", "tgz", "gz", "zst", "bz2", "xz",
    "tfrecord", "arrow",
];
/// Of an image's file.
pub(crate) const LARGEST_IMAGE: u64 = 256 << 20;
/// Of a text beside an image, and of a line of a list.
const LARGEST_TEXT: u64 = 1 << 20;
/// Names that are kept of what was left out.
const NAMED: usize = 8;

/// Where the bytes of an image are.
#[derive(Debug, Clone)]
pub enum Place {
    File(PathBuf),
    /// A run of bytes of an open file: a shard, or what was unpacked from one.
    Part {
        file: Arc<File>,
        first: u64,
        bytes: u64,
    },
}

/// One image and what is said of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Unlike that of any other.
    pub name: String,
    pub class: String,
    pub caption: Option<String>,
    pub place: Place,
}

impl Place {
    /// The bytes of the image.
    /// # Errors
    /// Whatever the file system says; more than an image may have.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::File(path) => disk::read(path, LARGEST_IMAGE),
            Self::Part { bytes, .. } if *bytes > LARGEST_IMAGE => Err(std::io::Error::other(format!("it has {bytes} bytes"))),
            Self::Part { file, first, bytes } => {
                let mut all = vec![0; *bytes as usize];
                std::os::unix::fs::FileExt::read_exact_at(&**file, &mut all, *first)?;
                Ok(all)
            }
        }
    }
}

/// What could not be read: some by name, all by number.
#[derive(Debug, Default)]
pub struct Faults {
    count: usize,
    named: Vec<String>,
}

impl Faults {
    /// `name` as a file or its maker gives it.
    pub(crate) fn add(&mut self, name: &str, problem: &str) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("`{}` {}", disk::printable_line(name), disk::printable_line(problem)));
        }
    }

    /// In words, with how many there are of `all`.
    pub(crate) fn note(&self, what: &str, all: usize) -> Option<String> {
        let more = if self.count > self.named.len() { ", ..." } else { "" };
        (self.count > 0).then(|| format!("{} of {all} {what} are left out: {}{more}", self.count, self.named.join("; ")))
    }
}

/// What readers fill.
#[derive(Debug, Default)]
pub struct Sink {
    pub entries: Vec<Entry>,
    pub faults: Faults,
    /// Images that a list names, which are not read once more by themselves.
    listed: HashSet<PathBuf>,
}

/// One file for a reader.
pub struct Source<'a> {
    /// From which names are told.
    pub root: &'a Path,
    pub path: &'a Path,
}

impl Source<'_> {
    /// The file's name below the root.
    fn name(&self) -> String {
        self.path.strip_prefix(self.root).unwrap_or(self.path).display().to_string()
    }

    /// The folder that it lies in.
    fn folder(&self) -> String {
        self.path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// One line of [`READERS`].
pub struct Reader {
    pub name: &'static str,
    /// Of the files that it reads.
    pub endings: &'static [&'static str],
    pub read: fn(&Source<'_>, &mut Sink),
}

impl Named for Reader {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every reader of images.
pub static READERS: Registry<Reader> = Registry::new(&[file::READER, list::READER, parquet::READER, webdataset::READER]);

/// What `path`, a folder or one file, holds, by name; and in words what was not looked at.
pub(crate) fn list(path: &Path) -> (Sink, Vec<String>) {
    let root = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    // Of prepared images there is a sheet to look at, which is none of them.
    let contact = prepared::manifest(root).map(|_| root.join(prepared::CONTACT));
    let files = walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name().into_iter();
    let (mut sink, mut others, mut unseen) = (Sink::default(), BTreeMap::<String, usize>::new(), 0);
    for file in files {
        let file = match file {
            Ok(file) if Some(file.path()) == contact.as_deref() => continue,
            Ok(file) if file.path().is_file() => file,
            Ok(_) => continue,
            Err(_) => {
                unseen += 1;
                continue;
            }
        };
        let ending = ending(file.path());
        match READERS.all().into_iter().find(|reader| reader.endings.contains(&ending.as_str())) {
            Some(reader) => (reader.read)(&Source { root, path: file.path() }, &mut sink),
            None if OTHERS.contains(&ending.as_str()) => *others.entry(ending).or_default() += 1,
            None => {}
        }
    }
    // A list says more of an image than its own file does.
    let listed = std::mem::take(&mut sink.listed);
    let is_alone =
        |entry: &Entry| entry.name.starts_with(list::MARK) || !matches!(&entry.place, Place::File(path) if listed.contains(path));
    sink.entries.retain(is_alone);
    for entry in &mut sink.entries {
        entry.name = entry.name.trim_start_matches(list::MARK).to_owned();
    }
    sink.entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut notes: Vec<String> = others.iter().map(|(ending, count)| format!("{count} files ending in `{ending}` are not read")).collect();
    if unseen > 0 {
        notes.push(format!("{unseen} files or folders could not be looked at"));
    }
    (sink, notes)
}

/// In lower case, without its dot.
fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// A text that says something.
fn said(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// A value of JSON as a text: a string, a number, or the first of a list.
fn json_text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => said(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Array(all) => all.first().and_then(json_text),
        _ => None,
    }
}

/// Keys of tables under which people keep what is wanted.
const IMAGE_KEYS: &[&str] =
    &["image", "file_name", "filename", "filepath", "file", "path", "img", "jpg", "png", "image_path", "image_bytes"];
const CAPTION_KEYS: &[&str] = &["caption", "text", "captions", "title", "description", "txt", "alt"];
const CLASS_KEYS: &[&str] = &["class", "label", "cls", "category", "class_name"];

/// The first of `keys` that `find` knows.
fn first_of<T>(keys: &[&'static str], find: impl FnMut(&&'static str) -> Option<T>) -> Option<T> {
    keys.iter().find_map(find)
}

/// At most `most` bytes of a reader, as text.
fn short_text(reader: impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    reader.take(LARGEST_TEXT).read_to_end(&mut bytes).ok()?;
    said(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests;
