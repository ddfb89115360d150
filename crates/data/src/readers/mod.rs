//! Readers: from a path, glob or URL to documents; one file each, named in [`READERS`].
//!
//! Bad input is a [`Fault`]: named, counted, and skipped or refused as the options say. No input makes a reader panic.

mod archive;
mod csv;
mod encoding;
mod json;
mod list;
mod parquet;
mod pieces;
mod record;
mod remote;
mod text;
mod unpack;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use list::sources;
pub use parquet::records;
use unpack::Stream;

use crate::{
    DataError,
    names::PACKED,
    tally::{Stage, Tally},
};

/// One text with the name by which it can be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    pub text: String,
}

/// Which files, and what to do with bad ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusOptions {
    /// Folders, files, globs, or URLs (`s3://bucket/prefix`).
    pub paths: Vec<String>,
    /// How files are read.
    pub format: Format,
    /// Endings of the files taken from folders; empty: all that a reader knows.
    pub extensions: Vec<String>,
    /// Where JSON, tables and parquet keep the text: a key, or keys with dots between them (`data.text`).
    pub text_column: String,
    /// What to do with bad input.
    pub on_bad: OnBad,
    /// A longer record of JSON or row of a table is a fault.
    pub max_line_bytes: u64,
    /// A longer document is cut into several, at paragraphs.
    pub max_document_bytes: u64,
    /// Take no more files once this much is read; which ones is a matter of their names alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_bytes: Option<u64>,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            format: Format::Auto,
            extensions: Vec::new(),
            text_column: "text".into(),
            on_bad: OnBad::Skip,
            max_line_bytes: 64 << 20,
            max_document_bytes: 16 << 20,
            max_total_bytes: None,
        }
    }
}

impl CorpusOptions {
    /// Bytes of the files that the options name, as they lie on this disk; those of URLs are not known before they are fetched.
    /// # Errors
    /// When a path or pattern leads to none.
    pub fn local_bytes(&self) -> Result<u64, DataError> {
        let mut here = self.clone();
        here.paths.retain(|path| !path.contains("://"));
        Ok(sources(&here, Path::new(""), &mut Tally::default())?.iter().map(|source| source.bytes).sum())
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// By the first bytes and the ending of the name.
    Auto,
    /// As one text, whatever its name.
    Text,
    /// As JSON, a document a record.
    Jsonl,
    /// As parquet, a document a row.
    Parquet,
}

/// What to do with bad input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBad {
    /// Left out, counted, and told with examples.
    Skip,
    /// An error at the first.
    Refuse,
}

/// Something wrong with one piece of input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("neither UTF-8 nor marked as another encoding")]
    InvalidUtf8,
    #[error("not text: it holds NUL bytes or many control characters")]
    Binary,
    #[error("unreadable: {0}")]
    Unreadable(String),
    #[error("torn: {0}")]
    Torn(String),
    #[error("longer than `max_line_bytes`")]
    LongLine,
    #[error("not JSON: {why}")]
    NotJson { why: String },
    #[error("no column `{column}`{others}")]
    NoColumn { column: String, others: String },
    #[error("column `{column}` holds no text")]
    NotText { column: String },
    #[error("no text in it")]
    Empty,
    #[error("it is {0}, which is not read")]
    Unsupported(String),
}

impl Fault {
    /// The name under which faults of this kind are counted.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Binary => "binary",
            Self::Unreadable(_) => "unreadable",
            Self::Torn(_) => "torn",
            Self::LongLine => "long_line",
            Self::NotJson { .. } => "not_json",
            Self::NoColumn { .. } => "no_column",
            Self::NotText { .. } => "not_text",
            Self::Empty => "empty",
            Self::Unsupported(_) => "unsupported",
        }
    }

    fn of(e: &std::io::Error) -> Self {
        use std::io::ErrorKind::{Interrupted, InvalidInput, NotFound, PermissionDenied};
        // What `disk::open` refuses has no number of the system's.
        match e.kind() {
            NotFound | PermissionDenied | Interrupted => Self::Unreadable(e.to_string()),
            InvalidInput if e.to_string().ends_with("not a file") => Self::Unreadable(e.to_string()),
            _ => Self::Torn(e.to_string()),
        }
    }
}

/// What a reader hands its findings to: documents go on as they are read, so that a file costs no more memory than one.
pub(crate) struct Sink<'a> {
    options: &'a CorpusOptions,
    take: &'a mut dyn FnMut(Document) -> Result<(), DataError>,
    tally: Tally,
}

impl Sink<'_> {
    /// Hand on a document, in pieces if it is longer than one may be.
    fn document(&mut self, name: String, mut text: String) -> Result<(), DataError> {
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        if text.trim().is_empty() {
            return self.fault(&name, text.len() as u64, Fault::Empty);
        }
        if text.len() as u64 <= self.options.max_document_bytes {
            self.tally.read(&name, text.len() as u64);
            return (self.take)(Document { name, text });
        }
        self.mended(&name, text.len() as u64, "longer than max_document_bytes: cut at paragraphs");
        let most = pieces::most(self.options.max_document_bytes);
        let mut rest = text.as_str();
        for part in 1_u64.. {
            let end = if rest.len() > most { pieces::cut(rest.as_bytes(), most) } else { rest.len() };
            // Cut between characters; a limit below one character's bytes leaves it whole.
            let end = (end..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            if !piece.trim().is_empty() {
                self.tally.read(&name, piece.len() as u64);
                (self.take)(Document { name: format!("{name}#{part}"), text: piece.to_owned() })?;
            }
            if after.is_empty() {
                break;
            }
            rest = after;
        }
        Ok(())
    }

    /// Count a fault that cost so many bytes, or refuse.
    fn fault(&mut self, name: &str, bytes: u64, fault: Fault) -> Result<(), DataError> {
        if self.options.on_bad == OnBad::Refuse {
            return Err(DataError::Refused { name: name.to_owned(), fault: fault.to_string() });
        }
        self.tally.lose(Stage::BadInput, fault.kind(), name, bytes, &fault.to_string());
        Ok(())
    }

    /// A record without the column, and those that it has.
    fn no_column(&mut self, name: &str, bytes: u64, found: &BTreeSet<String>) -> Result<(), DataError> {
        found.iter().for_each(|column| self.tally.column(column));
        let names = found.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let others = if names.is_empty() { String::new() } else { format!("; there are {names}") };
        self.fault(name, bytes, Fault::NoColumn { column: self.options.text_column.clone(), others })
    }

    /// Read, but not as it stands.
    fn mended(&mut self, name: &str, bytes: u64, how: &str) {
        self.tally.lose(Stage::Mended, how, name, bytes, "");
    }

    /// Read by a guess, which is refused where bad input is.
    fn guessed(&mut self, name: &str, bytes: u64, how: &str) -> Result<(), DataError> {
        if self.options.on_bad == OnBad::Refuse {
            return self.fault(name, bytes, Fault::InvalidUtf8);
        }
        self.mended(name, bytes, how);
        Ok(())
    }
}

/// A file, or a member of an archive, to read.
pub(crate) struct Input<'a> {
    name: String,
    /// The last ending in small letters, without that of a packing.
    ending: String,
    /// Of a file that is not within another, packed or not.
    path: Option<&'a Path>,
    bytes: u64,
    stream: Stream<'a>,
    /// Archives around it.
    depth: usize,
}

impl<'a> Input<'a> {
    fn new(name: &str, path: Option<&'a Path>, bytes: u64, stream: Stream<'a>, depth: usize) -> Self {
        Self { name: name.to_owned(), ending: ending(name), path, bytes, stream, depth }
    }
}

type Read = fn(Input<'_>, &mut Sink<'_>) -> Result<(), DataError>;

/// Every reader: its format, the endings that it knows, and itself.
const READERS: &[(Format, &[&str], Read)] = &[
    (Format::Jsonl, &["jsonl", "ndjson", "jsonlines"], json::read),
    (Format::Auto, &["json"], json::read_file),
    (Format::Auto, &["csv", "tsv"], csv::read),
    (Format::Parquet, &["parquet", "pq"], parquet::read),
    (Format::Auto, &["tar", "tgz"], archive::tar),
    (Format::Auto, &["zip"], archive::zip),
    (Format::Text, PROSE, text::read),
    (Format::Text, CODE, text::read),
];

const PROSE: &[&str] = &["txt", "text", "md", "markdown", "mdx", "rst", "adoc", "asciidoc", "org", "tex", "html", "htm", "dict"];

/// Source code and settings.
pub(crate) const CODE: &[&str] = &[
    "rs", "py", "c", "h", "cc", "cpp", "hpp", "go", "java", "js", "ts", "jsx", "tsx", "rb", "sh", "toml", "yaml", "yml", "sql", "swift",
    "kt", "scala", "hs", "ml", "lua", "pl", "r",
];

/// What is known by its first bytes and not read.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"ARROW1", "an Arrow file (write it as parquet: `Dataset.to_parquet`)"),
    (&[0xff, 0xff, 0xff, 0xff], "an Arrow stream (write it as parquet: `Dataset.to_parquet`)"),
    (b"WARC/", "a WARC archive (take its text out first, with trafilatura or warcio)"),
    (b"version https://git-lfs.github.com", "a pointer of Git LFS (fetch the file: `git lfs pull`)"),
    (b"%PDF", "a PDF"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"SQLite format 3", "an SQLite database"),
    (&[0x89, b'H', b'D', b'F'], "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (&[b'7', b'z', 0xbc, 0xaf], "a 7z archive"),
    (b"Rar!", "a RAR archive"),
];

#[cfg(test)]
pub(crate) fn read_all(source: &Source, options: &CorpusOptions) -> Result<(Vec<Document>, Tally), DataError> {
    let mut documents = Vec::new();
    let tally = read(source, options, &mut |document| {
        documents.push(document);
        Ok(())
    })?;
    Ok((documents, tally))
}

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// Name below the path that was given: the same on every machine.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Read one file through the reader of its format; `take` is given its documents in their order, and its error ends the reading.
pub(crate) fn read(
    source: &Source,
    options: &CorpusOptions,
    take: &mut dyn FnMut(Document) -> Result<(), DataError>,
) -> Result<Tally, DataError> {
    let mut sink = Sink { options, take, tally: Tally::default() };
    sink.tally.file(&source.name, source.bytes);
    match unpack::open(&source.path) {
        Ok(stream) => read_stream(Input::new(&source.name, Some(&source.path), source.bytes, stream, 0), &mut sink)?,
        Err(e) => sink.fault(&source.name, source.bytes, Fault::of(&e))?,
    }
    Ok(sink.tally)
}

/// Read what was opened and unpacked, by what its first bytes are and its name says.
fn read_stream(mut input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let (head, stream) = match unpack::peek(input.stream) {
        Ok(peeked) => peeked,
        Err(e) => return sink.fault(&input.name, input.bytes, Fault::of(&e)),
    };
    input.stream = stream;
    let wanted = sink.options.format;
    if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return sink.fault(&input.name, input.bytes, Fault::Unsupported((*what).to_owned()));
    }
    if head.starts_with(b"PAR1") && matches!(wanted, Format::Auto | Format::Parquet) {
        return parquet::read(input, sink);
    }
    let is_tar = head.get(257..262) == Some(b"ustar");
    if is_tar || head.starts_with(b"PK\x03\x04") {
        if input.depth > 0 {
            return sink.fault(&input.name, input.bytes, Fault::Unsupported("an archive within another".into()));
        }
        return if is_tar { archive::tar(input, sink) } else { archive::zip(input, sink) };
    }
    let reader = READERS.iter().find(|(format, endings, _)| match wanted {
        Format::Auto => endings.contains(&input.ending.as_str()),
        wanted => wanted == *format,
    });
    let (format, read) = reader.map_or((Format::Text, text::read as Read), |(format, _, read)| (*format, *read));
    if format == Format::Parquet {
        return read(input, sink);
    }
    match encoding::to_utf8(input.stream) {
        Ok((stream, was)) => {
            input.stream = stream;
            if let Some(was) = was {
                sink.mended(&input.name, input.bytes, &format!("decoded from {was}"));
            }
            read(input, sink)
        }
        Err(e) => sink.fault(&input.name, input.bytes, Fault::of(&e)),
    }
}

/// Whether a reader knows the ending of a file.
fn is_known(name: &str) -> bool {
    let ending = ending(name);
    READERS.iter().any(|(_, endings, _)| endings.contains(&ending.as_str()))
}

/// Why a file is left out whose ending no reader knows.
fn unknown_ending(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((_, ending)) if !ending.is_empty() && ending.len() <= 16 => format!("ending .{}", ending.to_lowercase()),
        _ => "no ending".to_owned(),
    }
}

/// Whether a name has one of the endings that somebody gave, in letters of any size.
fn ends_in(name: &str, endings: &[String]) -> bool {
    let name = name.to_lowercase();
    endings.iter().any(|e| name.ends_with(&format!(".{}", e.trim_start_matches('.').to_lowercase())))
}

/// The ending in small letters, without that of a packing: `jsonl` of `a.JSONL.gz`; empty where there is none.
pub(crate) fn ending(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let mut parts: Vec<&str> = name.split('.').skip(1).collect();
    if parts.last().is_some_and(|last| PACKED.contains(last)) {
        parts.pop();
    }
    parts.last().map_or(String::new(), |last| (*last).to_owned())
}

/// The sources of the crates that cargo fetched: real text that every machine with Rust has.
#[must_use]
pub fn cargo_sources() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry").join("src")).ok()?;
    registries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).max()
}

#[cfg(test)]
mod tests;
