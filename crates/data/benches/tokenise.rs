//! Tokenising on one core beside `tokenizers` alone, ids held equal: `cargo bench -p data`, text of cargo's sources.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Instant;

use data::{Dataset, PrepareOptions, Quiet, TokenizerOptions};

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = PrepareOptions { tokenizer: TokenizerOptions::Train { vocab: 50_257, sample_bytes: 16 << 20 }, ..Default::default() };
    options.corpus.paths = vec![data::cargo_sources().expect("cargo has fetched sources").display().to_string()];
    options.corpus.max_total_bytes = Some(32 << 20);
    data::prepare(&options, folder.path(), &Quiet).expect("data");
    let data = Dataset::open(folder.path()).expect("a dataset");
    let ours = data.tokenizer();
    let theirs = tokenizers::Tokenizer::from_file(data.tokenizer_path()).expect("a tokenizer");
    let all = data.train().read(0, data.train().tokens() as usize).unwrap();
    let texts: Vec<String> = all.split(|t| *t == ours.end_of_text()).map(|tokens| ours.decode(tokens)).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} documents, {:.1} MB, {} tokens in the vocabulary", texts.len(), bytes as f64 / 1e6, data.vocab());
    for round in 1..=3 {
        let start = Instant::now();
        let a: Vec<Vec<u32>> = texts.iter().map(|text| ours.encode(text).expect("text")).collect();
        let our_secs = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let b: Vec<Vec<u32>> =
            texts.iter().map(|text| theirs.encode_fast(text.as_str(), false).expect("text").get_ids().to_vec()).collect();
        let their_secs = start.elapsed().as_secs_f64();
        assert!(a == b, "the same ids");
        let rate = |secs: f64| bytes as f64 / 1e6 / secs;
        println!(
            "round {round}: hairpin {:.1} MB/s, tokenizers {:.1} MB/s, {:.1}x",
            rate(our_secs),
            rate(their_secs),
            their_secs / our_secs
        );
    }
}
