//! What prepared data are: hashes of their tokens and of their tokenizer, from which it follows whether a run may go on over
//! them. Where they lie, what they are called and how they were made are no part of it.

use serde::{Deserialize, Serialize};

use crate::shards::{Manifest, SplitManifest};

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Of the shards of both splits, in their order.
    pub tokens_blake3: String,
    /// Of `tokenizer.json`.
    pub tokenizer_blake3: String,
}

impl Content {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut split = |name: &str, split: &SplitManifest| {
            hasher.update(format!("{name} {} {}\n", split.tokens, split.bytes).as_bytes());
            for shard in &split.shards {
                hasher.update(format!("{} {}\n", shard.tokens, shard.blake3).as_bytes());
            }
        };
        split("train", &manifest.train);
        split("held_out", &manifest.held_out);
        Self { tokens_blake3: hasher.finalize().to_hex().to_string(), tokenizer_blake3: manifest.tokenizer_blake3.clone() }
    }

    /// In what `theirs` are other data, if they are.
    #[must_use]
    pub fn difference(&self, theirs: &Self) -> Option<&'static str> {
        match (self.tokens_blake3 == theirs.tokens_blake3, self.tokenizer_blake3 == theirs.tokenizer_blake3) {
            (true, true) => None,
            (true, false) => Some("another tokenizer comes with them"),
            (false, true) => Some("the same tokenizer gave other tokens"),
            (false, false) => Some("another tokenizer gave other tokens"),
        }
    }
}
