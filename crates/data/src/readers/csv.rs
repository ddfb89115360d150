//! Tables of separated values (RFC 4180 and what spreadsheets make of it), one row a document, columns named by the first row.
//! Commas, semicolons or tabs: whichever the first row has most of.

use std::{
    cell::Cell,
    io::{BufRead, Error, Read, Result},
    rc::Rc,
};

use super::{Fault, Input, Sink, encoding, json, record::Node, unpack::peek};
use crate::DataError;

pub(super) fn read(input: Input<'_>, sink: &mut Sink<'_>) -> std::result::Result<(), DataError> {
    let (head, stream) = match peek(input.stream) {
        Ok(peeked) => peeked,
        Err(e) => return sink.fault(&input.name, 0, Fault::of(&e)),
    };
    let first = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let delimiter = [b'\t', b';', b','].into_iter().max_by_key(|d| first.iter().filter(|b| *b == d).count()).unwrap_or(b',');
    let left = Rc::new(Cell::new(sink.options.max_line_bytes));
    let guarded = Guarded { stream, left: left.clone() };
    let mut rows = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(guarded);
    let names: Vec<String> = match rows.byte_headers() {
        Ok(names) => names.iter().map(|name| encoding::decode(name).0.trim().to_owned()).collect(),
        Err(e) => return sink.fault(&input.name, 0, fault(&e)),
    };
    let mut row = csv::ByteRecord::new();
    for number in 1_u64.. {
        left.set(sink.options.max_line_bytes);
        let name = format!("{}:{number}", input.name);
        match rows.read_byte_record(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            // Where the next row begins cannot be told.
            Err(e) => return sink.fault(&name, 0, fault(&e)),
        }
        let bytes = row.iter().map(|cell| cell.len() as u64).sum();
        let cell = |cell: &[u8]| Node::Text(encoding::decode(cell).0.into_owned());
        let node = || Node::Object(names.iter().cloned().zip(row.iter().map(cell)).collect());
        json::row(&name, &node(), bytes, &node, sink)?;
    }
    Ok(())
}

fn fault(e: &csv::Error) -> Fault {
    match e.kind() {
        csv::ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::FileTooLarge => Fault::LongLine,
        csv::ErrorKind::Io(e) => Fault::of(e),
        _ => Fault::Torn(e.to_string()),
    }
}

/// A quote that is never closed makes a row of all the rest: not beyond a limit.
struct Guarded<'a> {
    stream: Box<dyn BufRead + 'a>,
    left: Rc<Cell<u64>>,
}

impl Read for Guarded<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.left.get() == 0 {
            return Err(Error::from(std::io::ErrorKind::FileTooLarge));
        }
        let count = self.stream.read(out)?;
        self.left.set(self.left.get().saturating_sub(count as u64));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        CorpusOptions,
        tests::{texts, texts_with},
    };

    #[test]
    fn rows_are_documents_whatever_separates_them() {
        let want = (vec!["one, \"quoted\"\nand two lines".to_owned(), "two".into()], vec![]);
        assert_eq!(texts("a.csv", b"id,text\n1,\"one, \"\"quoted\"\"\nand two lines\"\n2,two\n"), want);
        assert_eq!(texts("a.csv", b"\xef\xbb\xbftext;id\r\n\"one, \"\"quoted\"\"\nand two lines\";1\r\ntwo;2\r\n"), want);
        assert_eq!(texts("a.tsv", b"id\ttext\n1\tone\n2\ttwo\textra\n").0, ["one", "two"]);
        assert_eq!(texts("a.csv", b"id,body\n1,one\n"), (vec![], vec![("no_column".to_owned(), 1)]));
        let options = CorpusOptions { max_line_bytes: 20_000, ..CorpusOptions::default() };
        let open = [b"id,text\n1,one\n2,\"".as_slice(), &b"never closed ".repeat(10_000)].concat();
        assert_eq!(texts_with("a.csv", &open, &options), (vec!["one".into()], vec![("long_line".to_owned(), 1)]));
    }
}
