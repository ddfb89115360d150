//! One JSON object a line, the text in one column; plain, gzip or zstd. Lines are read one at a time and never kept
//! beyond the limit, so that a file without line ends costs no more memory than the limit.

use std::io::{BufRead, BufReader, Read};

use super::{Fault, Sink, Source, text};
use crate::DataError;

pub(super) fn read(source: &Source, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut file = match text::open(source) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(e) => return sink.fault(&source.name, text::fault_of(&e)),
    };
    let limit = sink.options.max_line_bytes;
    let mut bytes = Vec::new();
    for line in 1_u64.. {
        bytes.clear();
        match file.by_ref().take(limit + 1).read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            // What came before the tear is whole and stays.
            Err(e) => return sink.fault(&source.name, text::fault_of(&e)),
        }
        if bytes.len() as u64 > limit {
            sink.fault(&source.name, Fault::LongLine { line })?;
            if let Err(e) = file.skip_until(b'\n') {
                return sink.fault(&source.name, text::fault_of(&e));
            }
            continue;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        one_line(source, sink, line, &bytes)?;
    }
    Ok(())
}

fn one_line(source: &Source, sink: &mut Sink<'_>, line: u64, bytes: &[u8]) -> Result<(), DataError> {
    let name = format!("{}:{line}", source.name);
    if std::str::from_utf8(bytes).is_err() {
        return sink.fault(&name, Fault::InvalidUtf8);
    }
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Err(_) => sink.fault(&name, Fault::NotJson { line }),
        Ok(value) => match value.get(&sink.options.text_column).and_then(|text| text.as_str()) {
            Some(text) => sink.document(name, text.to_owned()),
            None => sink.fault(&name, Fault::NoColumn { column: sink.options.text_column.clone() }),
        },
    }
}
