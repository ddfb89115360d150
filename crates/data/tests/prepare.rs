//! Preparing real folders: documents found again, held-out splits, hostile input, damage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use data::{CorpusOptions, DataError, Dataset, OnBad, PrepareOptions, Quiet, Rule, Stage, TokenizerOptions, prepare};

fn text(n: usize) -> String {
    (0..30).map(|i| format!("Sentence {i} of document {n} speaks of {} and of {}.\n", n * 31 % 97, (n * 17 + i * 13) % 101)).collect()
}

fn options(corpus: &Path) -> PrepareOptions {
    let corpus = CorpusOptions { paths: vec![corpus.display().to_string()], ..CorpusOptions::default() };
    let tokenizer = TokenizerOptions::Train { vocab: 300, sample_bytes: 1 << 20 };
    let mut options = PrepareOptions { corpus, held_out_ratio: 0.1, tokenizer, shard_tokens: 5000, ..PrepareOptions::default() };
    options.dedup.near = false;
    // What is tested here are the seams: the rules have tests of their own.
    options.clean.off = Rule::ALL.to_vec();
    options
}

fn corpus(folder: &Path) -> PathBuf {
    let corpus = folder.join("corpus");
    fs::create_dir_all(corpus.join("deep")).unwrap();
    for n in 0..40 {
        fs::write(corpus.join(if n % 2 == 0 { format!("{n}.md") } else { format!("deep/{n}.txt") }), text(n)).unwrap();
    }
    corpus
}

#[test]
fn every_token_leads_back_to_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (corpus(folder.path()), folder.path().join("data"));
    let stats = prepare(&options(&corpus), &out, &Quiet).unwrap();
    assert_eq!((stats.tally.documents_read, stats.tally.documents_kept, stats.held_out_documents), (40, 40, 4));
    let data = Dataset::open(&out).unwrap();
    for split in [data.train(), data.held_out()] {
        let documents = split.documents();
        for (i, entry) in documents.iter().enumerate() {
            let end = documents.get(i + 1).map_or(split.tokens(), |next| next.start);
            let tokens = split.read(entry.start, (end - entry.start) as usize).unwrap();
            assert_eq!(data.tokenizer().decode(&tokens), fs::read_to_string(corpus.join(&entry.name)).unwrap());
            assert_eq!(split.document_at(end - 1), Some(entry));
        }
    }
    assert!(prepare(&options(&corpus), &out, &Quiet).unwrap().is_reused, "the same again is used again");
}

#[test]
fn hostile_and_torn_input_is_named_counted_and_skipped_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    fs::write(corpus.join("binary.txt"), b"text\0text").unwrap();
    fs::write(corpus.join("latin.txt"), b"caf\xe9 ".repeat(50)).unwrap();
    fs::write(corpus.join("torn.txt.gz"), [0x1f, 0x8b, 8, 0, 0, 0]).unwrap();
    let good = |n: usize| format!("{{\"text\": {:?}}}\n", text(100 + n));
    fs::write(corpus.join("lines.jsonl"), format!("{}not json\n{{\"other\": 1}}\n[]\n{}", good(0), good(1))).unwrap();
    let mut options = options(&corpus);
    let stats = prepare(&options, &folder.path().join("a"), &Quiet).unwrap();
    let count = |kind: &str| stats.tally.count(Stage::BadInput, kind);
    assert_eq!(["binary", "torn", "not_json", "no_column", "empty"].map(count), [1, 1, 1, 1, 1]);
    assert_eq!(stats.tally.count(Stage::Mended, "decoded from windows-1252"), 1);
    assert_eq!(stats.tally.documents_read, 43);
    options.corpus.on_bad = OnBad::Refuse;
    assert!(matches!(prepare(&options, &folder.path().join("b"), &Quiet), Err(DataError::Refused { .. })));
    assert!(!folder.path().join("b").exists(), "what failed leaves nothing");
}

#[test]
fn every_flipped_byte_of_prepared_data_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (corpus(folder.path()), folder.path().join("data"));
    prepare(&options(&corpus), &out, &Quiet).unwrap();
    for entry in fs::read_dir(&out).unwrap().flatten().filter(|e| e.file_name() != "stats.json" && e.file_name() != "sources.jsonl") {
        let whole = fs::read(entry.path()).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(entry.path(), &flipped).unwrap();
            assert!(Dataset::open(&out).and_then(|data| data.verify()).is_err(), "{} byte {at}", entry.path().display());
        }
        fs::write(entry.path(), &whole).unwrap();
    }
    assert!(Dataset::open(&out).is_ok());
}

#[test]
fn a_shard_is_checked_when_it_is_first_read_and_no_other_is() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (corpus(folder.path()), folder.path().join("data"));
    prepare(&options(&corpus), &out, &Quiet).unwrap();
    let path = out.join("train-00000.tok");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let data = Dataset::open(&out).unwrap();
    data.held_out().read(0, 2).unwrap();
    // The changed byte is far from what is read.
    for _ in 0..2 {
        assert!(matches!(data.train().read(0, 2), Err(DataError::Damaged { path: named, .. }) if named == path));
    }
}

#[test]
fn nothing_to_read_or_nothing_left_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| options(&folder.path().join(name));
    assert!(matches!(prepare(&at("nowhere"), &folder.path().join("o"), &Quiet), Err(DataError::NoFiles { .. })));
    fs::create_dir(folder.path().join("short")).unwrap();
    fs::write(folder.path().join("short/a.txt"), "too short").unwrap();
    let cleaned = PrepareOptions { clean: data::CleanOptions::default(), ..at("short") };
    assert!(matches!(prepare(&cleaned, &folder.path().join("o"), &Quiet), Err(DataError::Empty { .. })));
    fs::write(folder.path().join("short/a.txt"), "").unwrap();
    assert!(matches!(prepare(&at("short"), &folder.path().join("o"), &Quiet), Err(DataError::Empty { .. })));
}

#[cfg(feature = "cloud")]
#[test]
fn objects_under_a_url_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&corpus(folder.path()));
    options.corpus.paths = vec![format!("file://{}", folder.path().join("corpus").display())];
    assert_eq!(prepare(&options, &folder.path().join("o"), &Quiet).unwrap().tally.documents_read, 40);
}

#[cfg(not(feature = "cloud"))]
#[test]
fn a_url_without_the_feature_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.corpus.paths = vec!["s3://bucket/prefix".into()];
    let error = prepare(&options, &folder.path().join("o"), &Quiet).unwrap_err();
    assert!(matches!(error, DataError::Feature { feature: "cloud", .. }));
}
