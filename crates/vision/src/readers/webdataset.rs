//! A tar shard in the layout of webdataset: files of one name up to its first dot are one sample (`000.jpg`, `000.txt`, `000.json`,
//! `000.cls`), one after the other. Images stay where they are in the shard.

use std::{
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use serde_json::Value;

use super::{CAPTION_KEYS, CLASS_KEYS, Entry, IMAGES, Place, Reader, Sink, Source, first_of, json_text, short_text};

pub(super) const READER: Reader = Reader { name: "webdataset", endings: &["tar"], read };

/// What stands under one name.
#[derive(Default)]
struct Sample {
    key: String,
    images: Vec<(String, u64, u64)>,
    caption: Option<String>,
    class: Option<String>,
}

fn read(source: &Source<'_>, sink: &mut Sink) {
    let name = source.name();
    let file = match disk::open(source.path).and_then(|file| Ok((file.try_clone()?, Arc::new(file)))) {
        Ok(file) => file,
        Err(error) => return sink.faults.add(&name, &format!("cannot be read: {error}")),
    };
    let (mut seen, shared) = file;
    let length = seen.metadata().map_or(u64::MAX, |about| about.len());
    if seen.seek(SeekFrom::Start(0)).is_err() {
        return sink.faults.add(&name, "cannot be read from its beginning");
    }
    let mut archive = tar::Archive::new(seen);
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return sink.faults.add(&name, &format!("is no tar: {error}")),
    };
    let mut sample = Sample::default();
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                sink.faults.add(&name, &format!("is torn: {error}"));
                break;
            }
        };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map(|path| path.display().to_string()).unwrap_or_default();
        let base = path.rfind('/').map_or(0, |at| at + 1);
        let Some(dot) = path[base..].find('.').map(|at| base + at) else { continue };
        let (key, ending) = (&path[..dot], path[dot + 1..].rsplit('.').next().unwrap_or_default().to_lowercase());
        if key != sample.key {
            finish(source, &shared, std::mem::replace(&mut sample, Sample { key: key.to_owned(), ..Sample::default() }), sink);
        }
        match ending.as_str() {
            image if IMAGES.contains(&image) => {
                let (first, bytes) = (entry.raw_file_position(), entry.size());
                if first.saturating_add(bytes) > length {
                    sink.faults.add(&format!("{name}/{path}"), "is torn off with its shard");
                } else {
                    sample.images.push((path[dot..].to_owned(), first, bytes));
                }
            }
            "txt" | "caption" => sample.caption = short_text(&mut entry),
            "cls" | "class" => sample.class = short_text(&mut entry),
            "json" => {
                let mut text = Vec::new();
                let _ = entry.take(super::LARGEST_TEXT).read_to_end(&mut text);
                match serde_json::from_slice::<Value>(&text) {
                    Ok(about) => {
                        let get = |key: &&'static str| about.get(*key).and_then(json_text);
                        sample.caption = sample.caption.or_else(|| first_of(CAPTION_KEYS, get));
                        sample.class = sample.class.or_else(|| first_of(CLASS_KEYS, get));
                    }
                    Err(error) => sink.faults.add(&format!("{name}/{path}"), &format!("is no JSON: {error}")),
                }
            }
            _ => {}
        }
    }
    finish(source, &shared, sample, sink);
}

fn finish(source: &Source<'_>, file: &Arc<std::fs::File>, sample: Sample, sink: &mut Sink) {
    for (ending, first, bytes) in sample.images {
        sink.entries.push(Entry {
            name: format!("{}/{}{ending}", source.name(), sample.key),
            class: sample.class.clone().unwrap_or_else(|| source.folder()),
            caption: sample.caption.clone(),
            place: Place::Part { file: file.clone(), first, bytes },
        });
    }
}
