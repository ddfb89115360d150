//! Records of a fixed length in order of their bytes, however many there are: what does not fit in memory goes to disk in
//! sorted runs, which are merged.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use rayon::slice::ParallelSliceMut;

use crate::DataError;

pub(crate) struct Sorter<const N: usize> {
    /// Of its runs, which go with it.
    stem: PathBuf,
    /// Held at most.
    most: usize,
    records: Vec<[u8; N]>,
    runs: Vec<PathBuf>,
}

impl<const N: usize> Sorter<N> {
    /// Runs are named after `stem`.
    pub(crate) fn new(stem: PathBuf, memory_bytes: u64) -> Self {
        // Fewer would make more runs than can be open at once.
        let most = (memory_bytes as usize / N).max(1 << 10);
        Self { stem, most, records: Vec::new(), runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, record: [u8; N]) -> Result<(), DataError> {
        if self.records.len() == self.most {
            self.spill()?;
        }
        self.records.push(record);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), DataError> {
        self.records.par_sort_unstable();
        let path = self.stem.with_extension(format!("{}.sorted", self.runs.len()));
        let error = || DataError::io("write", &path);
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&path).map_err(error())?);
        self.records.drain(..).try_for_each(|record| file.write_all(&record)).map_err(error())?;
        file.flush().map_err(error())?;
        self.runs.push(path);
        Ok(())
    }

    /// Hand all records to `each`, in order.
    pub(crate) fn each(mut self, mut each: impl FnMut(&[u8; N]) -> Result<(), DataError>) -> Result<(), DataError> {
        if self.runs.is_empty() {
            self.records.par_sort_unstable();
            return self.records.iter().try_for_each(each);
        }
        self.spill()?;
        self.records = Vec::new();
        let buffer = (self.most * N / self.runs.len()).clamp(1 << 12, 1 << 20);
        let mut readers = Vec::new();
        let mut next = BinaryHeap::new();
        for (at, path) in self.runs.iter().enumerate() {
            let mut reader = BufReader::with_capacity(buffer, File::open(path).map_err(DataError::io("open", path))?);
            next.extend(read(&mut reader).map_err(DataError::io("read", path))?.map(|record| Reverse((record, at))));
            readers.push(reader);
        }
        while let Some(Reverse((record, at))) = next.pop() {
            each(&record)?;
            let following = read(&mut readers[at]).map_err(DataError::io("read", &self.runs[at]))?;
            next.extend(following.map(|record| Reverse((record, at))));
        }
        Ok(())
    }
}

impl<const N: usize> Drop for Sorter<N> {
    fn drop(&mut self) {
        for run in &self.runs {
            let _ = std::fs::remove_file(run);
        }
    }
}

/// The next record, or `None` at the end; runs are whole records.
fn read<const N: usize>(reader: &mut BufReader<File>) -> std::io::Result<Option<[u8; N]>> {
    let mut record = [0; N];
    match reader.read_exact(&mut record) {
        Ok(()) => Ok(Some(record)),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_sorted_from_memory_and_from_disk_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 1024, 1025, 5000] {
            let mut sorter = Sorter::<4>::new(folder.path().join("numbers"), 0);
            let mut numbers: Vec<u32> = (0..count).map(|i: u32| i.wrapping_mul(2_654_435_761) % 9973).collect();
            numbers.iter().for_each(|n| sorter.push(n.to_be_bytes()).unwrap());
            let mut got = Vec::new();
            sorter
                .each(|record| {
                    got.push(u32::from_be_bytes(*record));
                    Ok(())
                })
                .unwrap();
            numbers.sort_unstable();
            assert_eq!(got, numbers);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
