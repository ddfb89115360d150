//! A list of images: JSON lines or a table of separated values, a line an image, with its path as seen from the list, its caption and its
//! class under the keys that are usual (`image`, `file_name`, `path`; `caption`, `text`; `class`, `label`).

use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::Value;

use super::{CAPTION_KEYS, CLASS_KEYS, Entry, IMAGE_KEYS, IMAGES, LARGEST_TEXT, Place, Reader, Sink, Source, ending, first_of, json_text};

pub(super) const READER: Reader = Reader { name: "list", endings: &["jsonl", "ndjson", "csv", "tsv"], read };

/// What the names of its entries begin with until all files are read, so that they are known from the images' own.
pub(super) const MARK: char = '\0';

fn read(source: &Source<'_>, sink: &mut Sink) {
    let name = source.name();
    let file = match disk::open(source.path) {
        Ok(file) => file,
        Err(error) => return sink.faults.add(&name, &format!("cannot be read: {error}")),
    };
    match ending(source.path).as_str() {
        "csv" => table(source, &name, file, b',', sink),
        "tsv" => table(source, &name, file, b'\t', sink),
        _ => lines(source, &name, file, sink),
    }
}

fn lines(source: &Source<'_>, name: &str, file: std::fs::File, sink: &mut Sink) {
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let (mut line, at) = (Vec::new(), format!("{name}:{number}"));
        match std::io::Read::take(&mut reader, LARGEST_TEXT).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.len() as u64 == LARGEST_TEXT => return sink.faults.add(&at, "is too long a line; what follows is not read"),
            Ok(_) => {}
            Err(error) => return sink.faults.add(&at, &format!("cannot be read: {error}")),
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(Value::Object(row)) => entry(source, &at, |key| row.get(key).and_then(json_text), sink),
            Ok(_) => sink.faults.add(&at, "is no JSON object"),
            Err(error) => sink.faults.add(&at, &format!("is no JSON: {error}")),
        }
    }
}

fn table(source: &Source<'_>, name: &str, file: std::fs::File, delimiter: u8, sink: &mut Sink) {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(BufReader::new(file));
    let Ok(head) = reader.headers().cloned() else { return sink.faults.add(name, "has no first line of names") };
    let column = |key: &str| head.iter().position(|title| title.trim().eq_ignore_ascii_case(key));
    if first_of(IMAGE_KEYS, |key| column(key)).is_none() {
        return sink.faults.add(name, &format!("has no column of images (one of {})", IMAGE_KEYS.join(", ")));
    }
    for (row, number) in reader.records().zip(2..) {
        let at = format!("{name}:{number}");
        match row {
            Ok(row) => entry(source, &at, |key| column(key).and_then(|i| row.get(i)).and_then(super::said), sink),
            Err(error) => sink.faults.add(&at, &format!("is no row: {error}")),
        }
    }
}

fn entry(source: &Source<'_>, at: &str, get: impl Fn(&str) -> Option<String>, sink: &mut Sink) {
    let Some(image) = first_of(IMAGE_KEYS, |key| get(key)) else {
        return sink.faults.add(at, &format!("names no image (under one of {})", IMAGE_KEYS.join(", ")));
    };
    if image.contains("://") {
        return sink.faults.add(at, "names an address, and only files are read");
    }
    let path = source.path.parent().unwrap_or(Path::new("")).join(&image);
    if !IMAGES.contains(&ending(&path).as_str()) {
        return sink.faults.add(at, &format!("names `{image}`, which ends in none of {}", IMAGES.join(", ")));
    }
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let class = first_of(CLASS_KEYS, |key| get(key)).or(folder).unwrap_or_default();
    sink.listed.insert(path.clone());
    let caption = first_of(CAPTION_KEYS, |key| get(key));
    sink.entries.push(Entry { name: format!("{MARK}{at} {image}"), class, caption, place: Place::File(path) });
}
