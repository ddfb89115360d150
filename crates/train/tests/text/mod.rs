//! Text to train on, the same for every test.

use std::path::Path;

use data::{CorpusOptions, PrepareOptions, TokenizerOptions};

/// Plain sentences, and one file of noise in `noise.txt`.
pub fn prepare(folder: &Path) {
    let corpus = folder.join("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    for n in 0..60_u64 {
        let line = |i: u64| {
            format!("the {} road goes {} the hill\n", ["long", "old", "wide"][(n + i) as usize % 3], ["up", "down"][i as usize % 2])
        };
        std::fs::write(corpus.join(format!("{n}.txt")), (0..40).map(line).collect::<String>()).unwrap();
    }
    let noise = |i: u64| char::from(b'!' + (engine::mix(i) % 90) as u8);
    std::fs::write(corpus.join("noise.txt"), (0..600).map(noise).collect::<String>()).unwrap();
    let mut options = PrepareOptions {
        corpus: CorpusOptions { paths: vec![corpus.display().to_string()], ..CorpusOptions::default() },
        tokenizer: TokenizerOptions::Bytes,
        ..PrepareOptions::default()
    };
    (options.dedup.exact, options.dedup.near) = (false, false);
    options.clean.off = data::Rule::ALL.to_vec();
    data::prepare(&options, &folder.join("data"), &data::Quiet).unwrap();
}
