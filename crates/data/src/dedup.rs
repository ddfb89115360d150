//! Duplicates: the same text but for white space, and nearly the same by MinHash.
//!
//! Broder, *On the resemblance and containment of documents*, 1997. Shingles of five words, 112 hash functions in 14
//! bands of 8: two documents that share a band are compared by their whole signatures, and those that agree in at least
//! `threshold` of it are joined. One document of each cluster stays: the first in the order given.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Document;

/// Which duplicates go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupOptions {
    pub exact: bool,
    pub near: bool,
    /// Share of shingles in common (Jaccard) from which two documents are nearly the same.
    pub threshold: f64,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { exact: true, near: true, threshold: 0.75 }
    }
}

const BANDS: usize = 14;
const ROWS: usize = 8;
const HASHES: usize = BANDS * ROWS;
const SHINGLE_WORDS: usize = 5;

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
        let signatures: Vec<Option<[u32; HASHES]>> = kept.par_iter().map(|i| signature(&documents[*i].text)).collect();
        for (later, _) in clusters(&signatures, options.threshold) {
            stays[kept[later]] = false;
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

/// The least of each hash function over all shingles; `None` for a text of fewer than five words.
fn signature(text: &str) -> Option<[u32; HASHES]> {
    let words: Vec<u64> = text.split_whitespace().map(|word| xxh3_64(word.as_bytes())).collect();
    if words.len() < SHINGLE_WORDS {
        return None;
    }
    let mut least = [u32::MAX; HASHES];
    for shingle in words.windows(SHINGLE_WORDS) {
        let hash = shingle.iter().fold(0_u64, |h, w| (h.rotate_left(5) ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (low, high) = (hash as u32, (hash >> 32) as u32 | 1);
        // Functions `low + i * high`, scrambled: Kirsch and Mitzenmacher, *Less Hashing, Same Performance*, 2006.
        for (i, least) in least.iter_mut().enumerate() {
            let mixed = low.wrapping_add((i as u32).wrapping_mul(high)).wrapping_mul(0x85eb_ca6b);
            *least = (*least).min(mixed ^ (mixed >> 15));
        }
    }
    Some(least)
}

/// Pairs (later, earlier root): every document that joins an earlier one.
fn clusters(signatures: &[Option<[u32; HASHES]>], threshold: f64) -> Vec<(usize, usize)> {
    let mut root: Vec<usize> = (0..signatures.len()).collect();
    let need = (threshold * HASHES as f64).ceil() as usize;
    for band in 0..BANDS {
        let mut buckets: HashMap<&[u32], Vec<usize>> = HashMap::new();
        for (i, signature) in signatures.iter().enumerate() {
            let Some(signature) = signature else { continue };
            let bucket = buckets.entry(&signature[band * ROWS..(band + 1) * ROWS]).or_default();
            // Compare with each cluster in the bucket once, by its first member there.
            let mut joined = false;
            for &other in bucket.iter() {
                let Some(earlier) = &signatures[other] else { continue };
                if signature.iter().zip(earlier).filter(|(a, b)| a == b).count() >= need {
                    join(&mut root, i, other);
                    joined = true;
                    break;
                }
            }
            if !joined {
                bucket.push(i);
            }
        }
    }
    (0..root.len()).map(|i| (i, find(&mut root, i))).filter(|(i, r)| i != r).collect()
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
    use super::*;

    fn document(name: &str, text: String) -> Document {
        Document { name: name.into(), text }
    }

    fn words(seed: usize, n: usize) -> Vec<String> {
        (0..n).map(|i| format!("w{}", xxh3_64(&[seed as u8, (i % 251) as u8, (i / 251) as u8]) % 5000)).collect()
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
        let off = DedupOptions { exact: false, near: false, ..DedupOptions::default() };
        assert_eq!(unique(&documents, &off), (vec![true; 3], 0, 0));
    }
}
