//! Archives: every member of a tar (webdataset's too) or zip is read as the file that it is, or told of.

use std::{
    io::{BufReader, Read},
    path::Path,
};

use super::{Fault, Input, Sink, is_known, unknown_ending, unpack};
use crate::{DataError, tally::Stage};

pub(super) fn tar(input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut archive = tar::Archive::new(input.stream);
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(e) => return sink.fault(&input.name, 0, Fault::of(&e)),
    };
    for entry in entries {
        // What came before the tear is whole and stays.
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(e) => return sink.fault(&input.name, 0, Fault::of(&e)),
        };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = format!("{}/{}", input.name, String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./"));
        let bytes = entry.size();
        member(&name, bytes, &mut entry, input.depth, sink)?;
    }
    Ok(())
}

pub(super) fn zip(input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let Some(path) = input.path else {
        return sink.fault(&input.name, input.bytes, Fault::Unsupported("a zip within another archive".into()));
    };
    let file = match disk::open(path) {
        Ok(file) => file,
        Err(e) => return sink.fault(&input.name, input.bytes, Fault::of(&e)),
    };
    let mut archive = match zip::ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => archive,
        Err(e) => return sink.fault(&input.name, input.bytes, Fault::Torn(e.to_string())),
    };
    for i in 0..archive.len() {
        match archive.by_index(i) {
            Ok(mut entry) if entry.is_file() => {
                let name = format!("{}/{}", input.name, entry.name().unwrap_or_default());
                let bytes = entry.size();
                member(&name, bytes, &mut entry, input.depth, sink)?;
            }
            Ok(_) => {}
            Err(e) => sink.fault(&format!("{}/{i}", input.name), 0, Fault::Torn(e.to_string()))?,
        }
    }
    Ok(())
}

/// A header that claims more is not believed.
const LARGEST_MEMBER_BYTES: u64 = 1 << 40;

fn member(name: &str, claimed_bytes: u64, stream: &mut dyn Read, depth: usize, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let bytes = if claimed_bytes > LARGEST_MEMBER_BYTES { 0 } else { claimed_bytes };
    let file = Path::new(name).file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    if file.starts_with('.') || name.contains("/__MACOSX/") {
        sink.tally.lose(Stage::LeftOut, "hidden", name, bytes, "");
        return Ok(());
    }
    if !is_known(&file) {
        sink.tally.lose(Stage::LeftOut, &unknown_ending(&file), name, bytes, "");
        return Ok(());
    }
    match unpack::unpack(Box::new(BufReader::new(stream))) {
        Ok(stream) => super::read_stream(Input::new(name, None, bytes, stream, depth + 1), sink),
        Err(e) => sink.fault(name, bytes, Fault::of(&e)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::tests::texts;

    #[test]
    fn members_are_read_as_the_files_that_they_are() {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut zipped = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, text) in [("000.txt", "one"), ("000.jpg", "\u{1}"), ("deep/a.jsonl", "{\"text\": \"two\"}\n"), ("._000.txt", "x")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
            zipped.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zipped.write_all(text.as_bytes()).unwrap();
        }
        let tar = builder.into_inner().unwrap().finish().unwrap();
        // A header that claims half of all numbers: what is lost is counted, and its bytes are not known.
        let mut hostile = tar::Header::new_gnu();
        hostile.set_path("huge.dat").unwrap();
        hostile.set_size(u64::MAX / 2);
        hostile.set_cksum();
        let huge = [hostile.as_bytes().as_slice(), &[0; 1024]].concat();
        assert!(texts("a.tar", &huge).0.is_empty());
        let zip = zipped.finish().unwrap().into_inner();
        assert_eq!(texts("a.tar.gz", &tar), (vec!["one".to_owned(), "two".into()], vec![]));
        assert_eq!(texts("a.zip", &zip), (vec!["one".to_owned(), "two".into()], vec![]));
    }
}
