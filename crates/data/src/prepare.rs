//! Preparing a corpus: read, clean, deduplicate, split, tokenise, write; beside its place, which it takes in one step when all is
//! whole. Data made before from the same input and options is used again, and so is what a process left that was stopped or killed.
//!
//! ```text
//! files -> gather: runs sorted by a keyed hash -> merge -> duplicates, split -> merge -> tokens -> shards
//! ```
//! No stage holds more than its share of memory, whatever the corpus; some bytes a document are held besides.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    CorpusOptions, DataError, PrepareOptions, Progress, TokenizerOptions,
    dedup::Finder,
    ends,
    gather::{Gather, Gathered, rank},
    identity,
    readers::{self, Source},
    seal::{seal, sealed},
    shards::{self, Manifest},
    spill::{self, Merge, Run},
    split::{Choice, Take},
    tally::{Stage, Tally},
    tokenise::Tokenise,
    vocabularies,
};

/// Of what this version makes from the same options and files: one more whenever that changes.
const MADE_BY: u32 = 3;

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
    /// Seconds that each stage took.
    pub secs: BTreeMap<String, f64>,
    /// Bytes of text that each stage went through.
    #[serde(default)]
    pub stage_bytes: BTreeMap<String, u64>,
    /// Threads that shared the work.
    #[serde(default)]
    pub threads: u64,
    /// Documents whose end is held out, as too few were most of the text.
    #[serde(default)]
    pub cut_documents: u64,
    /// Whether the data was there already.
    #[serde(default)]
    pub is_reused: bool,
}

impl Stats {
    /// Each stage that text goes through, in MB of it a second.
    pub fn rates(&self) -> impl Iterator<Item = (&str, f64)> {
        ["read", "dedup", "tokenise"].into_iter().filter_map(|stage| {
            let (bytes, secs) = (self.stage_bytes.get(stage)?, self.secs.get(stage)?);
            Some((stage, *bytes as f64 / 1e6 / secs.max(1e-9)))
        })
    }
}

/// Turn a corpus into shards in `out`, in a share of the memory that is free.
/// # Errors
/// Those of [`prepare_within`].
pub fn prepare(options: &PrepareOptions, out: &Path, progress: &dyn Progress) -> Result<Stats, DataError> {
    prepare_within(default_memory_bytes(), options, out, progress)
}

/// Turn a corpus into shards in `out`, holding no more than about `memory_bytes` at a time; what comes out does not depend on it.
/// # Errors
/// No files, nothing left of them, a full disk, another process at work on `out`, or a wish to stop; `out` is then as before.
pub fn prepare_within(memory_bytes: u64, options: &PrepareOptions, out: &Path, progress: &dyn Progress) -> Result<Stats, DataError> {
    if !(0.0..=0.5).contains(&options.held_out_ratio) || options.held_out_ratio == 0.0 {
        let problem = format!("{} is not above 0 and at most 0.5", options.held_out_ratio);
        return Err(DataError::Option { key: "held_out_ratio", problem });
    }
    if options.shard_tokens == 0 {
        return Err(DataError::Option { key: "shard_tokens", problem: "0 tokens are no shard".into() });
    }
    let (scratch, old) = (disk::beside(out, ".tmp"), disk::beside(out, ".old"));
    let parent = scratch.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
    let _lock = lock(out)?;
    // Where a file system cannot exchange folders, a kill may have left the old data aside.
    if !out.exists() && old.is_dir() {
        std::fs::rename(&old, disk::beside(out, "")).map_err(DataError::io("restore", out))?;
    }
    std::fs::create_dir_all(&scratch).map_err(DataError::io("create", &scratch))?;
    let stats = Stats { threads: rayon::current_num_threads() as u64, ..Stats::default() };
    let examples = out.with_file_name(format!("{}.dropped.jsonl", out.file_name().unwrap_or_default().display()));
    let result = Pipeline { options, scratch: &scratch, examples, memory_bytes, progress, stats }.run(out);
    // What was done so far is of use to whoever is stopped and comes again; on a full disk room is.
    let is_kept = match &result {
        Err(DataError::Cancelled) => true,
        Err(DataError::Io { source, .. }) => source.kind() != std::io::ErrorKind::StorageFull,
        _ => false,
    };
    if !is_kept {
        let _ = std::fs::remove_dir_all(&scratch);
    }
    result
}

/// A quarter of what this process may have.
fn default_memory_bytes() -> u64 {
    limits::available_bytes().map_or(1 << 30, |free_bytes| free_bytes / 4)
}

/// Held while the file lives.
fn lock(out: &Path) -> Result<std::fs::File, DataError> {
    let path = disk::beside(out, ".lock");
    let file = std::fs::File::create(&path).map_err(DataError::io("create", &path))?;
    file.try_lock().map_err(|_| DataError::Locked { path: out.to_owned() })?;
    Ok(file)
}

struct Pipeline<'a> {
    options: &'a PrepareOptions,
    scratch: &'a Path,
    /// Where examples of what was dropped go, also when nothing is left.
    examples: PathBuf,
    memory_bytes: u64,
    progress: &'a dyn Progress,
    stats: Stats,
}

impl Pipeline<'_> {
    fn run(mut self, out: &Path) -> Result<Stats, DataError> {
        let objects = self.scratch.join("objects");
        std::fs::create_dir_all(&objects).map_err(DataError::io("create", &objects))?;
        let sources = self.timed("list", |s| s.sources(&objects))?;
        let options_blake3 = options_blake3(self.options)?;
        if let Some(stats) = self.timed("check", |s| s.reusable(out, &options_blake3, &sources))? {
            return Ok(stats);
        }
        self.clear_unless_of(&options_blake3, &sources, &objects)?;
        let gathered = self.timed("read", |s| s.gather(&sources))?;
        let fingerprint = identity::fingerprint(&options_blake3, sources.iter().zip(&gathered.known));
        let (runs, choice) = self.timed("dedup", |s| s.choose(gathered.runs, &fingerprint))?;
        self.stats.tally.merge(gathered.tally);
        self.stats.tally.merge(choice.tally.clone());
        (self.stats.exact_duplicates, self.stats.near_duplicates) = (choice.exact_duplicates, choice.near_duplicates);
        self.stats.tally.write_examples(&self.examples).map_err(DataError::io("write", &self.examples))?;
        let (documents, bytes) = (choice.tally.documents_kept, choice.tally.bytes_kept);
        if documents == 0 || documents == 1 && bytes < 2 {
            return Err(DataError::empty(&self.stats.tally, &self.examples));
        }
        let folder = self.scratch.join("data");
        std::fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
        let (options, scratch, memory_bytes, progress) = (self.options, self.scratch, self.memory_bytes, self.progress);
        let tokenise = Tokenise { options, scratch, folder: &folder, memory_bytes, progress, runs: &runs, choice: &choice };
        let tokenizer = self.timed("train tokenizer", |_| tokenise.tokenizer())?;
        self.stats.notes = tokenizer.notes().to_vec();
        let (train, held_out) = self.timed("tokenise", |_| tokenise.write(&tokenizer))?;
        let path = folder.join("tokenizer.json");
        let tokenizer_blake3 = identity::hash_file(&path).map_err(DataError::io("read", &path))?;
        let path = path.with_file_name(ends::FILE);
        let ends_blake3 = Some(identity::hash_file(&path).map_err(DataError::io("read", &path))?);
        let vocab = tokenizer.vocab();
        let manifest = Manifest { version: 1, options_blake3: fingerprint, vocab, tokenizer_blake3, ends_blake3, train, held_out };
        self.timed("publish", |s| {
            s.finish(&manifest, &choice);
            identity::remember(&folder, &options_blake3, gathered.known.iter())?;
            let path = folder.join("stats.json");
            let text = serde_json::to_string_pretty(&s.stats).map_err(|e| DataError::io("write", &path)(e.into()))?;
            disk::write(&path, text).map_err(DataError::io("write", &path))?;
            shards::write_manifest(&folder, &manifest)?;
            // The old data goes only when the new is whole.
            disk::swap_folder(&folder, out).map_err(DataError::io("replace", out))
        })?;
        Ok(self.stats)
    }

    fn timed<T>(&mut self, stage: &'static str, run: impl FnOnce(&mut Self) -> Result<T, DataError>) -> Result<T, DataError> {
        self.progress.check()?;
        let start = Instant::now();
        let result = run(self);
        self.stats.secs.insert(stage.to_owned(), start.elapsed().as_secs_f64());
        result
    }

    /// The files to read, in the order of a keyed hash of their names, up to `max_total_bytes`.
    fn sources(&mut self, objects: &Path) -> Result<Vec<Source>, DataError> {
        let mut sources = readers::sources(&self.options.corpus, objects, &mut self.stats.tally)?;
        sources.sort_by_cached_key(|source| (rank(&source.name, self.options.seed), source.name.clone()));
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

    /// The stats of data made before from the same files with the same options, if it is whole.
    fn reusable(&self, out: &Path, options_blake3: &str, sources: &[Source]) -> Result<Option<Stats>, DataError> {
        let Some(before) = identity::remembered(out, options_blake3).filter(|before| before.len() == sources.len()) else {
            return Ok(None);
        };
        let Ok(manifest) = shards::read_manifest(out) else { return Ok(None) };
        self.progress.stage("looking for changes", sources.iter().map(|s| s.bytes).sum());
        let look = |source: &Source| {
            self.progress.check()?;
            let known = identity::of(source, before.get(&source.path));
            self.progress.advance(source.bytes);
            Ok(known)
        };
        let known = sources.par_iter().map(look).collect::<Result<Vec<_>, DataError>>()?;
        let is_same = manifest.options_blake3 == identity::fingerprint(options_blake3, sources.iter().zip(&known));
        if !is_same || shards::Dataset::open(out).and_then(|data| data.verify()).is_err() {
            return Ok(None);
        }
        if sources.iter().zip(&known).any(|(source, known)| before.get(&source.path) != Some(known)) {
            identity::remember(out, options_blake3, known.iter())?;
        }
        Ok(sealed::<Stats>(&out.join("stats.json")).map(|stats| Stats { is_reused: true, ..stats }))
    }

    /// Throw away what another process left here that was at work on something else.
    fn clear_unless_of(&self, options_blake3: &str, sources: &[Source], objects: &Path) -> Result<(), DataError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(options_blake3.as_bytes());
        for source in sources {
            hasher.update(format!("{}\0{}\n", source.name, source.bytes).as_bytes());
        }
        let (path, work) = (self.scratch.join("work.json"), hasher.finalize().to_hex().to_string());
        if sealed::<String>(&path).as_ref() == Some(&work) {
            return Ok(());
        }
        for entry in std::fs::read_dir(self.scratch).map_err(DataError::io("read", self.scratch))?.flatten() {
            let path = entry.path();
            let removed = match path.is_dir() {
                true if path == objects => Ok(()),
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            removed.map_err(DataError::io("remove", &path))?;
        }
        seal(&path, &work)
    }

    fn gather(&mut self, sources: &[Source]) -> Result<Gathered, DataError> {
        let (options, scratch, memory_bytes, progress) = (self.options, self.scratch, self.memory_bytes, self.progress);
        let gathered = Gather { options, scratch, memory_bytes, progress }.run(sources)?;
        self.stats.stage_bytes.insert("read".into(), gathered.tally.bytes_read);
        Ok(gathered)
    }

    /// Decide what becomes of every document, unless a process that was killed did; and leave as many runs as can be open.
    fn choose(&mut self, runs: Vec<Run>, fingerprint: &str) -> Result<(Vec<Run>, Choice), DataError> {
        let documents: u64 = runs.iter().map(|run| run.documents).sum();
        // Twice through the merge, and once through duplicates.
        self.progress.stage("deduplicating", 2 * documents);
        let most = (self.memory_bytes >> 22).clamp(4, 256) as usize;
        let runs = spill::compact(self.scratch, runs, most, self.memory_bytes / 4, &|| self.progress.check())?;
        let (path, stays) = (self.scratch.join("choice.json"), self.scratch.join("stays"));
        if let Some((of, hash, mut choice)) = sealed::<(String, String, Choice)>(&path)
            && of == fingerprint
            && let Ok(bytes) = std::fs::read(&stays)
            && blake3::hash(&bytes).to_hex().as_str() == hash
        {
            self.progress.advance(2 * documents);
            choice.stays = bytes.into_iter().map(|stays| stays == 1).collect();
            return Ok((runs, choice));
        }
        let entries = |take: &mut Take<'_>| {
            let mut merge = Merge::new(self.scratch, &runs, self.memory_bytes / 8)?;
            let mut starts = vec![0; runs.len()];
            while let Some((entry, run)) = merge.next()? {
                self.progress.check()?;
                self.progress.advance(1);
                take(&entry, &|| runs[run].beginning(self.scratch, starts[run], entry.bytes))?;
                starts[run] += entry.bytes;
            }
            Ok(())
        };
        let choice = Choice::make(self.options, Finder::new(self.scratch, self.memory_bytes / 2), &entries, &mut || self.progress.check())?;
        let bytes: Vec<u8> = choice.stays.iter().map(|stays| u8::from(*stays)).collect();
        disk::write(&stays, &bytes).map_err(DataError::io("write", &stays))?;
        seal(&path, &(fingerprint, blake3::hash(&bytes).to_hex().as_str(), &choice))?;
        Ok((runs, choice))
    }

    /// What came out.
    fn finish(&mut self, manifest: &Manifest, choice: &Choice) {
        let (train, held_out, stats) = (&manifest.train, &manifest.held_out, &mut self.stats);
        (stats.train_documents, stats.train_tokens) = (train.documents, train.tokens);
        (stats.held_out_documents, stats.held_out_tokens) = (held_out.documents, held_out.tokens);
        stats.cut_documents = train.documents + held_out.documents - choice.tally.documents_kept;
        stats.vocab = manifest.vocab as u64;
        stats.bytes_per_token = (train.bytes + held_out.bytes) as f64 / (train.tokens + held_out.tokens).max(1) as f64;
        stats.stage_bytes.insert("tokenise".into(), choice.tally.bytes_kept);
        stats.stage_bytes.insert("dedup".into(), stats.tally.bytes_read);
    }
}

/// Of everything but files that decides the outcome: options, the tokenizer's content, and how data are made.
fn options_blake3(options: &PrepareOptions) -> Result<String, DataError> {
    let mut options = PrepareOptions { corpus: CorpusOptions { paths: Vec::new(), ..options.corpus.clone() }, ..options.clone() };
    if let TokenizerOptions::Load { path, .. } = &mut options.tokenizer {
        let file = vocabularies::file(path);
        let mut all = identity::hash_file(&file).map_err(DataError::io("read", &file))?;
        // What tells its ends and merges; what cannot be read is refused when it is loaded.
        for name in ends::BESIDE.iter().chain(&vocabularies::BESIDE) {
            if let Ok(hash) = identity::hash_file(&file.with_file_name(name)) {
                all += &format!(" {name} {hash}");
            }
        }
        *path = PathBuf::from(all);
    }
    let text = serde_json::to_string(&options).map_err(|e| DataError::Option { key: "data", problem: e.to_string() })?;
    Ok(blake3::hash(format!("{MADE_BY}\0{text}").as_bytes()).to_hex().to_string())
}
