//! A file is one document: text, Markdown, source code; also gzip and zstd of those.

use std::io::Read;

use super::{Fault, Sink, Source};
use crate::DataError;

pub(super) fn read(source: &Source, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let limit = sink.options.max_document_bytes;
    let result = open(source).and_then(|mut file| file.as_mut().take(limit + 1).read_to_end(&mut bytes));
    if let Err(e) = result {
        return sink.fault(&source.name, fault_of(&e));
    }
    if bytes.len() as u64 > limit {
        return sink.fault(&source.name, Fault::LongDocument);
    }
    if bytes.contains(&0) {
        return sink.fault(&source.name, Fault::Binary);
    }
    match String::from_utf8(bytes) {
        Ok(text) => sink.document(source.name.clone(), text),
        Err(_) => sink.fault(&source.name, Fault::InvalidUtf8),
    }
}

/// The file's bytes, unpacked if its name says that they are packed.
pub(super) fn open(source: &Source) -> std::io::Result<Box<dyn Read>> {
    let file = std::io::BufReader::with_capacity(1 << 18, disk::open(&source.path)?);
    Ok(if source.name.ends_with(".gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if source.name.ends_with(".zst") {
        Box::new(zstd::Decoder::new(file)?)
    } else {
        Box::new(file)
    })
}

pub(super) fn fault_of(e: &std::io::Error) -> Fault {
    use std::io::ErrorKind::{Interrupted, InvalidInput, NotFound, PermissionDenied};
    match e.kind() {
        NotFound | PermissionDenied | Interrupted | InvalidInput => Fault::Unreadable(e.to_string()),
        _ => Fault::Torn(e.to_string()),
    }
}
