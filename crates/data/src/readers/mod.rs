//! Readers: from a path, glob or URL to documents; one file each, named in [`READERS`].
//!
//! Bad input is a [`Fault`]: named, counted, and skipped or refused as the options say. No input makes a reader panic.

mod jsonl;
mod list;
mod parquet;
mod remote;
mod text;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use list::sources;

use crate::{
    DataError,
    tally::{Stage, Tally},
};

/// One text with the name by which it can be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    pub text: String,
}

/// Which files, and what to do with bad ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusOptions {
    /// Folders, files, globs, or URLs (`s3://bucket/prefix`).
    pub paths: Vec<String>,
    pub format: Format,
    /// Endings of the files taken from folders; empty: all that a reader knows.
    pub extensions: Vec<String>,
    /// Where jsonl and parquet keep the text.
    pub text_column: String,
    pub on_bad: OnBad,
    /// A longer line of jsonl is a fault.
    pub max_line_bytes: u64,
    /// A longer document is a fault.
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

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// By the ending of the name.
    Auto,
    Text,
    Jsonl,
    Parquet,
}

/// What to do with bad input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBad {
    Skip,
    Refuse,
}

/// Something wrong with one piece of input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("invalid UTF-8")]
    InvalidUtf8,
    #[error("not text: it holds NUL bytes")]
    Binary,
    #[error("unreadable: {0}")]
    Unreadable(String),
    #[error("torn: {0}")]
    Torn(String),
    #[error("line {line} is longer than `max_line_bytes`")]
    LongLine { line: u64 },
    #[error("longer than `max_document_bytes`")]
    LongDocument,
    #[error("line {line} is not JSON")]
    NotJson { line: u64 },
    #[error("no text in column `{column}`")]
    NoColumn { column: String },
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
            Self::LongLine { .. } => "long_line",
            Self::LongDocument => "long_document",
            Self::NotJson { .. } => "not_json",
            Self::NoColumn { .. } => "no_column",
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
    fn document(&mut self, name: String, text: String) -> Result<(), DataError> {
        if text.len() as u64 > self.options.max_document_bytes {
            return self.fault(&name, Fault::LongDocument);
        }
        self.tally.read(&name, text.len() as u64);
        (self.take)(Document { name, text })
    }

    /// Count a fault, or refuse.
    fn fault(&mut self, name: &str, fault: Fault) -> Result<(), DataError> {
        if self.options.on_bad == OnBad::Refuse {
            return Err(DataError::Refused { name: name.to_owned(), fault: fault.to_string() });
        }
        self.tally.lose(Stage::BadInput, fault.kind(), name, 0, &fault.to_string());
        Ok(())
    }
}

type Read = fn(&Source, &mut Sink<'_>) -> Result<(), DataError>;

/// Every reader: its format, the endings that it knows, and itself.
const READERS: &[(Format, &[&str], Read)] = &[
    (Format::Jsonl, &["jsonl", "ndjson", "jsonl.gz", "jsonl.zst", "ndjson.gz", "ndjson.zst"], jsonl::read),
    (Format::Parquet, &["parquet"], parquet::read),
    (Format::Text, TEXT_ENDINGS, text::read),
];

const TEXT_ENDINGS: &[&str] = &[
    "txt", "md", "markdown", "rst", "org", "tex", "html", "rs", "py", "c", "h", "cc", "cpp", "hpp", "go", "java", "js", "ts", "jsx", "tsx",
    "rb", "sh", "toml", "yaml", "yml", "json", "sql", "swift", "kt", "scala", "hs", "ml", "lua", "pl", "r", "txt.gz", "md.gz", "txt.zst",
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
    let reader = READERS.iter().find(|(format, endings, _)| match options.format {
        Format::Auto => has_ending(&source.name, endings),
        wanted => wanted == *format,
    });
    let read = reader.map_or(text::read as Read, |(.., read)| *read);
    sink.tally.file(&source.name, source.bytes);
    read(source, &mut sink)?;
    Ok(sink.tally)
}

/// Whether a reader knows the ending of a file.
fn is_known(name: &str) -> bool {
    let name = name.to_lowercase();
    READERS.iter().any(|(_, endings, _)| has_ending(&name, endings))
}

fn has_ending(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|e| name.len() > e.len() && name.ends_with(e) && name[..name.len() - e.len()].ends_with('.'))
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
mod fuzz {
    use std::io::Write;

    use super::*;

    /// Every reader, given `bytes` as a file of each ending that it knows.
    fn survives(bytes: &[u8], endings: &[&str]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let options = CorpusOptions { max_line_bytes: 64, max_document_bytes: 256, ..CorpusOptions::default() };
        for ending in endings {
            let source = Source { name: format!("fuzz.{ending}"), path: file.path().to_owned(), bytes: bytes.len() as u64 };
            // A build without parquet says so; nothing else is an error where faults are skipped.
            if let Ok((documents, _)) = read_all(&source, &options) {
                assert!(documents.iter().all(|d| d.text.len() <= 256), "{ending}");
            }
        }
    }

    #[test]
    fn a_file_that_is_gone_is_counted_as_unreadable() {
        for ending in ["txt", "md.gz", "jsonl", "jsonl.zst"] {
            let source = Source { name: format!("gone.{ending}"), path: "/no/such/file".into(), bytes: 0 };
            let (documents, faults) = read_all(&source, &CorpusOptions::default()).unwrap();
            assert_eq!((documents.len(), faults.count(Stage::BadInput, "unreadable")), (0, 1), "{ending}");
            let refuse = CorpusOptions { on_bad: OnBad::Refuse, ..CorpusOptions::default() };
            assert!(matches!(read_all(&source, &refuse), Err(DataError::Refused { name, .. }) if name == source.name));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic() {
        let endings = ["txt", "txt.gz", "txt.zst", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| survives(bytes, &endings));
    }

    /// Whole files with some bytes changed come further into a reader than noise does.
    #[test]
    fn no_change_to_a_whole_file_makes_a_reader_panic() {
        let line = b"{\"text\": \"some words\"}\n".repeat(8);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(&line).unwrap();
        #[allow(unused_mut, reason = "more where parquet is built")]
        let mut files =
            vec![("jsonl", line.clone()), ("jsonl.gz", gz.finish().unwrap()), ("jsonl.zst", zstd::encode_all(line.as_slice(), 1).unwrap())];
        #[cfg(feature = "parquet")]
        files.push(("parquet", parquet::tests::file("text", &["one text", "another text", "a third"])));
        bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|changes| {
            for (ending, whole) in &files {
                let mut bytes = whole.clone();
                for (at, value) in changes {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] = *value;
                }
                survives(&bytes, &[ending]);
            }
        });
    }
}
