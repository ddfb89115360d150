//! What prepared data are: hashes of their tokens and of their tokenizer, from which it follows whether a run may go on over
//! them. Where they lie, what they are called and how they were made are no part of it.

use serde::{Deserialize, Serialize};

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
