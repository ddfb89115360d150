//! A file is one document: text, Markdown, source code. One that is larger than a document may be becomes several, cut at
//! paragraphs; one in which [`END`] stands between documents is cut there.

use std::io::Read;

use super::{Fault, Input, Sink, encoding, pieces};
use crate::{DataError, Format};

/// What corpora in one file put between documents.
const END: &[u8] = b"<|endoftext|>";

const CHUNK_BYTES: u64 = 1 << 18;

pub(super) fn read(mut input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let limit = sink.options.max_document_bytes.max(1);
    // Elsewhere the words speak of such tokens.
    let may_end = input.ending == "txt" || input.ending.is_empty() || sink.options.format == Format::Text;
    let mut parts = Parts { name: &input.name, count: 0 };
    let (mut buffer, mut is_ended) = (Vec::new(), false);
    let mut searched = 0;
    loop {
        let mut start = 0;
        if may_end {
            while let Some(at) = memchr::memmem::find(&buffer[start.max(searched)..], END) {
                let at = start.max(searched) + at;
                if parts.count == 0 {
                    sink.mended(parts.name, input.bytes, "cut into documents at <|endoftext|>");
                }
                parts.push(&buffer[start..at], false, sink)?;
                start = at + END.len();
            }
        }
        if is_ended {
            let is_whole = parts.count == 0;
            return parts.push(&buffer[start..], is_whole, sink);
        }
        if (buffer.len() - start) as u64 > limit {
            if parts.count == 0 {
                sink.mended(parts.name, input.bytes, "longer than max_document_bytes: cut at paragraphs");
            }
            let most = pieces::most(limit);
            while buffer.len() - start > most {
                let end = start + pieces::cut(&buffer[start..], most);
                parts.push(&buffer[start..end], false, sink)?;
                start = end;
            }
        }
        buffer.drain(..start);
        searched = buffer.len().saturating_sub(END.len());
        match input.stream.as_mut().take(CHUNK_BYTES).read_to_end(&mut buffer) {
            Ok(0) => is_ended = true,
            Ok(_) => {}
            // What came before a tear is lost only if it is the document that is torn.
            Err(e) => return sink.fault(&input.name, buffer.len() as u64, Fault::of(&e)),
        }
    }
}

struct Parts<'a> {
    name: &'a str,
    count: u64,
}

impl Parts<'_> {
    fn push(&mut self, bytes: &[u8], is_whole: bool, sink: &mut Sink<'_>) -> Result<(), DataError> {
        if !is_whole && bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        self.count += 1;
        let name = if is_whole { self.name.to_owned() } else { format!("{}#{}", self.name, self.count) };
        if encoding::is_binary(bytes) {
            return sink.fault(&name, bytes.len() as u64, Fault::Binary);
        }
        let bytes = if is_whole { bytes } else { bytes.trim_ascii_start() };
        let (text, how) = encoding::decode(bytes);
        if let Some(how) = how {
            sink.guessed(&name, bytes.len() as u64, &how)?;
        }
        sink.document(name, text.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        CorpusOptions,
        tests::{texts, texts_with},
    };

    #[test]
    fn one_file_of_many_documents_is_cut_where_they_end() {
        let story = |n: usize| format!("Story {n} begins.\n\nAnd ends.\n");
        let file = (0..3).map(story).collect::<Vec<_>>().join("<|endoftext|>\n");
        let (found, _) = texts("stories.txt", file.as_bytes());
        assert_eq!(found, [story(0), story(1), story(2)]);
        let code = "let end = \"<|endoftext|>\"; // of a document\n";
        assert_eq!(texts("a.rs", code.as_bytes()).0, [code]);
    }

    #[test]
    fn a_file_beyond_the_limit_is_cut_at_paragraphs_and_loses_nothing() {
        let options = CorpusOptions { max_document_bytes: 1000, ..CorpusOptions::default() };
        let file: String =
            (0..200).map(|n| format!("Paragraph {n} of a long text.\nIt goes on.{}", if n % 3 == 0 { "\n\n" } else { "\n" })).collect();
        let (found, lost) = texts_with("long.txt", file.as_bytes(), &options);
        assert!(lost.is_empty() && found.len() >= file.len() / 1000);
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(squeezed(&found.concat()), squeezed(&file));
        assert!(found.iter().all(|t| t.len() <= 1000 && t.starts_with("Paragraph")), "{found:?}");
        let (found, _) = texts_with("one-line.txt", "漢".repeat(2000).as_bytes(), &options);
        assert_eq!(found.concat(), "漢".repeat(2000), "no border but that of a character");
    }
}
