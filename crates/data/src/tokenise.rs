//! From sorted runs to shards: a tokenizer from the first of the text, then tokens of all of it, batch by batch, written as they
//! come. How far that is is noted now and then, so that a process that comes after a kill goes on from there.

use std::{path::Path, sync::mpsc, time::Duration};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    DataError, PrepareOptions, Progress, Tokenizer, TokenizerOptions, identity,
    seal::{seal, sealed},
    shards::SplitManifest,
    spill::{Entry, Merge, Run, Texts},
    split::{self, Choice, Fate},
    writer::{SplitWriter, Written},
};

/// Text between two notes of how far things are: what a kill loses at most.
const NOTED_BYTES: u64 = 128 << 20;

pub(crate) struct Tokenise<'a> {
    pub options: &'a PrepareOptions,
    pub scratch: &'a Path,
    /// What will be published.
    pub folder: &'a Path,
    pub memory_bytes: u64,
    pub progress: &'a dyn Progress,
    pub runs: &'a [Run],
    pub choice: &'a Choice,
}

/// Part of a document that goes into one split.
struct Piece {
    is_train: bool,
    name: String,
    text: String,
}

/// How far the shards are.
#[derive(Serialize, Deserialize)]
struct Noted {
    tokenizer_blake3: String,
    /// Documents of the merge that are done.
    documents: u64,
    train: Written,
    held_out: Written,
}

/// The documents in their order, behind those that were skipped.
struct Documents<'a> {
    of: &'a Tokenise<'a>,
    merge: Merge,
    texts: Texts,
    number: u64,
}

impl Documents<'_> {
    /// The next document that stays: as one piece, or as the two that it is cut into.
    fn next(&mut self) -> Result<Option<(Vec<Piece>, Entry)>, DataError> {
        while let Some((entry, run)) = self.merge.next()? {
            let fate = self.of.choice.fate(self.number, &entry, self.of.options.seed);
            self.number += 1;
            if fate == Fate::Dropped {
                self.texts.skip(run, entry.bytes)?;
                continue;
            }
            let text = self.texts.take(run, entry.bytes)?;
            let piece = |is_train, text| Piece { is_train, name: entry.name.clone(), text };
            let pieces = if fate == Fate::Cut {
                let (start, end) = split::cut(&text, self.of.options.held_out_ratio);
                vec![piece(true, start.to_owned()), piece(false, end.to_owned())]
            } else {
                vec![piece(fate == Fate::Train, text)]
            };
            return Ok(Some((pieces, entry)));
        }
        Ok(None)
    }

    /// Pass over the first `count`; bytes of those that stay.
    fn skip(&mut self, count: u64) -> Result<u64, DataError> {
        let mut bytes = 0;
        while self.number < count
            && let Some((entry, run)) = self.merge.next()?
        {
            bytes += if self.of.choice.stays[self.number as usize] { entry.bytes } else { 0 };
            self.number += 1;
            self.texts.skip(run, entry.bytes)?;
        }
        Ok(bytes)
    }
}

impl Tokenise<'_> {
    fn documents(&self) -> Result<Documents<'_>, DataError> {
        let buffers = self.memory_bytes / 8;
        let (merge, texts) = (Merge::new(self.scratch, self.runs, buffers / 4)?, Texts::new(self.scratch, self.runs, buffers)?);
        Ok(Documents { of: self, merge, texts, number: 0 })
    }

    /// The tokenizer that was asked for; trained before, if a process that was killed came that far. It lies in the folder then.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, DataError> {
        let (path, noted) = (self.folder.join("tokenizer.json"), self.scratch.join("tokenizer.blake3.json"));
        if matches!(self.options.tokenizer, TokenizerOptions::Train { .. })
            && sealed::<String>(&noted).is_some_and(|hash| identity::hash_file(&path).is_ok_and(|now| now == hash))
        {
            return Tokenizer::load(&path);
        }
        let tokenizer = match &self.options.tokenizer {
            TokenizerOptions::Load { path, end_of_text, begin_of_text } => {
                Tokenizer::load_from_elsewhere(path, end_of_text.as_deref(), begin_of_text.as_deref())?.trained_here()
            }
            TokenizerOptions::Bytes => Tokenizer::train(257, std::iter::empty())?,
            TokenizerOptions::Train { vocab, sample_bytes } => self.train_tokenizer(*vocab, *sample_bytes)?,
        };
        tokenizer.save(self.folder)?;
        seal(&noted, &identity::hash_file(&path).map_err(DataError::io("read", &path))?)?;
        Ok(tokenizer)
    }

    /// Train on a thread that is left to itself when somebody wants to stop: the library cannot be asked to.
    fn train_tokenizer(&self, vocab: usize, sample_bytes: u64) -> Result<Tokenizer, DataError> {
        let sample = self.sample(sample_bytes)?;
        let total: u64 = sample.iter().map(|text| text.len() as u64).sum();
        self.progress.stage("training the tokenizer", total);
        let (done, result) = mpsc::channel();
        let (seen, counted) = mpsc::channel();
        std::thread::spawn(move || {
            let texts = sample.iter().map(|text| {
                let _ = seen.send(text.len() as u64);
                text.as_str()
            });
            let _ = done.send(Tokenizer::train(vocab, texts));
        });
        loop {
            self.progress.check()?;
            counted.try_iter().for_each(|bytes| self.progress.advance(bytes));
            match result.try_recv() {
                Ok(tokenizer) => return tokenizer,
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Err(DataError::Tokenizer { what: "trained here".into(), problem: "the library panicked".into() });
                }
                // Its parallel loops run on this pool: this thread takes part in them.
                Err(mpsc::TryRecvError::Empty) if rayon::yield_now() != Some(rayon::Yield::Executed) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(mpsc::TryRecvError::Empty) => {}
            }
        }
    }

    /// The first documents of the training split, up to so many bytes; one at least.
    fn sample(&self, sample_bytes: u64) -> Result<Vec<String>, DataError> {
        let (mut sample, mut bytes) = (Vec::new(), 0);
        let mut documents = self.documents()?;
        while let Some((pieces, _)) = documents.next()? {
            self.progress.check()?;
            for piece in pieces.into_iter().filter(|piece| piece.is_train) {
                bytes += piece.text.len() as u64;
                if bytes > sample_bytes && !sample.is_empty() {
                    return Ok(sample);
                }
                sample.push(piece.text);
                if bytes > sample_bytes {
                    return Ok(sample);
                }
            }
        }
        Ok(sample)
    }

    /// Write both splits, `train` and `held_out`.
    pub(crate) fn write(&self, tokenizer: &Tokenizer) -> Result<(SplitManifest, SplitManifest), DataError> {
        self.progress.stage("tokenising", self.choice.tally.bytes_kept);
        let noted_path = self.scratch.join("written.json");
        let path = self.folder.join("tokenizer.json");
        let tokenizer_blake3 = identity::hash_file(&path).map_err(DataError::io("read", &path))?;
        let (vocab, shard_tokens) = (tokenizer.vocab(), self.options.shard_tokens);
        let resumed = sealed::<Noted>(&noted_path).filter(|noted| noted.tokenizer_blake3 == tokenizer_blake3).and_then(|noted| {
            let resume = |split, written| SplitWriter::resume(self.folder, split, vocab, shard_tokens, written).ok();
            Some((noted.documents, resume("train", noted.train)?, resume("held_out", noted.held_out)?))
        });
        let (before, mut train, mut held_out) = match resumed {
            Some(resumed) => resumed,
            None => {
                let begin = |split| SplitWriter::new(self.folder, split, vocab, shard_tokens);
                (0, begin("train")?, begin("held_out")?)
            }
        };
        let mut documents = self.documents()?;
        self.progress.advance(documents.skip(before)?);
        let mut since = 0;
        loop {
            let (batch, bytes) = self.batch(&mut documents)?;
            if batch.is_empty() {
                break;
            }
            let encode = |piece: Piece| {
                self.progress.check()?;
                let ends = tokenizer.ends();
                let mut tokens = Vec::from_iter(ends.begin_of_text);
                tokens.extend(tokenizer.encode(&piece.text)?);
                tokens.push(ends.end_of_text);
                self.progress.advance(piece.text.len() as u64);
                Ok((piece.is_train, piece.name, tokens, piece.text.len() as u64))
            };
            for (is_train, name, tokens, bytes) in batch.into_par_iter().map(encode).collect::<Result<Vec<_>, DataError>>()? {
                let split = if is_train { &mut train } else { &mut held_out };
                split.push(name, &tokens, bytes)?;
            }
            since += bytes;
            if since >= NOTED_BYTES {
                since = 0;
                let (train, held_out) = (train.written()?, held_out.written()?);
                seal(&noted_path, &Noted { tokenizer_blake3: tokenizer_blake3.clone(), documents: documents.number, train, held_out })?;
            }
        }
        Ok((train.finish()?, held_out.finish()?))
    }

    /// The next documents, as many as a share of the memory holds with their tokens.
    fn batch(&self, documents: &mut Documents<'_>) -> Result<(Vec<Piece>, u64), DataError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < (self.memory_bytes / 32).max(1) {
            self.progress.check()?;
            let Some((pieces, entry)) = documents.next()? else { break };
            bytes += entry.bytes + entry.weight();
            batch.extend(pieces);
        }
        Ok((batch, bytes))
    }
}
