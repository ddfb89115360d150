//! JSON in every form that records come in: one a line, one list of all, objects one after the other with or without line
//! ends between them. A record is found by its brackets, so that a file of one line costs no more memory than its longest.
//!
//! A record that is torn ends where a line begins the next one: within a text no line ends, and no inner object begins a line.

use std::{
    collections::BTreeSet,
    io::{BufRead, Cursor, Read},
};

use super::{
    Fault, Input, Sink, encoding,
    record::{self, Lookup, Node},
    text,
};
use crate::DataError;

/// Lines of JSON, or any other form.
pub(super) fn read(input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let limit = sink.options.max_line_bytes;
    let mut records = Records::new(input.stream);
    let mut buffer = Vec::new();
    let mut before = (0, 0);
    loop {
        let found = match records.next(&mut buffer, limit) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            // What came before the tear is whole and stays.
            Err(e) => return sink.fault(&input.name, 0, Fault::of(&e)),
        };
        // Several on one line are told apart.
        before = if before.0 == found.place { (found.place, before.1 + 1) } else { (found.place, 1) };
        let name =
            if before.1 == 1 { format!("{}:{}", input.name, found.place) } else { format!("{}:{}#{}", input.name, before.0, before.1) };
        match found.fault {
            Some(fault) => sink.fault(&name, buffer.len() as u64, fault)?,
            None => one(&name, &buffer, sink)?,
        }
    }
}

/// A `.json`: records as above, or else one document as it stands, as the settings among source code are.
pub(super) fn read_file(mut input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let limit = sink.options.max_document_bytes.min(sink.options.max_line_bytes);
    let mut head = Vec::new();
    if let Err(e) = input.stream.as_mut().take(limit + 1).read_to_end(&mut head) {
        return sink.fault(&input.name, head.len() as u64, Fault::of(&e));
    }
    if head.len() as u64 <= limit && is_settings(&head, &sink.options.text_column) {
        return text::read(Input { stream: Box::new(Cursor::new(head)), ..input }, sink);
    }
    read(Input { stream: Box::new(Cursor::new(head).chain(input.stream)), ..input }, sink)
}

/// One object alone without the column, or a list of neither objects nor texts.
fn is_settings(bytes: &[u8], column: &str) -> bool {
    let mut records = Records::new(Box::new(bytes));
    let mut first = Vec::new();
    let Ok(Some(found)) = records.next(&mut first, u64::MAX) else { return true };
    if records.is_list || found.fault.is_some() {
        return found.fault.is_some() && records.is_list;
    }
    let is_alone = records.next(&mut Vec::new(), u64::MAX).is_ok_and(|next| next.is_none());
    is_alone && first.starts_with(b"{") && record::json(&first, &|_| true).map_or(true, |node| node.lookup(column) == Lookup::Missing)
}

fn one(name: &str, bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), DataError> {
    let (text, how) = encoding::decode(bytes);
    let column = sink.options.text_column.clone();
    let first = column.split('.').next().unwrap_or_default().to_owned();
    let wanted = |key: &str| key == first || key.starts_with(&first) && column.starts_with(key);
    match record::json(text.as_bytes(), &wanted) {
        Err(why) => sink.fault(name, bytes.len() as u64, Fault::NotJson { why }),
        Ok(node) => {
            if let Some(how) = how {
                sink.guessed(name, bytes.len() as u64, &how)?;
            }
            let all = || record::json(text.as_bytes(), &|_| true).unwrap_or(Node::Null);
            row(name, &node, bytes.len() as u64, &all, sink)
        }
    }
}

/// Hand on the text of a record; `all` gives it with every column, for when the one that was asked for is missing.
pub(super) fn row(name: &str, node: &Node, bytes: u64, all: &dyn Fn() -> Node, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let column = sink.options.text_column.clone();
    match node.lookup(&column) {
        Lookup::Text(text) => sink.document(name.to_owned(), text),
        Lookup::Empty => sink.fault(name, bytes, Fault::Empty),
        Lookup::NotText => sink.fault(name, bytes, Fault::NotText { column }),
        Lookup::Missing => {
            let mut found = Vec::new();
            all().columns("", &mut found);
            let found: BTreeSet<String> = found.into_iter().collect();
            sink.no_column(name, bytes, &found)
        }
    }
}

/// A stream cut into the bytes of its values.
struct Records<'a> {
    stream: Box<dyn BufRead + 'a>,
    line: u64,
    /// Values so far.
    count: u64,
    /// The first value was a list that is gone into.
    is_list: bool,
    /// The beginning of a record that was read while another was thought to go on.
    begun: bool,
}

struct Found {
    /// Its line; in a list, its number.
    place: u64,
    fault: Option<Fault>,
}

impl<'a> Records<'a> {
    fn new(stream: Box<dyn BufRead + 'a>) -> Self {
        Self { stream, line: 1, count: 0, is_list: false, begun: false }
    }

    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            match self.stream.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next value, in `out`; beyond `limit` bytes only its end is looked for.
    fn next(&mut self, out: &mut Vec<u8>, limit: u64) -> std::io::Result<Option<Found>> {
        out.clear();
        if !self.begun {
            loop {
                match self.peek()? {
                    None => return Ok(None),
                    Some(b'[') if self.count == 0 && !self.is_list => self.is_list = true,
                    Some(b'\n') => self.line += 1,
                    Some(b) if b.is_ascii_whitespace() || matches!(b, b',' | b']' | b'}' | 0x1e) => {}
                    Some(_) => break,
                }
                self.stream.consume(1);
            }
        }
        self.count += 1;
        let place = if self.is_list { self.count } else { self.line };
        let fault = self.value(out, limit)?;
        Ok(Some(Found { place, fault }))
    }

    fn value(&mut self, out: &mut Vec<u8>, limit: u64) -> std::io::Result<Option<Fault>> {
        let (mut depth, mut in_string, mut is_long) = (0_usize, false, false);
        if std::mem::take(&mut self.begun) {
            // `{` alone: what follows it was only looked at.
            out.push(b'{');
            depth = 1;
        } else if !matches!(self.peek()?, Some(b'{' | b'[' | b'"')) {
            return self.junk(out, limit);
        }
        let torn = |why: &str| Some(Fault::NotJson { why: why.into() });
        let mut line_begins = false;
        loop {
            let Some(b) = self.peek()? else { return Ok(torn("it ends within a value")) };
            if in_string {
                let bytes = self.stream.fill_buf()?;
                let len = memchr::memchr3(b'"', b'\\', b'\n', bytes).unwrap_or(bytes.len());
                is_long |= !keep(out, &bytes[..len], limit);
                let at = bytes.get(len).copied();
                self.stream.consume(len);
                match at {
                    Some(b'"') => in_string = false,
                    Some(b'\n') => return Ok(torn("a line ends within a string")),
                    Some(_) => {
                        self.stream.consume(1);
                        is_long |= !keep(out, b"\\", limit);
                        match self.peek()? {
                            None | Some(b'\n') => continue,
                            Some(b) => is_long |= !keep(out, &[b], limit),
                        }
                    }
                    None => continue,
                }
                if at == Some(b'"') {
                    is_long |= !keep(out, b"\"", limit);
                }
                self.stream.consume(1);
                if !in_string && depth == 0 {
                    break;
                }
                continue;
            }
            self.stream.consume(1);
            if line_begins && b == b'{' && self.peek()? == Some(b'"') {
                self.begun = true;
                return Ok(torn("the next record begins before it ends"));
            }
            line_begins = b == b'\n';
            is_long |= !keep(out, &[b], limit);
            match b {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'\n' => self.line += 1,
                _ => {}
            }
            if depth == 0 && !in_string {
                break;
            }
        }
        Ok(is_long.then_some(Fault::LongLine))
    }

    /// What is no value, to the end of its line.
    fn junk(&mut self, out: &mut Vec<u8>, limit: u64) -> std::io::Result<Option<Fault>> {
        loop {
            let bytes = self.stream.fill_buf()?;
            let len = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
            keep(out, &bytes[..len], limit);
            let (is_end, is_line) = (bytes.is_empty(), len < bytes.len());
            self.stream.consume(len);
            if is_end || is_line {
                let seen: String = String::from_utf8_lossy(out).chars().take(16).collect();
                return Ok(Some(Fault::NotJson { why: format!("it begins with `{}`", seen.escape_debug()) }));
            }
        }
    }
}

/// Whether there was room.
fn keep(out: &mut Vec<u8>, bytes: &[u8], limit: u64) -> bool {
    let has_room = (out.len() + bytes.len()) as u64 <= limit;
    if has_room {
        out.extend_from_slice(bytes);
    }
    has_room
}

#[cfg(test)]
mod tests {
    use super::super::tests::texts;

    #[test]
    fn every_form_of_records_gives_the_same_texts() {
        for (name, file) in [
            ("a.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"two\"}\n".to_owned()),
            ("a.NDJSON", "{\"text\": \"one\"}\r\n{\"text\": \"two\"}".into()),
            ("a.json", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n".into()),
            ("a.json", "[{\"text\": \"one\"}, {\"text\": \"two\"}]".into()),
            ("a.json", "[\n{\"text\": \"one\"},\n{\"text\": \"two\"}\n]\n".into()),
            ("a.json", "[\n  {\n    \"text\": \"one\",\n    \"n\": [1]\n  },\n  {\n    \"text\": \"two\"\n  }\n]".into()),
            ("a.json", "{\n \"text\": \"one\"\n}\n{\n \"text\": \"two\"\n}".into()),
            ("a.jsonl", "{\"text\": \"one\"}{\"text\": \"two\"}".into()),
            ("a.jsonl", "[\"one\", \"two\"]".into()),
            ("a.json", "\u{feff}[{\"text\": \"one\"}, {\"text\": \"two\"}]".into()),
        ] {
            assert_eq!(texts(name, file.as_bytes()), (vec!["one".to_owned(), "two".into()], vec![]), "{name} {file}");
        }
        assert_eq!(texts("a.json", b"{\"text\": \"one\"}").0, ["one"]);
    }

    #[test]
    fn a_torn_or_foreign_line_costs_itself_alone() {
        let lines = b"{\"text\": \"one\"}\n{\"text\": \"torn\nnot json\n{\"a\": [1, {\n{\"text\": \"two\"}\n{\"text\": \"three\"}\n{\"text\": \"end";
        let (found, lost) = texts("a.jsonl", lines);
        assert_eq!((found, lost), (vec!["one".to_owned(), "two".into(), "three".into()], vec![("not_json".to_owned(), 4)]));
    }

    #[test]
    fn settings_stay_documents_and_other_columns_are_named() {
        let settings = "{\n  \"name\": \"a\", // a comment\n  \"version\": 1\n}\n";
        assert_eq!(texts("package.json", settings.as_bytes()), (vec![settings.to_owned()], vec![]));
        assert_eq!(texts("a.jsonl", b"{\"content\": \"one\"}"), (vec![], vec![("no_column".to_owned(), 1)]));
        assert_eq!(
            texts("a.json", b"[{\"content\": \"one\"}, {\"text\": null}]"),
            (vec![], vec![("empty".to_owned(), 1), ("no_column".to_owned(), 1)])
        );
    }
}
