//! Images cleaned, told apart and cut into shards: from a folder as people have it to one that is learnt from.
//!
//! ```text
//! readers -> size, aspect, captions -> near duplicates -> held out by name -> shards of 1, 5, 50 and 100% -> images.json, contact.png
//! ```
//! Start at [`prepare`]. What comes out depends on the files, the options and the seed: not on paths above the folder, threads or the order
//! in which files are found. Bytes of images are copied as they are. **Absent on purpose:** judging what an image shows.

mod near;
mod rules;
mod shards;
mod stats;

use std::path::Path;

use engine::{key, mix};
use image::RgbImage;
use rayon::prelude::*;
use train::{TrainError, feed::is_held_out, hf::write_folder};

pub use crate::prepared::{
    CONTACT, CaptionOptions, LeftOut, MANIFEST, Manifest, PERCENTS, PrepareOptions, Quartiles, Sample, Shard, manifest, shards_of,
};
pub(crate) use crate::prepared::{HELD_OUT, TRAIN};
use crate::{
    decode,
    readers::{self, Entry},
    sheet,
};

/// That options can be.
fn check(options: &PrepareOptions) -> Result<(), TrainError> {
    let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
    if options.most_aspect.is_nan() || options.most_aspect < 1.0 {
        return wrong("images.most_aspect", format!("{} is below 1, which a square has", options.most_aspect), "use 1 or more");
    }
    if options.near_bits > near::MOST_BITS {
        return wrong("images.near_bits", format!("{} is more than {}", options.near_bits, near::MOST_BITS), "use 12, or less");
    }
    if !(options.held_out > 0.0 && options.held_out < 1.0) {
        return wrong("images.held_out", format!("{} is not between 0 and 1", options.held_out), "use 0.1");
    }
    if !(0.0..=1.0).contains(&options.captions.least_letters) {
        return wrong("images.captions.least_letters", format!("{} is no share", options.captions.least_letters), "use 0.5");
    }
    if options.shard_bytes == 0 {
        return wrong("images.shard_bytes", "a shard of no bytes holds no image".into(), "use 268435456");
    }
    Ok(())
}

/// Of what is done here: what an earlier one prepared is prepared anew.
const VERSION: u32 = 2;
/// Images of the contact sheet, and its side.
const SHOWN: usize = 48;
const COLUMNS: usize = 12;
const SHOWN_SIDE: u32 = 64;

/// An image that stays.
struct Kept {
    entry: Entry,
    bytes: u64,
    seen: near::Seen,
}

/// Prepare the images of `from` into the folder `to`; where they are there already, say so.
/// # Errors
/// When there are none, or the folder cannot be written.
pub fn prepare(from: &Path, options: &PrepareOptions, to: &Path, progress: &(dyn Fn(&str) + Sync)) -> Result<Manifest, TrainError> {
    check(options)?;
    progress("listing");
    let (sink, notes) = readers::list(from);
    let found = sink.entries.len();
    let all = sink.entries;
    if all.is_empty() {
        let problem = format!("`{}` holds no image that is read", from.display());
        return Err(TrainError::Value { key: "data.corpus.paths", problem, help: "give a folder, shard or list of images".into() });
    }
    progress("reading");
    let made_of = made_of(&all, options);
    if let Some(before) = manifest(to).filter(|before| before.made_of == made_of) {
        return Ok(Manifest { is_reused: true, ..before });
    }
    let mut stats = stats::Stats::new(all.len(), notes, sink.faults.note("files", found));
    progress("decoding");
    let looked: Vec<_> = all.into_par_iter().map(|entry| look(entry, options)).collect();
    let mut kept = Vec::new();
    for looked in looked {
        let mut looked = looked;
        looked.broken.drain(..).for_each(|(rule, name, problem)| stats.add(rule, &name, &problem));
        kept.extend(looked.kept);
    }
    progress("comparing");
    if options.is_deduplicated {
        kept = apart(kept, options, &mut stats);
    }
    // By a draw of their names: whatever is first of it is a sample of all.
    kept.sort_by_cached_key(|kept| (mix(key(mix(options.seed), &kept.entry.name)), kept.entry.name.clone()));
    let (held_out, train): (Vec<Kept>, Vec<Kept>) =
        kept.into_iter().partition(|kept| is_held_out(options.seed, &kept.entry.name, options.held_out));
    if train.is_empty() || held_out.is_empty() {
        let problem = format!("{} images to learn from and {} held out are left: {}", train.len(), held_out.len(), stats.in_words());
        return Err(TrainError::Value {
            key: "data.corpus.paths",
            problem,
            help: "give more images, or looser rules under `[images]`".into(),
        });
    }
    progress("writing");
    make_room(to)?;
    let mut written = None;
    write_folder(to, |folder| {
        let (shards, samples) = shards::write(folder, &train, &held_out, options.shard_bytes)?;
        let manifest = stats.finish(made_of, options, [&train, &held_out], shards, samples);
        sheet::save(&folder.join(CONTACT), &contact(&train)?)?;
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        let path = folder.join(MANIFEST);
        std::fs::write(&path, text).map_err(|source| TrainError::Io { action: "write", path, source })?;
        written = Some(manifest);
        Ok(())
    })?;
    written.ok_or_else(|| TrainError::Value { key: "images", problem: "nothing was written".into(), help: "report it".into() })
}

/// Take away what was prepared before, and nothing else.
fn make_room(to: &Path) -> Result<(), TrainError> {
    let io = |source| TrainError::Io { action: "remove", path: to.to_owned(), source };
    if to.symlink_metadata().is_err() {
        return Ok(());
    }
    if manifest(to).is_none() && std::fs::read_dir(to).map_err(io)?.next().is_some() {
        let problem = format!("`{}` holds something else than prepared images", to.display());
        return Err(TrainError::Value { key: "data", problem, help: "move it away".into() });
    }
    std::fs::remove_dir_all(to).map_err(io)
}

/// A hash of the options and of all files and what is said of them.
fn made_of(all: &[Entry], options: &PrepareOptions) -> String {
    let of = |entry: &Entry| {
        let mut hasher = blake3::Hasher::new();
        for text in [&entry.name, &entry.class, entry.caption.as_ref().unwrap_or(&String::new())] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&entry.place.read().unwrap_or_default());
        *hasher.finalize().as_bytes()
    };
    let each: Vec<[u8; 32]> = all.par_iter().map(of).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(&serde_json::to_vec(options).unwrap_or_default());
    each.iter().for_each(|hash| {
        hasher.update(hash);
    });
    hasher.finalize().to_hex().to_string()
}

/// What became of one image.
#[derive(Default)]
struct Looked {
    kept: Option<Kept>,
    /// Rules that it or its caption broke.
    broken: Vec<(&'static str, String, String)>,
}

fn look(mut entry: Entry, options: &PrepareOptions) -> Looked {
    let mut looked = Looked::default();
    let name = entry.name.clone();
    let mut broke = |rule, problem: String| looked.broken.push((rule, name.clone(), problem));
    let bytes = match entry.place.read() {
        Ok(bytes) => bytes,
        Err(error) => {
            broke("unreadable", error.to_string());
            return looked;
        }
    };
    let image = match decode::whole(&bytes) {
        Ok(image) => image,
        Err(problem) => {
            broke("undecodable", problem);
            return looked;
        }
    };
    if let Err((rule, problem)) = rules::of_size(&image, options) {
        broke(rule, problem);
        return looked;
    }
    match rules::of_caption(entry.caption.as_deref(), &options.captions) {
        Ok(()) => {}
        Err((rule, problem)) => {
            // Of images that need none, only a caption that is there can break a rule.
            if options.captions.are_required || entry.caption.is_some() {
                broke(rule, problem);
            }
            if options.captions.are_required {
                return looked;
            }
            entry.caption = None;
        }
    }
    looked.kept = Some(Kept { entry, bytes: bytes.len() as u64, seen: near::Seen::of(&image) });
    looked
}

/// Without those that are near another, which is larger or has the earlier name.
fn apart(mut all: Vec<Kept>, options: &PrepareOptions, stats: &mut stats::Stats) -> Vec<Kept> {
    all.sort_by(|a, b| b.seen.pixels().cmp(&a.seen.pixels()).then_with(|| a.entry.name.cmp(&b.entry.name)));
    let near = near::find(&all.iter().map(|kept| &kept.seen).collect::<Vec<_>>(), options.near_bits);
    for (at, like) in near.iter().enumerate() {
        if let Some(like) = like {
            stats.add("near_duplicate", &all[at].entry.name, &format!("is like `{}`", disk::printable_line(&all[*like].entry.name)));
        }
    }
    all.into_iter().zip(near).filter(|(_, like)| like.is_none()).map(|(kept, _)| kept).collect()
}

/// Some of the images that are learnt from, on one sheet.
fn contact(train: &[Kept]) -> Result<RgbImage, TrainError> {
    let picture = |kept: &Kept| {
        let bytes =
            kept.entry.place.read().map_err(|source| TrainError::Io { action: "read", path: kept.entry.name.clone().into(), source })?;
        decode::square(&bytes, SHOWN_SIDE).map_err(|problem| TrainError::Value {
            key: "data.corpus.paths",
            problem: format!("`{}` {problem}, and could be read before", disk::printable_line(&kept.entry.name)),
            help: "leave the images where they are meanwhile".into(),
        })
    };
    let pictures = train.iter().take(SHOWN).map(picture).collect::<Result<Vec<_>, _>>()?;
    Ok(sheet::sheet(&pictures, COLUMNS))
}

#[cfg(test)]
mod tests;
