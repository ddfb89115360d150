//! What all readers promise.

use std::io::Write;

use super::*;

/// Texts that are read from a file of that name, and the faults by kind.
pub(super) fn texts_with(name: &str, bytes: &[u8], options: &CorpusOptions) -> (Vec<String>, Vec<(String, u64)>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let source = Source { name: name.into(), path: file.path().to_owned(), bytes: bytes.len() as u64 };
    let (documents, tally) = read_all(&source, options).unwrap();
    let faults = tally.faults.into_iter().map(|(kind, loss)| (kind, loss.count)).collect();
    (documents.into_iter().map(|d| d.text).collect(), faults)
}

pub(super) fn texts(name: &str, bytes: &[u8]) -> (Vec<String>, Vec<(String, u64)>) {
    texts_with(name, bytes, &CorpusOptions::default())
}

#[test]
fn what_is_not_read_is_named_by_what_it_is() {
    for (name, bytes) in [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".as_slice()),
        ("a.txt", b"%PDF-1.7 \x00"),
        ("data.arrow", b"ARROW1\0\0"),
        ("a.warc.gz", b"WARC/1.0\r\nWARC-Type: warcinfo\r\n"),
    ] {
        assert_eq!(texts(name, bytes), (vec![], vec![("unsupported".to_owned(), 1)]), "{name}");
    }
    assert_eq!(texts("a.txt", b"text\0text").1, [("binary".to_owned(), 1)]);
    assert_eq!(texts("a.txt", b" \n").1, [("empty".to_owned(), 1)]);
    assert_eq!(texts("a.txt", b"\xef\xbb\xbfmarked\r\n").0, ["marked\r\n"]);
}

#[test]
fn a_file_that_is_gone_or_no_file_is_counted_as_unreadable() {
    for path in ["/no/such/file", "/dev/zero"] {
        for ending in ["txt", "md.gz", "jsonl", "jsonl.zst", "csv", "tar"] {
            let source = Source { name: format!("gone.{ending}"), path: path.into(), bytes: 0 };
            let (documents, tally) = read_all(&source, &CorpusOptions::default()).unwrap();
            assert_eq!((documents.len(), tally.count(Stage::BadInput, "unreadable")), (0, 1), "{ending}");
            let refuse = CorpusOptions { on_bad: OnBad::Refuse, ..CorpusOptions::default() };
            assert!(matches!(read_all(&source, &refuse), Err(DataError::Refused { name, .. }) if name == source.name));
        }
    }
}

mod fuzz {
    use super::*;

    const ENDINGS: &[&str] = &["txt", "jsonl", "json", "csv", "tsv", "parquet", "tar", "zip"];

    /// Every reader, given `bytes` as a file of each ending that it knows.
    fn survives(bytes: &[u8], endings: &[&str]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let options = CorpusOptions { max_line_bytes: 64, max_document_bytes: 256, ..CorpusOptions::default() };
        for ending in endings {
            let source = Source { name: format!("fuzz.{ending}"), path: file.path().to_owned(), bytes: bytes.len() as u64 };
            // A build without parquet says so; nothing else is an error where faults are skipped.
            if let Ok((documents, _)) = read_all(&source, &options) {
                // A text that is decoded may grow, at most to three bytes for one.
                assert!(documents.iter().all(|d| d.text.len() <= 768), "{ending}");
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| survives(bytes, ENDINGS));
    }

    /// Whole files with some bytes changed come further into a reader than noise does.
    #[test]
    fn no_change_to_a_whole_file_makes_a_reader_panic() {
        let line = b"{\"text\": \"some words\"}\n".repeat(8);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(&line).unwrap();
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&line).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(line.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, "a.jsonl", line.as_slice()).unwrap();
        let mut zipped = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zipped.start_file("a.jsonl", zip::write::SimpleFileOptions::default()).unwrap();
        zipped.write_all(&line).unwrap();
        #[allow(unused_mut, reason = "more where parquet is built")]
        let mut files = vec![
            ("jsonl", line.clone()),
            ("json", [b"[".as_slice(), &line, b"]"].concat()),
            ("csv", b"id,text\n1,\"some, words\"\n2,more\n".to_vec()),
            ("jsonl.gz", gz.finish().unwrap()),
            ("jsonl.bz2", bz.finish().unwrap()),
            ("jsonl.zst", zstd::encode_all(line.as_slice(), 1).unwrap()),
            ("txt.xz", include_bytes!("../../tests/packed/words.xz").to_vec()),
            ("tar", tar.into_inner().unwrap()),
            ("zip", zipped.finish().unwrap().into_inner()),
        ];
        #[cfg(feature = "parquet")]
        files.push(("parquet", super::super::parquet::tests::file("text", &["one text", "another text", "a third"])));
        bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|changes| {
            for (ending, whole) in &files {
                let mut bytes = whole.clone();
                for (at, value) in changes {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] = *value;
                }
                survives(&bytes, &[ending]);
            }
        });
    }
}
