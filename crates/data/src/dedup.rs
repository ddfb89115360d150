//! Duplicates: the same text but for white space, and nearly the same by [`minhash`]. Texts that share a band are joined,
//! and one document of each cluster stays: the first in the order given.
//!
//! What is compared are hashes of 128 bits, sorted on disk where they do not fit in memory; some bytes a document are held.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    DataError,
    minhash::{self, BANDS},
    sorter::Sorter,
};

/// Which duplicates go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupOptions {
    /// Documents of the same words: the first by name stays.
    pub exact: bool,
    /// Documents that share most runs of five words, by MinHash (about three quarters of them and more).
    pub near: bool,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { exact: true, near: true }
    }
}

/// Hash of the words, whatever stands between them.
pub(crate) fn words_hash(text: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for word in text.split_whitespace() {
        hasher.update(word.as_bytes());
        hasher.update(b" ");
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    u128::from_le_bytes(hash)
}

/// Takes in documents one by one, numbered in the order in which they come.
pub(crate) struct Finder {
    /// A hash, the document's number.
    exact: Sorter<20>,
    /// Number of a band, its hash, the document's number.
    near: Sorter<21>,
    documents: u32,
}

/// Which documents stay.
pub(crate) struct Unique {
    /// For each document the first that it is a duplicate of; itself where there is none.
    first: Vec<u32>,
    is_exact: Vec<bool>,
    pub exact: u64,
    pub near: u64,
}

impl Unique {
    pub(crate) fn stays(&self, document: u32) -> bool {
        self.first[document as usize] == document
    }

    /// Why a document does not stay, as the tally names it.
    pub(crate) fn reason(&self, document: u32) -> &'static str {
        if self.is_exact[document as usize] { "exact" } else { "near" }
    }
}

impl Finder {
    pub(crate) fn new(folder: &Path, memory_bytes: u64) -> Self {
        let sorter = |name: &str| folder.join(name);
        Self { exact: Sorter::new(sorter("exact"), memory_bytes / 4), near: Sorter::new(sorter("near"), memory_bytes / 2), documents: 0 }
    }

    /// The next document, by what is known of it.
    pub(crate) fn add(&mut self, words_hash: Option<u128>, bands: Option<&[u128; BANDS]>) -> Result<(), DataError> {
        let number = self.documents.to_be_bytes();
        if let Some(hash) = words_hash {
            self.exact.push(joined(&[&hash.to_be_bytes(), &number]))?;
        }
        for (band, hash) in bands.into_iter().flatten().enumerate() {
            self.near.push(joined(&[&[band as u8], &hash.to_be_bytes(), &number]))?;
        }
        self.documents = self.documents.checked_add(1).ok_or_else(|| {
            let problem = format!("they hold more than {} documents", u32::MAX);
            DataError::Option { key: "corpus.paths", problem }
        })?;
        Ok(())
    }

    /// Exact duplicates first, near ones among what is left; `check` is asked now and then whether to go on.
    pub(crate) fn finish(self, check: &mut dyn FnMut() -> Result<(), DataError>) -> Result<Unique, DataError> {
        let mut unique = Unique { first: (0..self.documents).collect(), is_exact: vec![false; self.documents as usize], exact: 0, near: 0 };
        let mut before = (Vec::new(), 0);
        self.exact.each(|record| {
            check()?;
            let (hash, number) = parted(record);
            if hash == before.0 {
                unique.first[number as usize] = before.1;
                unique.is_exact[number as usize] = true;
                unique.exact += 1;
            } else {
                before = (hash.to_vec(), number);
            }
            Ok(())
        })?;
        let mut root: Vec<u32> = (0..self.documents).collect();
        before = (Vec::new(), 0);
        self.near.each(|record| {
            check()?;
            let (band, number) = parted(record);
            if !unique.stays(number) {
            } else if band == before.0 {
                join(&mut root, number, before.1);
            } else {
                before = (band.to_vec(), number);
            }
            Ok(())
        })?;
        for number in 0..self.documents {
            let first = find(&mut root, number);
            if first != number {
                unique.first[number as usize] = first;
                unique.near += 1;
            }
        }
        Ok(unique)
    }
}

fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut record = [0; N];
    let mut rest = record.as_mut_slice();
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    record
}

/// What is compared, and the document's number behind it.
fn parted(record: &[u8]) -> (&[u8], u32) {
    let (hash, number) = record.split_at(record.len() - 4);
    (hash, u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

fn find(root: &mut [u32], mut i: u32) -> u32 {
    while root[i as usize] != i {
        root[i as usize] = root[root[i as usize] as usize];
        i = root[i as usize];
    }
    i
}

/// The smaller number becomes the root, so that the first document stays.
fn join(root: &mut [u32], a: u32, b: u32) {
    let (a, b) = (find(root, a), find(root, b));
    root[a.max(b) as usize] = a.min(b);
}

/// For each text the first that it is nearly the same as, through others between them; itself where there is none.
/// # Errors
/// When there are more than `u32` counts.
pub fn near_clusters(texts: &[&str]) -> Result<Vec<usize>, DataError> {
    let bands: Vec<_> = texts.par_iter().map(|text| minhash::bands(text)).collect();
    let mut finder = Finder::new(Path::new(""), u64::MAX);
    bands.iter().try_for_each(|bands| finder.add(None, bands.as_deref()))?;
    Ok(finder.finish(&mut || Ok(()))?.first.into_iter().map(|first| first as usize).collect())
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// Words of four letters: digits would all be one.
    fn words(seed: usize, n: usize) -> Vec<String> {
        let letters = |hash: u64| (0..4).map(|i| char::from(b'a' + (hash >> (8 * i) & 15) as u8)).collect();
        (0..n).map(|i| letters(xxh3_64(&[seed as u8, (i % 251) as u8, (i / 251) as u8]))).collect()
    }

    fn unique(texts: &[String], exact: bool, near: bool) -> (Vec<bool>, u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let mut finder = Finder::new(folder.path(), 0);
        for text in texts {
            finder.add(exact.then(|| words_hash(text)), minhash::bands(text).as_deref().filter(|_| near)).unwrap();
        }
        let unique = finder.finish(&mut || Ok(())).unwrap();
        ((0..texts.len()).map(|i| unique.stays(i as u32)).collect(), unique.exact, unique.near)
    }

    #[test]
    fn planted_duplicates_are_found_and_others_spared() {
        let mut texts: Vec<String> = (0..60).map(|i| words(i, 300).join(" ")).collect();
        for i in 0..20 {
            texts.push(words(i, 300).join("\n\n  "));
        }
        for i in 20..40 {
            let mut changed = words(i, 300);
            changed[150] = "other".into();
            changed.push("tail".into());
            texts.push(changed.join(" "));
        }
        let (stays, exact, near) = unique(&texts, true, true);
        assert_eq!((exact, near), (20, 20));
        assert!(stays[..60].iter().all(|s| *s) && stays[60..].iter().all(|s| !*s));
        let all: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(near_clusters(&all).unwrap()[60..], (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn switches_hold_and_short_texts_are_no_shingles() {
        let texts = ["one two", "one  two", "one two three"].map(str::to_owned);
        assert_eq!(unique(&texts, true, true), (vec![true, false, true], 1, 0));
        assert_eq!(unique(&texts, false, false), (vec![true; 3], 0, 0));
    }
}
