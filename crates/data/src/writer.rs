//! Writing a split as its tokens come: the shard at work, the list of documents, and what is known of both at any moment, from
//! which another process goes on after a kill.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    DataError,
    shards::{DocumentEntry, HEADER_BYTES, MAGIC, ShardManifest, SplitManifest},
    spill::Hashed,
};

pub(crate) struct SplitWriter<'a> {
    folder: &'a Path,
    split: &'static str,
    width: usize,
    shard_tokens: u64,
    /// Of what is finished.
    manifest: SplitManifest,
    index: Growing,
    /// The shard at work and its tokens.
    shard: Option<(Growing, u64)>,
}

/// How far a split has been written.
#[derive(Serialize, Deserialize)]
pub(crate) struct Written {
    manifest: SplitManifest,
    index: Grown,
    shard: Option<(Grown, u64)>,
}

/// Length and hash of a file that is not finished.
#[derive(Serialize, Deserialize)]
struct Grown {
    bytes: u64,
    xxh3: String,
}

impl<'a> SplitWriter<'a> {
    pub(crate) fn new(folder: &'a Path, split: &'static str, vocab: usize, shard_tokens: u64) -> Result<Self, DataError> {
        let manifest = SplitManifest { tokens: 0, bytes: 0, documents: 0, documents_blake3: String::new(), shards: Vec::new() };
        let index = Growing::new(index(folder, split), 0)?;
        Ok(Self { folder, split, width: width(vocab), shard_tokens, manifest, index, shard: None })
    }

    /// Where another process stood, if what it wrote is all there.
    pub(crate) fn resume(folder: &'a Path, split: &'static str, vocab: usize, shard_tokens: u64, written: Written) -> io::Result<Self> {
        let index = Growing::resume(index(folder, split), 0, &written.index)?;
        let path = shard_path(folder, split, written.manifest.shards.len());
        let resume = |(grown, tokens): (Grown, u64)| Ok::<_, io::Error>((Growing::resume(path, HEADER_BYTES, &grown)?, tokens));
        let shard = written.shard.map(resume).transpose()?;
        Ok(Self { folder, split, width: width(vocab), shard_tokens, manifest: written.manifest, index, shard })
    }

    /// A document of `bytes` of text.
    pub(crate) fn push(&mut self, name: String, tokens: &[u32], bytes: u64) -> Result<(), DataError> {
        let entry = DocumentEntry { name, start: self.manifest.tokens };
        let line = serde_json::to_string(&entry).map_err(|e| DataError::io("write", &self.index.path)(e.into()))?;
        self.index.write(line.as_bytes())?;
        self.index.write(b"\n")?;
        self.manifest.documents += 1;
        self.manifest.tokens += tokens.len() as u64;
        self.manifest.bytes += bytes;
        let mut rest = tokens;
        while !rest.is_empty() {
            let (mut shard, have) = match self.shard.take() {
                Some(shard) => shard,
                None => self.begin()?,
            };
            let (now, after) = rest.split_at((rest.len() as u64).min(self.shard_tokens - have) as usize);
            for token in now {
                shard.write(&token.to_le_bytes()[..self.width])?;
            }
            rest = after;
            let have = have + now.len() as u64;
            if have == self.shard_tokens {
                self.end(shard, have)?;
            } else {
                self.shard = Some((shard, have));
            }
        }
        Ok(())
    }

    fn begin(&self) -> Result<(Growing, u64), DataError> {
        Ok((Growing::new(shard_path(self.folder, self.split, self.manifest.shards.len()), HEADER_BYTES)?, 0))
    }

    fn end(&mut self, shard: Growing, tokens: u64) -> Result<(), DataError> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&(self.width as u32).to_le_bytes());
        header[16..24].copy_from_slice(&tokens.to_le_bytes());
        let file = shard_name(self.split, self.manifest.shards.len());
        self.manifest.shards.push(ShardManifest { file, tokens, blake3: shard.finish(&header)? });
        Ok(())
    }

    /// How far it is, with all of that handed to the system.
    pub(crate) fn written(&mut self) -> Result<Written, DataError> {
        let shard = self.shard.as_mut().map(|(shard, tokens)| Ok::<_, DataError>((shard.grown()?, *tokens)));
        Ok(Written { manifest: self.manifest.clone(), index: self.index.grown()?, shard: shard.transpose()? })
    }

    pub(crate) fn finish(mut self) -> Result<SplitManifest, DataError> {
        if self.shard.is_none() && self.manifest.shards.is_empty() {
            self.shard = Some(self.begin()?);
        }
        if let Some((shard, tokens)) = self.shard.take() {
            self.end(shard, tokens)?;
        }
        self.manifest.documents_blake3 = self.index.finish(&[])?;
        Ok(self.manifest)
    }
}

/// Bytes of a token.
fn width(vocab: usize) -> usize {
    if vocab <= 1 << 16 { 2 } else { 4 }
}

fn index(folder: &Path, split: &str) -> PathBuf {
    folder.join(format!("{split}.documents.jsonl"))
}

fn shard_name(split: &str, number: usize) -> String {
    format!("{split}-{number:05}.tok")
}

fn shard_path(folder: &Path, split: &str, number: usize) -> PathBuf {
    folder.join(shard_name(split, number))
}

/// A file that grows behind a header, which is written last.
struct Growing {
    path: PathBuf,
    file: Hashed<BufWriter<File>>,
    bytes: u64,
}

impl Growing {
    fn new(path: PathBuf, header_bytes: usize) -> Result<Self, DataError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).map_err(DataError::io("create", &path))?;
        let mut growing = Self { file: Hashed::new(BufWriter::with_capacity(1 << 18, file)), path, bytes: 0 };
        growing.file.inner.write_all(&vec![0; header_bytes]).map_err(DataError::io("write", &growing.path))?;
        Ok(growing)
    }

    /// What another process wrote, and no more of it than it knew of.
    fn resume(path: PathBuf, header_bytes: usize, grown: &Grown) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.seek(SeekFrom::Start(header_bytes as u64))?;
        let mut read = Hashed::new(io::sink());
        let bytes = io::copy(&mut BufReader::with_capacity(1 << 18, &file).take(grown.bytes), &mut read)?;
        if bytes != grown.bytes || read.hex() != grown.xxh3 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.set_len(header_bytes as u64 + bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path, file: read.with_inner(BufWriter::with_capacity(1 << 18, file)), bytes })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(DataError::io("write", &self.path))
    }

    fn grown(&mut self) -> Result<Grown, DataError> {
        self.file.flush().map_err(DataError::io("write", &self.path))?;
        Ok(Grown { bytes: self.bytes, xxh3: self.file.hex() })
    }

    /// Write the header, flush, read all back, and give the hash of the whole file.
    fn finish(mut self, header: &[u8]) -> Result<String, DataError> {
        let grown = self.grown()?;
        let error = || DataError::io("write", &self.path);
        let mut file = self.file.inner.into_inner().map_err(|e| error()(e.into_error()))?;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(header)).and_then(|()| file.sync_all()).map_err(error())?;
        file.seek(SeekFrom::Start(0)).map_err(error())?;
        let (mut whole, mut body) = (blake3::Hasher::new(), Hashed::new(io::sink()));
        let mut read = vec![0; 1 << 18];
        file.read_exact(&mut read[..header.len()]).map_err(error())?;
        let has_header = read[..header.len()] == *header;
        whole.update(&read[..header.len()]);
        loop {
            let count = file.read(&mut read).map_err(DataError::io("read", &self.path))?;
            if count == 0 {
                break;
            }
            whole.update(&read[..count]);
            body.write_all(&read[..count]).map_err(error())?;
        }
        if !has_header || body.hex() != grown.xxh3 {
            return Err(DataError::Damaged { path: self.path, problem: "it does not hold what was just written to it".into() });
        }
        Ok(whole.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_is_gone_on_with_and_gives_the_same_files() {
        let documents: Vec<(String, Vec<u32>)> =
            (0..50_u32).map(|i| (format!("{i}.txt"), (0..i * 7 % 40).map(|t| t + i).collect())).collect();
        let (once, twice) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let push = |writer: &mut SplitWriter<'_>, part: &[(String, Vec<u32>)]| {
            part.iter().for_each(|(name, tokens)| writer.push(name.clone(), tokens, 9).unwrap());
        };
        let mut writer = SplitWriter::new(once.path(), "train", 300, 100).unwrap();
        push(&mut writer, &documents);
        let want = writer.finish().unwrap();
        for stop in [0, 1, 17, 50] {
            let begin = || SplitWriter::new(twice.path(), "train", 300, 100);
            let mut writer = begin().unwrap();
            push(&mut writer, &documents[..stop]);
            let written = serde_json::to_string(&writer.written().unwrap()).unwrap();
            // Written, but never told of.
            push(&mut writer, &documents[stop..(stop + 9).min(50)]);
            writer.written().unwrap();
            std::mem::forget(writer);
            let mut writer = SplitWriter::resume(twice.path(), "train", 300, 100, serde_json::from_str(&written).unwrap()).unwrap();
            push(&mut writer, &documents[stop..]);
            assert_eq!(writer.finish().unwrap(), want);
            for entry in std::fs::read_dir(once.path()).unwrap().flatten() {
                assert_eq!(std::fs::read(entry.path()).unwrap(), std::fs::read(twice.path().join(entry.file_name())).unwrap());
            }
        }
    }
}
