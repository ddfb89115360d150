//! Duplicates: the same text but for white space, and nearly the same by [`minhash`]. Texts that share a band are joined,
//! and one document of each cluster stays: the first in the order given.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Document, minhash};

/// Which duplicates go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupOptions {
    pub exact: bool,
    pub near: bool,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { exact: true, near: true }
    }
}

/// For each document, whether it stays; with the counts of exact and near duplicates.
#[must_use]
pub fn unique(documents: &[Document], options: &DedupOptions) -> (Vec<bool>, u64, u64) {
    let mut stays = vec![true; documents.len()];
    let (mut exact, mut near) = (0, 0);
    if options.exact {
        let hashes: Vec<blake3::Hash> = documents.par_iter().map(|d| normalised_hash(&d.text)).collect();
        let mut seen = std::collections::HashSet::new();
        for (stays, hash) in stays.iter_mut().zip(hashes) {
            *stays = seen.insert(hash);
            exact += u64::from(!*stays);
        }
    }
    if options.near {
        let kept: Vec<usize> = (0..documents.len()).filter(|i| stays[*i]).collect();
        let texts: Vec<&str> = kept.iter().map(|i| documents[*i].text.as_str()).collect();
        for (i, first) in near_clusters(&texts).into_iter().enumerate().filter(|(i, first)| i != first) {
            debug_assert!(first < i, "the first of a cluster stays");
            stays[kept[i]] = false;
            near += 1;
        }
    }
    (stays, exact, near)
}

/// Hash of the words, whatever stands between them.
fn normalised_hash(text: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for word in text.split_whitespace() {
        hasher.update(word.as_bytes());
        hasher.update(b" ");
    }
    hasher.finalize()
}

/// For each text the first that it is nearly the same as, through others between them; itself where there is none.
#[must_use]
pub fn near_clusters(texts: &[&str]) -> Vec<usize> {
    let signatures: Vec<_> = texts.par_iter().map(|text| minhash::signature(text)).collect();
    let mut root: Vec<usize> = (0..texts.len()).collect();
    for band in 0..minhash::BANDS {
        let mut first = HashMap::new();
        for (i, signature) in signatures.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?))) {
            let earlier = *first.entry(&signature[band]).or_insert(i);
            join(&mut root, i, earlier);
        }
    }
    (0..root.len()).map(|i| find(&mut root, i)).collect()
}

fn find(root: &mut [usize], mut i: usize) -> usize {
    while root[i] != i {
        root[i] = root[root[i]];
        i = root[i];
    }
    i
}

/// The smaller number becomes the root, so that the first document stays.
fn join(root: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(root, a), find(root, b));
    root[a.max(b)] = a.min(b);
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn document(name: &str, text: String) -> Document {
        Document { name: name.into(), text }
    }

    /// Words of four letters: digits would all be one.
    fn words(seed: usize, n: usize) -> Vec<String> {
        let letters = |hash: u64| (0..4).map(|i| char::from(b'a' + (hash >> (8 * i) & 15) as u8)).collect();
        (0..n).map(|i| letters(xxh3_64(&[seed as u8, (i % 251) as u8, (i / 251) as u8]))).collect()
    }

    #[test]
    fn planted_duplicates_are_found_and_others_spared() {
        let mut documents: Vec<Document> = (0..60).map(|i| document(&format!("a{i}"), words(i, 300).join(" "))).collect();
        for i in 0..20 {
            documents.push(document("spaced", words(i, 300).join("\n\n  ")));
        }
        for i in 20..40 {
            let mut changed = words(i, 300);
            changed[150] = "other".into();
            changed.push("tail".into());
            documents.push(document("near", changed.join(" ")));
        }
        let (stays, exact, near) = unique(&documents, &DedupOptions::default());
        assert_eq!((exact, near), (20, 20));
        assert!(stays[..60].iter().all(|s| *s) && stays[60..].iter().all(|s| !*s));
    }

    #[test]
    fn switches_hold_and_short_texts_are_no_shingles() {
        let documents = vec![document("a", "one two".into()), document("b", "one  two".into()), document("c", "one two three".into())];
        assert_eq!(unique(&documents, &DedupOptions::default()), (vec![true, false, true], 1, 0));
        let off = DedupOptions { exact: false, near: false };
        assert_eq!(unique(&documents, &off), (vec![true; 3], 0, 0));
    }
}
