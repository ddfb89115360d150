//! What is prepared has the same bytes whatever memory and threads there were, and the bytes that it had when all documents
//! were held at once: the golden hashes are that code's.

use std::{fmt::Write, fs, path::Path};

use data::{PrepareOptions, Progress, Quiet, Rule, TokenizerOptions, prepare, prepare_within};
use proptest::prelude::*;

/// Words of a small language, from a counter.
fn words(seed: u64, count: u64) -> String {
    const SYLLABLES: [&str; 16] = ["ka", "lo", "mi", "ren", "to", "sa", "vi", "ne", "ur", "bel", "do", "ish", "am", "pel", "qu", "öz"];
    let mut out = String::new();
    for i in 0..count {
        let mut mixed = (seed << 20 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        for _ in 0..1 + mixed % 3 {
            mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 31;
            out += SYLLABLES[(mixed >> 40) as usize % 16];
        }
        out += if i % 13 == 12 { ".\n" } else { " " };
    }
    out
}

/// Two roots that share names, lines of JSON, exact and near duplicates, one document longer than a shard.
fn corpus(folder: &Path) -> PrepareOptions {
    for (root, seed) in [("one", 0), ("two", 1000)] {
        let root = folder.join(root);
        fs::create_dir_all(root.join("deep")).unwrap();
        for n in 0..60 {
            let text = match n % 10 {
                7 => words(seed + n - 1, 200 + 7 * (n - 1)).replace(' ', "  "),
                8 => words(seed + n - 2, 200 + 7 * (n - 2)).replacen("ka", "other ", 1),
                9 => words(5, 40 + n / 10 % 2),
                _ => words(seed + n, 200 + 7 * n),
            };
            fs::write(root.join(if n % 3 == 0 { format!("{n}.md") } else { format!("deep/{n}.txt") }), text).unwrap();
        }
    }
    fs::write(folder.join("two/long.txt"), words(77, 9000)).unwrap();
    let mut lines = String::new();
    for n in 0..150 {
        writeln!(lines, "{}", serde_json::json!({"text": words(2000 + n, 30 + n % 50), "n": n})).unwrap();
    }
    fs::write(folder.join("one/lines.jsonl"), lines).unwrap();
    let mut options = PrepareOptions { held_out_ratio: 0.1, shard_tokens: 5000, ..PrepareOptions::default() };
    options.corpus.paths = ["one", "two"].map(|root| folder.join(root).display().to_string()).to_vec();
    options.tokenizer = TokenizerOptions::Train { vocab: 400, sample_bytes: 60_000 };
    options.clean.off = Rule::ALL.to_vec();
    options
}

/// Of the corpus as it is.
const ALL: &str = "10b62da2baee59f7";

/// One hash over names and bytes of all that training reads.
fn hash(out: &Path) -> String {
    let mut names: Vec<_> = fs::read_dir(out).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.retain(|n| n.ends_with(".tok") || n.ends_with(".documents.jsonl") || n == "tokenizer.json");
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let bytes = fs::read(out.join(&name)).unwrap();
        hasher.update(format!("{name} {}\n", bytes.len()).as_bytes()).update(&bytes);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn bytes_are_those_of_the_code_that_held_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = corpus(folder.path());
    let mut prepared = |name: &str, change: &dyn Fn(&mut PrepareOptions)| {
        change(&mut options);
        let out = folder.path().join(name);
        let stats = prepare(&options, &out, &Quiet).unwrap();
        let counts =
            [stats.tally.documents_read, stats.exact_duplicates, stats.near_duplicates, stats.train_documents, stats.held_out_documents];
        (counts, stats.train_tokens, hash(&out))
    };
    let got = [
        prepared("all", &|_| ()),
        prepared("bytes", &|o| o.tokenizer = TokenizerOptions::Bytes),
        prepared("exact", &|o| o.dedup.near = false),
        prepared("none", &|o| o.dedup.exact = false),
        prepared("part", &|o| (o.corpus.max_total_bytes, o.seed) = (Some(100_000), 9)),
    ];
    let golden = |counts: [u64; 5], tokens: u64, hash: &str| (counts, tokens, hash.to_owned());
    let want = [
        golden([271, 22, 13, 212, 24], 91_595, ALL),
        golden([271, 22, 13, 212, 24], 270_751, "8f61c292fccb2d49"),
        golden([271, 22, 0, 224, 25], 298_666, "a8c30d642c6b70bb"),
        golden([271, 0, 0, 244, 27], 323_586, "f7ef2dc46e207a83"),
        golden([28, 0, 0, 24, 4], 87_938, "a3992e59c5ee4b7a"),
    ];
    assert_eq!(got, want);
}

#[test]
fn memory_and_threads_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let options = corpus(folder.path());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(6));
    let drawn = (prop_oneof![Just(0_u64), 4096..200_000_u64, Just(1 << 30)], 1..4_usize);
    let check = |(memory_bytes, threads)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = folder.path().join("out");
        let _ = fs::remove_dir_all(&out);
        pool.install(|| prepare_within(memory_bytes, &options, &out, &Quiet)).unwrap();
        prop_assert_eq!(hash(&out), ALL);
        Ok(())
    };
    runner.run(&drawn, check).unwrap();
}

/// Says stop when it is asked for the `left`th time.
struct Stop {
    left: std::sync::atomic::AtomicI64,
}

impl Progress for Stop {
    fn stage(&self, _name: &'static str, _total: u64) {}
    fn advance(&self, _count: u64) {}
    fn cancelled(&self) -> bool {
        self.left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) < 0
    }
}

#[test]
fn stopped_anywhere_and_gone_on_with_the_bytes_are_the_same_and_the_old_data_stay_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let options = corpus(folder.path());
    let (out, old) = (folder.path().join("out"), PrepareOptions { seed: 3, ..options.clone() });
    prepare(&old, &out, &Quiet).unwrap();
    let before = hash(&out);
    let mut stops = 0;
    for left in (0..).map(|i| i * 61) {
        match prepare_within(1 << 16, &options, &out, &Stop { left: left.into() }) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, data::DataError::Cancelled), "{error}"),
        }
        stops += 1;
        assert_eq!(hash(&out), before);
    }
    assert!(stops > 10, "{stops}");
    assert_eq!(hash(&out), ALL);
    assert!(!folder.path().join("out.tmp").exists());
}
