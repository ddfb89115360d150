//! Near duplicates on one core: `cargo bench -p data --bench minhash -- FOLDER` leaves there what xtask/python/minhash.py
//! holds beside datatrove. Text of cargo's sources, where licences, versions and generated files repeat.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::{io::Write, time::Instant};

use data::{Dataset, DedupOptions, PrepareOptions, Quiet, TokenizerOptions, near_clusters};

fn main() {
    let folder = std::path::PathBuf::from(std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or("target/minhash".into()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let none = DedupOptions { exact: false, near: false };
    let mut options = PrepareOptions { tokenizer: TokenizerOptions::Bytes, dedup: none, ..PrepareOptions::default() };
    options.corpus.paths = vec![data::cargo_sources().expect("cargo has fetched sources").display().to_string()];
    options.corpus.max_total_bytes = Some(24 << 20);
    data::prepare(&options, &folder.join("data"), &Quiet).expect("data");
    let data = Dataset::open(&folder.join("data")).expect("a dataset");
    let (all, end) = (data.train().read(0, data.train().tokens() as usize).unwrap(), data.tokenizer().end_of_text());
    let documents: Vec<String> = all.split(|t| *t == end).map(|tokens| data.tokenizer().decode(tokens)).collect();
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("documents.jsonl")).expect("a file"));
    for document in &documents {
        writeln!(file, "{}", serde_json::json!({"text": document})).expect("written");
    }
    file.flush().expect("written");
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let start = Instant::now();
    let clusters = one_core.install(|| near_clusters(&texts)).expect("fewer than `u32` counts");
    let secs = start.elapsed().as_secs_f64();
    let line = serde_json::json!({"secs": secs, "clusters": clusters});
    std::fs::write(folder.join("hairpin.json"), line.to_string()).expect("written");
    let near = clusters.iter().enumerate().filter(|(i, first)| i != *first).count();
    println!("{} documents, {near} near duplicates, {secs:.3} s", documents.len());
}
