//! The ledger: per phase what was predicted and what came, in one append-only file of JSON lines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{TrainError, gate::GateResult, held_out::SampleLoss, metric::Metric};

/// Prediction or truth of one phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of held-out samples: of text `bits_per_byte`.
    #[serde(flatten)]
    pub held_out: Option<Metric>,
    /// Where it should land, as the law's own spread tells.
    #[serde(default, alias = "bits_per_byte_interval", skip_serializing_if = "Option::is_none")]
    pub held_out_interval: Option<[f64; 2]>,
    pub secs: f64,
    pub memory_bytes: u64,
    /// How many samples were learnt from, counted in the entry's unit.
    pub tokens: u64,
    pub flops: f64,
}

/// One phase as planned, as it went, and whether it passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1.
    pub phase: usize,
    pub name: String,
    pub folder: PathBuf,
    pub params: u64,
    pub unix_secs: f64,
    pub predicted: Figures,
    pub actual: Figures,
    /// What its samples are counted in, as its model says: `tokens`, `images` or `pairs`.
    #[serde(default = "samples")]
    pub unit: String,
    /// What the same metric is for a naive model of the same data, or for the model that it began as.
    #[serde(alias = "baseline_bits_per_byte")]
    pub baseline: f64,
    /// Whose that is: `a trigram`.
    #[serde(default = "naive")]
    pub baseline_of: String,
    /// Held-out loss sample by sample; empty in older ledgers.
    #[serde(default, alias = "windows", skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<SampleLoss>,
    pub gates: Vec<GateResult>,
    pub passed: bool,
    /// A text by the model before it was trained, and after.
    pub sample_before: String,
    pub sample_after: String,
}

/// Older ledgers do not tell.
fn samples() -> String {
    "samples".into()
}

fn naive() -> String {
    "a naive model".into()
}

/// What the samples of all `entries` are counted in.
#[must_use]
pub fn unit(entries: &[Entry]) -> &str {
    let first = entries.first().map_or("tokens", |entry| &entry.unit);
    if entries.iter().all(|entry| entry.unit == first) { first } else { "samples" }
}

/// Make sure that entries can be added, before there is one.
/// # Errors
/// When the file cannot be read or written, or is none.
pub fn check(path: &Path) -> Result<(), TrainError> {
    let ledger = || TrainError::io("write the ledger", path);
    match disk::open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(ledger()(e)),
        _ => {}
    }
    std::fs::OpenOptions::new().append(true).create(true).open(path).map(|_| ()).map_err(ledger())
}

/// Add one entry at the end, synced.
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, entry: &Entry) -> Result<(), TrainError> {
    let line = serde_json::to_string(entry).map_err(|e| TrainError::io("write", path)(e.into()))?;
    disk::append_line(path, &line).map_err(TrainError::io("write", path))
}

/// All whole entries, and how many lines were torn.
#[must_use]
pub fn read(path: &Path) -> (Vec<Entry>, usize) {
    let text = disk::read(path, 1 << 30).unwrap_or_default();
    let (mut entries, mut torn) = (Vec::new(), 0);
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            Err(_) => torn += 1,
        }
    }
    (entries, torn)
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::*;

    #[test]
    fn entries_come_back_and_a_torn_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let entry = Entry {
            phase: 1,
            name: "base".into(),
            folder: "phases/1".into(),
            params: 3,
            unix_secs: 0.0,
            predicted: Figures::default(),
            actual: Figures { held_out: Some(Metric::bits_per_byte(2.0)), ..Figures::default() },
            unit: "tokens".into(),
            baseline: 3.0,
            baseline_of: "a trigram".into(),
            samples: vec![],
            gates: vec![],
            passed: true,
            sample_before: "<b>".into(),
            sample_after: "\u{1F6B2}".into(),
        };
        append(&path, &entry).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"phase\": 2, \"na").unwrap();
        append(&path, &entry).unwrap();
        assert_eq!(read(&path), (vec![entry.clone(), entry.clone()], 1));
        assert_eq!(read(Path::new("nowhere")), (vec![], 0));
        check(&path).unwrap();
        assert_eq!(read(&path).0.len(), 2, "a look changes nothing");
        // One of before units were kept: nothing is guessed.
        let older =
            serde_json::to_string(&entry).unwrap().replace(",\"unit\":\"tokens\"", "").replace(",\"baseline_of\":\"a trigram\"", "");
        std::fs::write(&path, older).unwrap();
        let older = read(&path).0;
        assert_eq!((unit(&older), older[0].baseline_of.as_str()), ("samples", "a naive model"));
        assert_eq!(unit(std::slice::from_ref(&entry)), "tokens");
        assert!(check(folder.path()).unwrap_err().to_string().contains("write the ledger"));
    }
}
