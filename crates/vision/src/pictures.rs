//! Images ready to be learnt from: listed, decoded once to see which can be, and kept decoded as far as a bound allows. What is beyond it
//! is decoded again whenever it is asked for: with an order that is new in each epoch no other choice of what to keep is better.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use image::RgbImage;
use rayon::prelude::*;
use train::TrainError;

use crate::{
    decode,
    readers::{self, Entry},
};

/// What a folder, a shard or a list holds.
pub struct Pictures {
    /// By name: those that can be decoded.
    pub entries: Vec<Entry>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// Of each entry, of its pixels.
    pub hashes: Vec<[u8; 32]>,
    held: Vec<Option<Arc<RgbImage>>>,
    side: u32,
}

/// Share of the free memory that decoded images may have.
const SHARE: u64 = 4;

impl Pictures {
    /// Bytes that decoded images may have where nothing else is said.
    #[must_use]
    pub fn bound_bytes() -> u64 {
        limits::available_bytes().unwrap_or(4 << 30) / SHARE
    }

    /// Of `path` all images that `is_wanted`, each as a square of `side` pixels, of which those that fit into so many bytes stay decoded.
    /// # Errors
    /// When there is no image that can be read.
    pub fn read(path: &Path, side: u32, bound_bytes: u64, is_wanted: impl Fn(&Entry) -> Result<(), String>) -> Result<Self, TrainError> {
        let wrong = |problem: String, help: &str| TrainError::Value { key: "data.path", problem, help: help.into() };
        if path.to_str().is_some_and(|path| path.contains("://")) {
            return Err(wrong(format!("`{}` is an address, and images are read from files", path.display()), "copy them to a folder"));
        }
        let (mut sink, mut notes) = readers::list(path);
        if sink.entries.is_empty() {
            let why = sink.faults.note("files", sink.entries.len()).into_iter().chain(notes).collect::<Vec<_>>().join("; ");
            let problem = format!("`{}` holds no file that ends in {}, and no list or shard of images", path.display(), endings());
            return Err(wrong(if why.is_empty() { problem } else { format!("{problem}: {why}") }, "give a folder of images"));
        }
        let mut all = Vec::with_capacity(sink.entries.len());
        let count = sink.entries.len();
        for entry in sink.entries {
            match is_wanted(&entry) {
                Ok(()) => all.push(entry),
                Err(problem) => sink.faults.add(&entry.name, &problem),
            }
        }
        let room = (bound_bytes / bytes(side)) as usize;
        let held = AtomicUsize::new(0);
        let look = |entry: &Entry| -> Result<([u8; 32], Option<Arc<RgbImage>>), String> {
            let pixels = fetch(entry, side)?;
            let hash = *blake3::hash(pixels.as_raw()).as_bytes();
            Ok((hash, (held.fetch_add(1, Ordering::Relaxed) < room).then(|| Arc::new(pixels))))
        };
        let looked: Vec<_> = all.par_iter().map(look).collect();
        let mut pictures = Self { entries: Vec::new(), notes: Vec::new(), hashes: Vec::new(), held: Vec::new(), side };
        for (entry, looked) in all.into_iter().zip(looked) {
            match looked {
                Ok((hash, pixels)) => {
                    pictures.entries.push(entry);
                    pictures.hashes.push(hash);
                    pictures.held.push(pixels);
                }
                Err(problem) => sink.faults.add(&entry.name, &problem),
            }
        }
        pictures.notes.extend(sink.faults.note("images", count));
        pictures.notes.append(&mut notes);
        if pictures.entries.is_empty() {
            let problem = format!("`{}` holds no image that can be used: {}", path.display(), pictures.notes.join("; "));
            return Err(wrong(problem, "look at the files"));
        }
        let beyond = pictures.held.iter().filter(|held| held.is_none()).count();
        if beyond > 0 {
            let kept = pictures.entries.len() - beyond;
            pictures
                .notes
                .push(format!("{kept} of {} images stay decoded in memory; the others are decoded each time", pictures.entries.len()));
        }
        Ok(pictures)
    }

    /// The pixels of a picture.
    /// # Errors
    /// When it is no longer where, or what, it was.
    pub fn pixels(&self, picture: usize) -> Result<Arc<RgbImage>, TrainError> {
        if let Some(pixels) = &self.held[picture] {
            return Ok(pixels.clone());
        }
        let entry = &self.entries[picture];
        fetch(entry, self.side).map(Arc::new).map_err(|problem| {
            let problem = format!("`{}`, which could be read when the run began, {problem}", disk::printable_line(&entry.name));
            TrainError::Value { key: "data.path", problem, help: "leave the images where they are while a run learns from them".into() }
        })
    }

    /// Names of classes, sorted.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        let all: std::collections::BTreeSet<&String> = self.entries.iter().map(|entry| &entry.class).collect();
        all.into_iter().cloned().collect()
    }
}

fn endings() -> String {
    readers::IMAGES.join(", ")
}

/// Of a decoded image.
pub(crate) fn bytes(side: u32) -> u64 {
    (3 * u64::from(side).pow(2)).max(1)
}

/// Read and decode.
pub(crate) fn fetch(entry: &Entry, side: u32) -> Result<RgbImage, String> {
    decode::square(&entry.place.read().map_err(|e| format!("cannot be read: {e}"))?, side)
}
