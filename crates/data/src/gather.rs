//! From files to sorted runs: read, clean, and know of each document what duplicates and splits are decided from.
//!
//! Files are taken in units, one after another and each in parallel. A unit that is done is sealed: a process that comes after a
//! kill takes its runs as they are, if its files still hold the same.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    DataError, Document, PrepareOptions, Progress, clean, dedup,
    identity::{self, Known},
    minhash,
    readers::{self, Source},
    seal::{seal, sealed},
    spill::{Entry, Run},
    tally::{Stage, Tally},
};

/// What a kill loses at most, in bytes of files, unless there were more than [`MOST_UNITS`].
const UNIT_BYTES: u64 = 256 << 20;
const MOST_UNITS: u64 = 1 << 10;
/// Documents of one large file that are looked at in parallel.
const BATCH_BYTES: u64 = 4 << 20;

/// What a unit of files gave, and all of them.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Gathered {
    pub known: Vec<Known>,
    pub runs: Vec<Run>,
    pub tally: Tally,
}

pub(crate) struct Gather<'a> {
    pub options: &'a PrepareOptions,
    pub scratch: &'a Path,
    pub memory_bytes: u64,
    pub progress: &'a dyn Progress,
}

/// Documents that wait to be written as one run.
#[derive(Default)]
struct Buffer {
    documents: Vec<(Entry, String)>,
    bytes: u64,
    runs: Vec<Run>,
}

impl Gather<'_> {
    pub(crate) fn run(&self, sources: &[Source]) -> Result<Gathered, DataError> {
        let total: u64 = sources.iter().map(|s| s.bytes).sum();
        self.progress.stage("reading", total);
        let mut all = Gathered::default();
        let mut rest = sources;
        for number in 0.. {
            let mut bytes = 0;
            let files = rest.iter().take_while(|source| {
                let is_in = bytes < UNIT_BYTES.max(total / MOST_UNITS);
                bytes += source.bytes;
                is_in
            });
            let (unit, after) = rest.split_at(files.count());
            if unit.is_empty() {
                break;
            }
            rest = after;
            let first = (sources.len() - after.len() - unit.len()) as u32;
            let path = self.scratch.join(format!("unit-{number:05}.json"));
            let gathered = match sealed::<Gathered>(&path).filter(|before| self.is_still(before, unit)) {
                Some(before) => {
                    self.progress.advance(unit.iter().map(|s| s.bytes).sum());
                    before
                }
                None => {
                    let gathered = self.unit(number, first, unit)?;
                    seal(&path, &gathered)?;
                    gathered
                }
            };
            all.known.extend(gathered.known);
            all.runs.extend(gathered.runs);
            all.tally.merge(gathered.tally);
        }
        Ok(all)
    }

    fn is_still(&self, before: &Gathered, unit: &[Source]) -> bool {
        let same =
            |(source, known): (&Source, &Known)| !self.progress.cancelled() && identity::of(source, Some(known)).blake3 == known.blake3;
        before.known.len() == unit.len()
            && unit.par_iter().zip(&before.known).all(same)
            && before.runs.par_iter().all(|run| run.is_whole(self.scratch))
    }

    fn unit(&self, number: usize, first: u32, sources: &[Source]) -> Result<Gathered, DataError> {
        let buffer = Mutex::new(Buffer::default());
        let one = |(at, source): (usize, &Source)| self.file(number, first + at as u32, source, &buffer);
        let read = sources.par_iter().enumerate().map(one).collect::<Result<Vec<_>, DataError>>()?;
        let mut buffer = buffer.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.spill(number, &mut buffer)?;
        let mut gathered = Gathered { runs: buffer.runs, ..Gathered::default() };
        for (known, tally) in read {
            gathered.known.push(known);
            gathered.tally.merge(tally);
        }
        Ok(gathered)
    }

    fn file(&self, unit: usize, number: u32, source: &Source, buffer: &Mutex<Buffer>) -> Result<(Known, Tally), DataError> {
        self.progress.check()?;
        let known = identity::of(source, None);
        // Small files are what other threads are at; waiting for them here would begin one file inside another.
        let is_large = source.bytes > 2 * BATCH_BYTES;
        let mut cleaned = Tally::default();
        let (mut batch, mut count, mut batch_bytes, mut told_bytes) = (Vec::new(), 0, 0, 0);
        let mut tally = readers::read(source, &self.options.corpus, &mut |document| {
            batch_bytes += document.text.len() as u64;
            batch.push(((number, count), document));
            count += 1;
            if batch_bytes >= BATCH_BYTES {
                // Of packed files there is more text than file.
                let told = batch_bytes.min(source.bytes - told_bytes);
                self.batch(unit, std::mem::take(&mut batch), is_large, &mut cleaned, buffer)?;
                self.progress.advance(told);
                (batch_bytes, told_bytes) = (0, told_bytes + told);
            }
            self.progress.check()
        })?;
        self.batch(unit, batch, is_large, &mut cleaned, buffer)?;
        tally.merge(cleaned);
        self.progress.advance(source.bytes - told_bytes);
        Ok((known, tally))
    }

    /// Look at documents of one file and put those that stay into the buffer.
    fn batch(
        &self,
        unit: usize,
        documents: Vec<((u32, u64), Document)>,
        is_large: bool,
        cleaned: &mut Tally,
        buffer: &Mutex<Buffer>,
    ) -> Result<(), DataError> {
        let look = |(place, document)| self.look(place, document);
        let looked: Vec<_> =
            if is_large { documents.into_par_iter().map(look).collect() } else { documents.into_iter().map(look).collect() };
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        for looked in looked {
            let (entry, text, rule) = looked?;
            if let Some(rule) = rule {
                cleaned.lose(Stage::Cleaning, rule.name(), &entry.name, entry.bytes, &text);
                continue;
            }
            buffer.bytes += entry.weight() + entry.bytes;
            buffer.documents.push((entry, text));
            if buffer.bytes >= self.memory_bytes / 4 {
                self.spill(unit, &mut buffer)?;
            }
        }
        Ok(())
    }

    fn look(&self, place: (u32, u64), document: Document) -> Result<(Entry, String, Option<clean::Rule>), DataError> {
        self.progress.check()?;
        let Document { name, text } = document;
        let rule = clean::broken_rule(&name, &text, &self.options.clean);
        let (dedup, is_kept) = (&self.options.dedup, rule.is_none());
        let entry = Entry {
            rank: rank(&name, self.options.seed),
            name,
            place,
            bytes: text.len() as u64,
            words_hash: if dedup.exact && is_kept { dedup::words_hash(&text) } else { 0 },
            bands: if dedup.near && is_kept { minhash::bands(&text) } else { None },
        };
        Ok((entry, text, rule))
    }

    fn spill(&self, unit: usize, buffer: &mut Buffer) -> Result<(), DataError> {
        let Buffer { documents, bytes, runs } = buffer;
        *bytes = 0;
        if !documents.is_empty() {
            let name = format!("run-{unit:05}-{:05}", runs.len());
            runs.push(Run::write(self.scratch, name, std::mem::take(documents))?);
        }
        Ok(())
    }
}

/// The keyed hash that names are ordered by.
pub(crate) fn rank(name: &str, seed: u64) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), seed)
}
