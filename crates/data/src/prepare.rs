//! Preparing a corpus: read, clean, deduplicate, split, tokenise, write; in a temporary folder that takes the final
//! name when all is whole. Data made before from the same input and options is used again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    CleanOptions, CorpusOptions, DataError, DedupOptions, Document, Tokenizer, TokenizerOptions, clean, dedup,
    readers::{self, Source},
    shards::{self, Manifest},
    tally::{Stage, Tally},
};

/// All that decides what comes out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareOptions {
    pub corpus: CorpusOptions,
    pub clean: CleanOptions,
    pub dedup: DedupOptions,
    pub tokenizer: TokenizerOptions,
    /// Share of the documents that training never sees.
    pub held_out_ratio: f64,
    pub seed: u64,
    pub shard_tokens: u64,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            corpus: CorpusOptions::default(),
            clean: CleanOptions::default(),
            dedup: DedupOptions::default(),
            tokenizer: TokenizerOptions::default(),
            held_out_ratio: 0.02,
            seed: 1,
            shard_tokens: 64 << 20,
        }
    }
}

/// Told how far things are; asked whether to stop.
pub trait Progress: Sync {
    fn stage(&self, name: &'static str, total: u64);
    fn advance(&self, count: u64);
    fn cancelled(&self) -> bool;
}

/// Says nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _name: &'static str, _total: u64) {}
    fn advance(&self, _count: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// What happened to the corpus on its way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// What was read, kept and lost, by reason.
    #[serde(flatten)]
    pub tally: Tally,
    pub exact_duplicates: u64,
    pub near_duplicates: u64,
    pub train_documents: u64,
    pub train_tokens: u64,
    pub held_out_documents: u64,
    pub held_out_tokens: u64,
    pub vocab: u64,
    pub bytes_per_token: f64,
    /// What was done otherwise than the tokenizer's file says.
    #[serde(default)]
    pub notes: Vec<String>,
    pub secs: BTreeMap<String, f64>,
    /// Whether the data was there already.
    #[serde(default)]
    pub is_reused: bool,
}

/// Turn a corpus into shards in `out`.
/// # Errors
/// No files, nothing left of them, a full disk, another process at work on `out`, or a wish to stop; `out` is then as before.
pub fn prepare(options: &PrepareOptions, out: &Path, progress: &dyn Progress) -> Result<Stats, DataError> {
    if !(0.0..=0.5).contains(&options.held_out_ratio) || options.held_out_ratio == 0.0 {
        let problem = format!("{} is not above 0 and at most 0.5", options.held_out_ratio);
        return Err(DataError::Option { key: "held_out_ratio", problem });
    }
    if options.shard_tokens == 0 {
        return Err(DataError::Option { key: "shard_tokens", problem: "0 tokens are no shard".into() });
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
    let _lock = lock(out)?;
    let scratch = with_suffix(out, ".tmp");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(DataError::io("create", &scratch))?;
    let examples = with_suffix(out, ".dropped.jsonl");
    let result = Pipeline { options, scratch: &scratch, examples, progress, stats: Stats::default() }.run(out);
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

/// Held while the file lives.
fn lock(out: &Path) -> Result<std::fs::File, DataError> {
    let path = with_suffix(out, ".lock");
    let file = std::fs::File::create(&path).map_err(DataError::io("create", &path))?;
    file.try_lock().map_err(|_| DataError::Locked { path: out.to_owned() })?;
    Ok(file)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

struct Pipeline<'a> {
    options: &'a PrepareOptions,
    scratch: &'a Path,
    /// Where examples of what was dropped go, also when nothing is left.
    examples: PathBuf,
    progress: &'a dyn Progress,
    stats: Stats,
}

impl Pipeline<'_> {
    fn run(mut self, out: &Path) -> Result<Stats, DataError> {
        let objects = self.scratch.join("objects");
        std::fs::create_dir_all(&objects).map_err(DataError::io("create", &objects))?;
        let sources = self.timed("list", |s| s.sources(&objects))?;
        let fingerprint = fingerprint(self.options, &sources);
        if let Some(stats) = reusable(out, &fingerprint) {
            return Ok(stats);
        }
        let documents = self.timed("read", |s| s.read(&sources))?;
        let documents = self.timed("dedup", |s| s.dedup(documents))?;
        self.stats.tally.write_examples(&self.examples)?;
        let (train, held_out) = self.split(documents)?;
        let tokenizer = self.timed("train tokenizer", |s| s.tokenizer(&train))?;
        self.stats.notes = tokenizer.notes().to_vec();
        let train = self.timed("tokenise", |s| s.tokenise(&tokenizer, train))?;
        let held_out = self.timed("tokenise held-out", |s| s.tokenise(&tokenizer, held_out))?;
        let data = self.scratch.join("data");
        std::fs::create_dir_all(&data).map_err(DataError::io("create", &data))?;
        self.timed("write", |s| s.write(&data, &tokenizer, fingerprint, train, held_out))?;
        // The old data goes only when the new is whole.
        let old = with_suffix(out, ".old");
        let _ = std::fs::remove_dir_all(&old);
        if out.exists() {
            std::fs::rename(out, &old).map_err(DataError::io("replace", out))?;
        }
        std::fs::rename(&data, out).map_err(DataError::io("create", out))?;
        let _ = std::fs::remove_dir_all(&old);
        Ok(self.stats)
    }

    fn timed<T>(&mut self, stage: &'static str, run: impl FnOnce(&mut Self) -> Result<T, DataError>) -> Result<T, DataError> {
        if self.progress.cancelled() {
            return Err(DataError::Cancelled);
        }
        let start = Instant::now();
        let result = run(self);
        self.stats.secs.insert(stage.to_owned(), start.elapsed().as_secs_f64());
        result
    }

    /// The files to read, in the order of a keyed hash of their names, up to `max_total_bytes`.
    fn sources(&mut self, objects: &Path) -> Result<Vec<Source>, DataError> {
        let mut sources = readers::sources(&self.options.corpus, objects, &mut self.stats.tally)?;
        sources.sort_by_key(|source| (self.rank(&source.name), source.name.clone()));
        if let Some(most) = self.options.corpus.max_total_bytes {
            let mut total = 0;
            let taken = sources.iter().take_while(|source| {
                total += source.bytes;
                total <= most
            });
            let taken = taken.count().max(1);
            for source in sources.drain(taken.min(sources.len())..) {
                self.stats.tally.lose(Stage::LeftOut, "max_total_bytes", &source.name, source.bytes, "");
            }
        }
        Ok(sources)
    }

    fn rank(&self, name: &str) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.options.seed)
    }

    /// Read and clean all files, in parallel, in their order.
    fn read(&mut self, sources: &[Source]) -> Result<Vec<Document>, DataError> {
        self.progress.stage("reading", sources.iter().map(|s| s.bytes).sum());
        let one = |source: &Source| {
            if self.progress.cancelled() {
                return Err(DataError::Cancelled);
            }
            let (mut kept, mut cleaned) = (Vec::new(), Tally::default());
            let mut tally = readers::read(source, &self.options.corpus, &mut |document| {
                match clean::broken_rule(&document.name, &document.text, &self.options.clean) {
                    Some(rule) => cleaned.lose(Stage::Cleaning, rule.name(), &document.name, document.text.len() as u64, &document.text),
                    None => kept.push(document),
                }
                Ok(())
            })?;
            tally.merge(cleaned);
            self.progress.advance(source.bytes);
            Ok((kept, tally))
        };
        let read = sources.par_iter().map(one).collect::<Result<Vec<(Vec<Document>, Tally)>, DataError>>()?;
        let mut documents = Vec::new();
        for (kept, tally) in read {
            documents.extend(kept);
            self.stats.tally.merge(tally);
        }
        Ok(documents)
    }

    /// Drop duplicates, keeping the first of each in the order of the keyed hash.
    fn dedup(&mut self, mut documents: Vec<Document>) -> Result<Vec<Document>, DataError> {
        documents.sort_by_cached_key(|d| (self.rank(&d.name), d.name.clone()));
        self.progress.stage("deduplicating", documents.len() as u64);
        let (stays, exact, near) = dedup::unique(&documents, &self.options.dedup);
        self.progress.advance(documents.len() as u64);
        let reason = if near == 0 { "exact" } else { "exact or near" };
        (self.stats.exact_duplicates, self.stats.near_duplicates) = (exact, near);
        let mut kept = Vec::new();
        for (document, stays) in documents.into_iter().zip(stays) {
            let bytes = document.text.len() as u64;
            if stays {
                self.stats.tally.keep(&document.name, bytes);
                kept.push(document);
            } else {
                self.stats.tally.lose(Stage::Duplicate, reason, &document.name, bytes, &document.text);
            }
        }
        Ok(kept)
    }

    /// The held-out split: the documents with the least of a second keyed hash. Duplicates are gone by now, so the
    /// splits share none.
    fn split(&mut self, documents: Vec<Document>) -> Result<(Vec<Document>, Vec<Document>), DataError> {
        if documents.len() < 2 {
            return Err(DataError::empty(&self.stats.tally, &self.examples));
        }
        let key = |d: &Document| xxh3_64_with_seed(d.name.as_bytes(), !self.options.seed);
        let count = ((documents.len() as f64 * self.options.held_out_ratio).round() as usize).clamp(1, documents.len() - 1);
        let mut keys: Vec<u64> = documents.iter().map(key).collect();
        let (_, last, _) = keys.select_nth_unstable(count - 1);
        let last = *last;
        Ok(documents.into_iter().partition(|d| key(d) > last))
    }

    fn tokenizer(&mut self, train: &[Document]) -> Result<Tokenizer, DataError> {
        match &self.options.tokenizer {
            TokenizerOptions::Load { path } => Tokenizer::load(path),
            TokenizerOptions::Bytes => Tokenizer::train(257, std::iter::empty()),
            TokenizerOptions::Train { vocab, sample_bytes } => {
                self.progress.stage("training the tokenizer", 1);
                let mut bytes = 0;
                let sample = train.iter().take_while(|d| {
                    bytes += d.text.len() as u64;
                    bytes <= *sample_bytes
                });
                let mut sample: Vec<&str> = sample.map(|d| d.text.as_str()).collect();
                if sample.is_empty() {
                    sample.extend(train.first().map(|d| d.text.as_str()));
                }
                let tokenizer = Tokenizer::train(*vocab, sample.into_iter());
                self.progress.advance(1);
                tokenizer
            }
        }
    }

    fn tokenise(&mut self, tokenizer: &Tokenizer, documents: Vec<Document>) -> Result<Vec<(String, Vec<u32>, u64)>, DataError> {
        self.progress.stage("tokenising", documents.iter().map(|d| d.text.len() as u64).sum());
        let one = |document: Document| {
            if self.progress.cancelled() {
                return Err(DataError::Cancelled);
            }
            let mut tokens = tokenizer.encode(&document.text)?;
            tokens.push(tokenizer.end_of_text());
            self.progress.advance(document.text.len() as u64);
            Ok((document.name, tokens, document.text.len() as u64))
        };
        documents.into_par_iter().map(one).collect()
    }

    fn write(
        &mut self,
        folder: &Path,
        tokenizer: &Tokenizer,
        options_blake3: String,
        train: Vec<(String, Vec<u32>, u64)>,
        held_out: Vec<(String, Vec<u32>, u64)>,
    ) -> Result<(), DataError> {
        self.progress.stage("writing", 1);
        let (vocab, path) = (tokenizer.vocab(), folder.join("tokenizer.json"));
        tokenizer.save(&path)?;
        let bytes = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let tokenizer_blake3 = blake3::hash(&bytes).to_hex().to_string();
        let split = |name, documents: Vec<_>| shards::write_split(folder, name, vocab, self.options.shard_tokens, documents.into_iter());
        let (train, held_out) = (split("train", train)?, split("held_out", held_out)?);
        let stats = &mut self.stats;
        (stats.train_documents, stats.train_tokens) = (train.documents, train.tokens);
        (stats.held_out_documents, stats.held_out_tokens) = (held_out.documents, held_out.tokens);
        stats.vocab = vocab as u64;
        stats.bytes_per_token = (train.bytes + held_out.bytes) as f64 / (train.tokens + held_out.tokens).max(1) as f64;
        let path = folder.join("stats.json");
        let text = serde_json::to_string_pretty(stats).map_err(|e| DataError::io("write", &path)(e.into()))?;
        std::fs::write(&path, text).map_err(DataError::io("write", &path))?;
        shards::write_manifest(folder, &Manifest { version: 1, options_blake3, vocab, tokenizer_blake3, train, held_out })?;
        self.progress.advance(1);
        Ok(())
    }
}

/// Of everything that decides the outcome: options, and the names and sizes of the files.
fn fingerprint(options: &PrepareOptions, sources: &[Source]) -> String {
    let mut hasher = blake3::Hasher::new();
    let options = PrepareOptions { corpus: CorpusOptions { paths: Vec::new(), ..options.corpus.clone() }, ..options.clone() };
    hasher.update(serde_json::to_string(&options).unwrap_or_default().as_bytes());
    for source in sources {
        let modified = source.path.metadata().and_then(|m| m.modified()).ok();
        let modified = modified.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        hasher.update(format!("{}\0{}\0{modified}\n", source.name, source.bytes).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The stats of data made before from the same, if it is whole.
fn reusable(out: &Path, fingerprint: &str) -> Option<Stats> {
    let manifest = shards::read_manifest(out).ok()?;
    if manifest.options_blake3 != fingerprint || shards::Dataset::open(out).is_err() {
        return None;
    }
    let stats = disk::read_text(&out.join("stats.json"), 64 << 20).ok()?;
    let stats: Stats = serde_json::from_str(&stats).ok()?;
    Some(Stats { is_reused: true, ..stats })
}
