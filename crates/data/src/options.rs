//! What decides how a corpus is prepared.

use serde::{Deserialize, Serialize};

use crate::{CleanOptions, CorpusOptions, DedupOptions, TokenizerOptions};

/// All that decides what comes out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareOptions {
    /// Which files.
    pub corpus: CorpusOptions,
    /// Which rules a document has to keep.
    pub clean: CleanOptions,
    /// Which duplicates go.
    pub dedup: DedupOptions,
    /// Which tokenizer.
    pub tokenizer: TokenizerOptions,
    /// Share of the documents that training never sees.
    pub held_out_ratio: f64,
    /// Of which documents are held out, and of their order.
    pub seed: u64,
    /// Tokens of one file of the prepared data.
    pub shard_tokens: u64,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            corpus: CorpusOptions::default(),
            clean: CleanOptions::default(),
            dedup: DedupOptions::default(),
            tokenizer: TokenizerOptions::default(),
            held_out_ratio: 0.02,
            seed: 1,
            shard_tokens: 64 << 20,
        }
    }
}
