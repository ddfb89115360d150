//! Shards: the tokens of a corpus on disk, and how a window of them is read.
//!
//! ```text
//! train-00000.tok ...      64-byte header, then u16 or u32 tokens; documents one after another, an end between them
//! train.documents.jsonl    name and first token of each document
//! manifest.json            sizes, and a hash of every file; manifest.blake3 holds its own
//! ```
//! Hashes are checked after writing and when a dataset is opened; that of a shard when it is first read, once for all who share the
//! dataset. Tokens are read, not mapped: a file that is cut under a run is an error then, and not the end of the process. Documents lie
//! in the order of a keyed hash, so that a fraction of the data is a prefix: 1% is contained in 5%.
//!
//! **Invariant:** reading depends on the window's number alone. **Absent on purpose:** shuffling, which is the sampler's.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{Content, DataError, Tokenizer, ends};

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const MAGIC: &[u8; 8] = b"HAIRPIN1";

/// One document's place in its split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentEntry {
    pub name: String,
    /// Its first token.
    pub start: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub version: u32,
    /// Of the options and the input that the data was made from.
    pub options_blake3: String,
    pub vocab: usize,
    pub tokenizer_blake3: String,
    /// Of the file that tells its ends; older data have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_blake3: Option<String>,
    pub train: SplitManifest,
    pub held_out: SplitManifest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitManifest {
    pub tokens: u64,
    pub bytes: u64,
    pub documents: u64,
    pub documents_blake3: String,
    pub shards: Vec<ShardManifest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShardManifest {
    pub file: String,
    pub tokens: u64,
    pub blake3: String,
}

impl Manifest {
    fn content(&self) -> Content {
        let mut hasher = blake3::Hasher::new();
        let mut split = |name: &str, split: &SplitManifest| {
            hasher.update(format!("{name} {} {}\n", split.tokens, split.bytes).as_bytes());
            for shard in &split.shards {
                hasher.update(format!("{} {}\n", shard.tokens, shard.blake3).as_bytes());
            }
        };
        split("train", &self.train);
        split("held_out", &self.held_out);
        Content { tokens_blake3: hasher.finalize().to_hex().to_string(), tokenizer_blake3: self.tokenizer_blake3.clone() }
    }
}

/// Write a file, read it back, and give its hash.
fn write(path: &Path, text: &str) -> Result<String, DataError> {
    disk::write(path, text).map_err(DataError::io("write", path))?;
    let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
    check(path, &hash)?;
    Ok(hash)
}

fn check(path: &Path, want: &str) -> Result<(), DataError> {
    let mut file = disk::open(path).map_err(DataError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).map_err(DataError::io("read", path))?;
    let got = hasher.finalize().to_hex();
    if got.as_str() == want {
        return Ok(());
    }
    Err(DataError::Damaged { path: path.to_owned(), problem: format!("its hash is {got}, the manifest says {want}") })
}

pub(crate) fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<(), DataError> {
    let path = folder.join("manifest.json");
    let text = serde_json::to_string_pretty(manifest).map_err(|e| DataError::io("write", &path)(e.into()))?;
    let hash = write(&path, &text)?;
    write(&folder.join("manifest.blake3"), &hash)?;
    Ok(())
}

pub(crate) fn read_manifest(folder: &Path) -> Result<Manifest, DataError> {
    let path = folder.join("manifest.json");
    // What may not be looked at, or is no file, is named by the reading below.
    if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Err(DataError::NotPrepared { path: folder.to_owned(), problem: "it has no `manifest.json`".into() });
    }
    let hash_path = folder.join("manifest.blake3");
    let hash = disk::read_text(&hash_path, 1 << 10).map_err(DataError::io("read", &hash_path))?;
    check(&path, &hash)?;
    let text = disk::read_text(&path, 1 << 30).map_err(DataError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|e| DataError::Damaged { path, problem: e.to_string() })
}

/// Prepared data: two splits and the tokenizer that made them.
pub struct Dataset {
    train: Split,
    held_out: Split,
    tokenizer: Tokenizer,
    content: Content,
    folder: PathBuf,
}

impl Dataset {
    /// Open a folder that [`crate::prepare()`] made, or a URL where one was published, checking every hash but those of shards, which are
    /// checked when they are first read.
    /// # Errors
    /// When it is none, any byte of its other files has changed, or a shard is of another length.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let folder = &*store::here(folder)?;
        let manifest = read_manifest(folder)?;
        check(&folder.join("tokenizer.json"), &manifest.tokenizer_blake3)?;
        if let Some(hash) = &manifest.ends_blake3 {
            check(&folder.join(ends::FILE), hash)?;
        }
        let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"))?;
        let split = |name, m: &SplitManifest| Split::open(folder, name, m, manifest.vocab);
        let (train, held_out) = (split("train", &manifest.train)?, split("held_out", &manifest.held_out)?);
        Ok(Self { train, held_out, tokenizer, content: manifest.content(), folder: folder.to_owned() })
    }

    /// Check every shard now.
    /// # Errors
    /// When any byte of one has changed.
    pub fn verify(&self) -> Result<(), DataError> {
        self.train.shards.iter().chain(&self.held_out.shards).try_for_each(Shard::verify)
    }

    #[must_use]
    pub fn vocab(&self) -> usize {
        self.tokenizer.vocab()
    }

    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What it is, wherever it lies.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Where its `tokenizer.json` is.
    #[must_use]
    pub fn tokenizer_path(&self) -> PathBuf {
        self.folder.join("tokenizer.json")
    }

    /// The files that its tokenizer is read from, `tokenizer.json` and what lies beside it, by name.
    /// # Errors
    /// When one cannot be read.
    pub fn tokenizer_files(&self) -> Result<Vec<(String, Vec<u8>)>, DataError> {
        let entries = std::fs::read_dir(&self.folder).map_err(DataError::io("list", &self.folder))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("tokenizer") && name.ends_with(".json")).collect();
        names.sort();
        let read = |name: String| {
            let path = self.folder.join(&name);
            let bytes = disk::read(&path, 1 << 30).map_err(DataError::io("read", &path))?;
            Ok((name, bytes))
        };
        names.into_iter().map(read).collect()
    }

    #[must_use]
    pub fn train(&self) -> &Split {
        &self.train
    }

    #[must_use]
    pub fn held_out(&self) -> &Split {
        &self.held_out
    }

    /// Bytes of text that the targets of a window stand for.
    #[must_use]
    pub fn target_bytes(&self, window: &[u32]) -> u64 {
        window.iter().skip(1).map(|t| u64::from(self.tokenizer.byte_length(*t))).sum()
    }
}

/// The tokens of one split, on disk.
pub struct Split {
    shards: Vec<Shard>,
    documents: Vec<DocumentEntry>,
    tokens: u64,
    bytes: u64,
}

struct Shard {
    start: u64,
    tokens: u64,
    width: usize,
    path: PathBuf,
    file: File,
    hash: String,
    vocab: usize,
    /// What is wrong with it, once somebody has looked.
    verdict: OnceLock<Option<String>>,
}

impl Split {
    fn open(folder: &Path, name: &str, manifest: &SplitManifest, vocab: usize) -> Result<Self, DataError> {
        let index = folder.join(format!("{name}.documents.jsonl"));
        check(&index, &manifest.documents_blake3)?;
        let text = disk::read_text(&index, u64::MAX).map_err(DataError::io("read", &index))?;
        let entry = |line: &str| serde_json::from_str(line);
        let documents = text.lines().map(entry).collect::<Result<_, _>>();
        let documents = documents.map_err(|e| DataError::Damaged { path: index, problem: e.to_string() })?;
        let mut start = 0;
        let mut shards = Vec::new();
        for shard in &manifest.shards {
            if let Err(problem) = disk::plain_name(&shard.file) {
                let problem = format!("the name `{}` of a shard {problem}", shard.file);
                return Err(DataError::Damaged { path: folder.join("manifest.json"), problem });
            }
            shards.push(Shard::open(&folder.join(&shard.file), shard, start, vocab)?);
            start += shard.tokens;
        }
        Ok(Self { shards, documents, tokens: start, bytes: manifest.bytes })
    }

    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of the text behind the tokens.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many windows of `seq` targets the first `fraction` of the tokens holds; neighbours share one token.
    #[must_use]
    pub fn windows(&self, seq: usize, fraction: f64) -> u64 {
        ((self.tokens as f64 * fraction.clamp(0.0, 1.0)) as u64).saturating_sub(1) / seq.max(1) as u64
    }

    /// Tokens `[seq + 1]` of window `index`.
    /// # Errors
    /// When a shard has changed since it was written, has become shorter, or cannot be read.
    /// # Panics
    /// When there is no such window.
    pub fn window(&self, index: u64, seq: usize) -> Result<Vec<u32>, DataError> {
        self.read(index * seq as u64, seq + 1)
    }

    /// `len` tokens from token `start` on.
    /// # Errors
    /// As [`Split::window`].
    /// # Panics
    /// When there are not so many.
    pub fn read(&self, start: u64, len: usize) -> Result<Vec<u32>, DataError> {
        assert!(start + len as u64 <= self.tokens, "tokens {start}..+{len} of {}", self.tokens);
        let mut out = Vec::with_capacity(len);
        let mut at = self.shards.partition_point(|shard| shard.start + shard.tokens <= start);
        while out.len() < len {
            let shard = &self.shards[at];
            let from = (start + out.len() as u64 - shard.start) as usize;
            let count = (len - out.len()).min(shard.tokens as usize - from);
            shard.extend(from, count, &mut out)?;
            at += 1;
        }
        Ok(out)
    }

    #[must_use]
    pub fn documents(&self) -> &[DocumentEntry] {
        &self.documents
    }

    /// The document that a token belongs to.
    #[must_use]
    pub fn document_at(&self, token: u64) -> Option<&DocumentEntry> {
        let after = self.documents.partition_point(|entry| entry.start <= token);
        (token < self.tokens).then(|| after.checked_sub(1).and_then(|at| self.documents.get(at)))?
    }
}

/// Bytes of a shard that are looked at in one go.
const CHUNK_BYTES: usize = 1 << 20;

impl Shard {
    fn open(path: &Path, manifest: &ShardManifest, start: u64, vocab: usize) -> Result<Self, DataError> {
        let damaged = |problem: &str| DataError::Damaged { path: path.to_owned(), problem: problem.into() };
        let mut file = disk::open(path).map_err(DataError::io("open", path))?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(|_| damaged("it is shorter than a header"))?;
        let width = usize::from(header[8]);
        if !header.starts_with(MAGIC) || !matches!(width, 2 | 4) {
            return Err(damaged("its header is not that of a shard"));
        }
        let bytes = file.metadata().map_err(DataError::io("look at", path))?.len();
        if bytes.checked_sub(HEADER_BYTES as u64) != manifest.tokens.checked_mul(width as u64) {
            return Err(damaged("its length is not that of its tokens"));
        }
        let (tokens, hash) = (manifest.tokens, manifest.blake3.clone());
        Ok(Self { start, tokens, width, path: path.to_owned(), file, hash, vocab, verdict: OnceLock::new() })
    }

    /// Whoever comes first reads all of it; others wait for that.
    fn verify(&self) -> Result<(), DataError> {
        match self.verdict.get_or_init(|| self.problem().unwrap_or_else(|e| Some(format!("it cannot be read: {e}")))) {
            None => Ok(()),
            Some(problem) => Err(DataError::Damaged { path: self.path.clone(), problem: problem.clone() }),
        }
    }

    fn problem(&self) -> std::io::Result<Option<String>> {
        let (mut hasher, mut is_beyond) = (blake3::Hasher::new(), false);
        let mut header = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut header, 0)?;
        hasher.update(&header);
        let (mut left, mut at, mut chunk) = (self.tokens as usize * self.width, HEADER_BYTES as u64, vec![0; CHUNK_BYTES]);
        while left > 0 {
            let chunk = &mut chunk[..left.min(CHUNK_BYTES)];
            self.file.read_exact_at(chunk, at)?;
            hasher.update(chunk);
            is_beyond |= tokens_of(chunk, self.width).any(|token| token as usize >= self.vocab);
            (left, at) = (left - chunk.len(), at + chunk.len() as u64);
        }
        let got = hasher.finalize().to_hex();
        Ok(if got.as_str() != self.hash {
            Some(format!("its hash is {got}, the manifest says {}", self.hash))
        } else {
            is_beyond.then(|| "it holds tokens beyond the vocabulary".into())
        })
    }

    fn extend(&self, from: usize, count: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        self.verify()?;
        let mut bytes = vec![0; count * self.width];
        let at = (HEADER_BYTES + from * self.width) as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                DataError::Damaged { path: self.path.clone(), problem: "it has become shorter since it was opened".into() }
            }
            _ => DataError::io("read", &self.path)(e),
        })?;
        out.extend(tokens_of(&bytes, self.width));
        Ok(())
    }
}

fn tokens_of(bytes: &[u8], width: usize) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(width).map(|b| match *b {
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("shards of other widths are refused"),
    })
}
