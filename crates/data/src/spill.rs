//! Documents on their way through a disk: sorted runs of them, and the merge of many runs into one order.
//!
//! ```text
//! run-00000.meta   what is known of each document, in order; all that duplicates and splits are decided from
//! run-00000.text   their texts end to end, in the same order
//! ```
//! The order is that of [`Entry`], which no two documents share: what is merged does not depend on how documents fell into runs,
//! and so neither on memory nor on threads. Crates for external sorting keep their runs to themselves; these outlive a kill.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{DataError, minhash::BANDS, tally::Tally};

/// What is known of a document besides its text. Ordered by a keyed hash of the name, so that any part from the start is a
/// sample; then by what tells documents apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub rank: u64,
    pub name: String,
    /// Number of its file, and its own in there.
    pub place: (u32, u64),
    pub bytes: u64,
    /// Of its words; 0 where nobody asks.
    pub words_hash: u128,
    /// Of each band of its signature, if it has one.
    pub bands: Option<Box<[u128; BANDS]>>,
}

impl Entry {
    fn key(&self) -> (u64, &str, (u32, u64)) {
        (self.rank, &self.name, self.place)
    }

    /// Bytes that it takes in memory, more or less.
    pub(crate) fn weight(&self) -> u64 {
        (size_of::<Self>() + self.name.len() + self.bands.as_ref().map_or(0, |_| 16 * BANDS)) as u64
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.rank.to_le_bytes())?;
        out.write_all(&self.place.0.to_le_bytes())?;
        out.write_all(&self.place.1.to_le_bytes())?;
        out.write_all(&self.bytes.to_le_bytes())?;
        out.write_all(&self.words_hash.to_le_bytes())?;
        out.write_all(&(self.name.len() as u32).to_le_bytes())?;
        out.write_all(self.name.as_bytes())?;
        out.write_all(&[u8::from(self.bands.is_some())])?;
        self.bands.iter().flat_map(|bands| bands.iter()).try_for_each(|band| out.write_all(&band.to_le_bytes()))
    }

    /// The next one, or `None` at the end.
    fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut first = [0; 1];
        if input.read(&mut first)? == 0 {
            return Ok(None);
        }
        let mut rank = [0; 8];
        rank[0] = first[0];
        input.read_exact(&mut rank[1..])?;
        let place = (u32::from_le_bytes(array(input)?), u64::from_le_bytes(array(input)?));
        let (bytes, words_hash) = (u64::from_le_bytes(array(input)?), u128::from_le_bytes(array(input)?));
        let mut name = vec![0; u32::from_le_bytes(array(input)?) as usize];
        input.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(io::Error::other)?;
        let mut bands = None;
        if array::<1>(input)? == [1] {
            let bands = bands.insert(Box::new([0; BANDS]));
            for band in bands.iter_mut() {
                *band = u128::from_le_bytes(array(input)?);
            }
        }
        Ok(Some(Self { rank: u64::from_le_bytes(rank), name, place, bytes, words_hash, bands }))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A sorted run on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    name: String,
    pub documents: u64,
    meta_xxh3: String,
    text_xxh3: String,
}

impl Run {
    /// Sort `documents` and write them.
    pub(crate) fn write(folder: &Path, name: String, mut documents: Vec<(Entry, String)>) -> Result<Self, DataError> {
        documents.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut run = Writer::new(folder, name)?;
        for (entry, text) in documents {
            run.push(&entry, text.as_bytes())?;
        }
        run.finish()
    }

    fn meta(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.meta", self.name))
    }

    fn text(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.text", self.name))
    }

    /// The first of `bytes` of text from `at` on, as far as it is whole characters.
    pub(crate) fn beginning(&self, folder: &Path, at: u64, bytes: u64) -> Result<String, DataError> {
        let path = self.text(folder);
        let mut text = vec![0; bytes.min(4 * Tally::EXAMPLE_CHARS as u64) as usize];
        File::open(&path).and_then(|file| file.read_exact_at(&mut text, at)).map_err(DataError::io("read", &path))?;
        Ok(text.utf8_chunks().next().map_or(String::new(), |chunk| chunk.valid().to_owned()))
    }

    /// Whether both files are as they were written: asked of what another process left.
    pub(crate) fn is_whole(&self, folder: &Path) -> bool {
        let hash = |path: PathBuf| hash_file(&path).ok();
        hash(self.meta(folder)).is_some_and(|h| h == self.meta_xxh3) && hash(self.text(folder)).is_some_and(|h| h == self.text_xxh3)
    }
}

/// xxh3 of a file, as hex.
fn hash_file(path: &Path) -> io::Result<String> {
    let mut hashed = Hashed::new(io::sink());
    io::copy(&mut BufReader::with_capacity(1 << 18, File::open(path)?), &mut hashed)?;
    Ok(hashed.hex())
}

/// A writer that knows the hash of what went through it.
pub(crate) struct Hashed<W> {
    pub inner: W,
    hash: Xxh3,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Xxh3::new() }
    }

    /// Go on into another writer.
    pub(crate) fn with_inner<V>(self, inner: V) -> Hashed<V> {
        Hashed { inner, hash: self.hash }
    }

    pub(crate) fn hex(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Writer {
    run: Run,
    meta: Hashed<BufWriter<File>>,
    text: Hashed<BufWriter<File>>,
    paths: [PathBuf; 2],
}

impl Writer {
    fn new(folder: &Path, name: String) -> Result<Self, DataError> {
        let run = Run { name, documents: 0, meta_xxh3: String::new(), text_xxh3: String::new() };
        let paths = [run.meta(folder), run.text(folder)];
        let open = |path: &Path| {
            let file = File::create(path).map_err(DataError::io("create", path))?;
            Ok::<_, DataError>(Hashed::new(BufWriter::with_capacity(1 << 18, file)))
        };
        Ok(Self { run, meta: open(&paths[0])?, text: open(&paths[1])?, paths })
    }

    fn push(&mut self, entry: &Entry, text: &[u8]) -> Result<(), DataError> {
        self.run.documents += 1;
        entry.write(&mut self.meta).map_err(DataError::io("write", &self.paths[0]))?;
        self.text.write_all(text).map_err(DataError::io("write", &self.paths[1]))
    }

    fn finish(mut self) -> Result<Run, DataError> {
        self.meta.flush().map_err(DataError::io("write", &self.paths[0]))?;
        self.text.flush().map_err(DataError::io("write", &self.paths[1]))?;
        (self.run.meta_xxh3, self.run.text_xxh3) = (self.meta.hex(), self.text.hex());
        Ok(self.run)
    }
}

/// The documents of many runs in one order.
pub(crate) struct Merge {
    readers: Vec<(BufReader<File>, PathBuf)>,
    next: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Merge {
    /// `buffers_bytes` are shared by all runs.
    pub(crate) fn new(folder: &Path, runs: &[Run], buffers_bytes: u64) -> Result<Self, DataError> {
        let mut merge = Self { readers: Vec::new(), next: BinaryHeap::new() };
        for (at, run) in runs.iter().enumerate() {
            merge.readers.push((open(run.meta(folder), runs.len(), buffers_bytes)?, run.meta(folder)));
            merge.advance(at)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, run: usize) -> Result<(), DataError> {
        let (reader, path) = &mut self.readers[run];
        let entry = Entry::read(reader).map_err(DataError::io("read", path))?;
        self.next.extend(entry.map(|entry| Reverse((entry, run))));
        Ok(())
    }

    /// The next document and the run that it comes from.
    pub(crate) fn next(&mut self) -> Result<Option<(Entry, usize)>, DataError> {
        let Some(Reverse((entry, run))) = self.next.pop() else { return Ok(None) };
        self.advance(run)?;
        Ok(Some((entry, run)))
    }
}

fn open(path: PathBuf, runs: usize, buffers_bytes: u64) -> Result<BufReader<File>, DataError> {
    let buffer = (buffers_bytes as usize / runs.max(1)).clamp(1 << 12, 1 << 20);
    Ok(BufReader::with_capacity(buffer, File::open(&path).map_err(DataError::io("open", &path))?))
}

/// The texts of many runs, each from its beginning: whoever follows a [`Merge`] takes or skips the text of every document.
pub(crate) struct Texts {
    readers: Vec<(BufReader<File>, PathBuf)>,
}

impl Texts {
    pub(crate) fn new(folder: &Path, runs: &[Run], buffers_bytes: u64) -> Result<Self, DataError> {
        let one = |run: &Run| Ok((open(run.text(folder), runs.len(), buffers_bytes)?, run.text(folder)));
        Ok(Self { readers: runs.iter().map(one).collect::<Result<_, DataError>>()? })
    }

    pub(crate) fn take(&mut self, run: usize, bytes: u64) -> Result<String, DataError> {
        let (reader, path) = &mut self.readers[run];
        let mut text = vec![0; bytes as usize];
        reader.read_exact(&mut text).map_err(DataError::io("read", path))?;
        String::from_utf8(text).map_err(|_| DataError::io("read", path)(io::ErrorKind::InvalidData.into()))
    }

    pub(crate) fn skip(&mut self, run: usize, bytes: u64) -> Result<(), DataError> {
        let (reader, path) = &mut self.readers[run];
        reader.seek_relative(bytes as i64).map_err(DataError::io("read", path))
    }
}

/// Merge runs until no more than `most` are left, so that all can be open at once.
pub(crate) fn compact(
    folder: &Path,
    mut runs: Vec<Run>,
    most: usize,
    buffers_bytes: u64,
    check: &dyn Fn() -> Result<(), DataError>,
) -> Result<Vec<Run>, DataError> {
    for round in 0.. {
        if runs.len() <= most {
            break;
        }
        let part: Vec<Run> = runs.drain(..most.min(runs.len() - most + 1)).collect();
        let mut merge = Merge::new(folder, &part, buffers_bytes / 2)?;
        let mut texts = Texts::new(folder, &part, buffers_bytes / 2)?;
        let mut writer = Writer::new(folder, format!("merged-{round:05}"))?;
        while let Some((entry, run)) = merge.next()? {
            check()?;
            writer.push(&entry, texts.take(run, entry.bytes)?.as_bytes())?;
        }
        runs.push(writer.finish()?);
        // What this process merged once more is no run that another could go on with.
        for run in part.iter().filter(|run| run.name.starts_with("merged-")) {
            let _ = std::fs::remove_file(run.meta(folder));
            let _ = std::fs::remove_file(run.text(folder));
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(Entry, String)>> {
        let one = (0..4_u64, "[a-c]{0,2}", any::<u128>(), proptest::option::of(any::<u128>()), ".{0,9}");
        proptest::collection::vec(one, 0..40).prop_map(|drawn| {
            let entry = |(at, (rank, name, words_hash, band, text)): (usize, (u64, String, u128, Option<u128>, String))| {
                let bands = band.map(|band| Box::new([band; BANDS]));
                (Entry { rank, name, place: (at as u32 / 7, at as u64), bytes: text.len() as u64, words_hash, bands }, text)
            };
            drawn.into_iter().enumerate().map(entry).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_documents_fell_into_runs_they_come_in_one_order(documents in entries(), of_run in 1..9_usize, most in 2..5_usize) {
            let folder = tempfile::tempdir().unwrap();
            let write = |(at, part): (usize, &[(Entry, String)])| Run::write(folder.path(), format!("run-{at}"), part.to_vec()).unwrap();
            let runs: Vec<Run> = documents.chunks(of_run).enumerate().map(write).collect();
            prop_assert!(runs.iter().all(|run| run.is_whole(folder.path())));
            let runs = compact(folder.path(), runs, most, 1 << 16, &|| Ok(())).unwrap();
            prop_assert!(runs.len() <= most);
            let (mut merge, mut texts) = (Merge::new(folder.path(), &runs, 0).unwrap(), Texts::new(folder.path(), &runs, 0).unwrap());
            let mut got = Vec::new();
            while let Some((entry, run)) = merge.next().unwrap() {
                let text = texts.take(run, entry.bytes).unwrap();
                got.push((entry, text));
            }
            let mut want = documents;
            want.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_run_with_a_changed_byte_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { rank: 1, name: "a".into(), place: (0, 0), bytes: 4, words_hash: 0, bands: None };
        let run = Run::write(folder.path(), "run".into(), vec![(entry, "text".into())]).unwrap();
        for path in [run.meta(folder.path()), run.text(folder.path())] {
            let whole = std::fs::read(&path).unwrap();
            let mut changed = whole.clone();
            changed[2] ^= 1;
            std::fs::write(&path, changed).unwrap();
            assert!(!run.is_whole(folder.path()));
            std::fs::write(&path, whole).unwrap();
        }
        assert!(run.is_whole(folder.path()));
    }
}
