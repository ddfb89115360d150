//! Data: from files of text to shards of tokens, and from a seed to the windows that a step trains on.
//!
//! ```text
//! files -> readers -> clean -> dedup -> split -> tokenizer -> shards -> Split::window <- Sampler(seed, epoch, position)
//! ```
//! Start at [`prepare()`] and [`Dataset::open`].
//!
//! **Invariant:** what is prepared depends on the documents, the options and the seed: not on the order in which files
//! are found, the machine's paths or the number of threads. **Absent on purpose:** knowledge of models.

mod clean;
mod content;
mod dedup;
mod ends;
mod error;
mod gather;
mod identity;
mod kept;
mod minhash;
mod names;
mod ngram;
mod options;
mod pieces;
mod prepare;
mod progress;
mod readers;
mod sampler;
mod seal;
mod shards;
mod sorter;
mod spill;
mod split;
mod tally;
mod tokenise;
mod tokenizer;
mod vocabularies;
mod words;
mod writer;

pub use clean::{CleanOptions, Rule};
pub use content::Content;
pub use dedup::{DedupOptions, near_clusters};
pub use ends::Ends;
pub use error::DataError;
pub use ngram::Ngram;
pub use options::PrepareOptions;
pub use pieces::TextStream;
pub use prepare::{Stats, prepare, prepare_within};
pub use progress::{Progress, Quiet};
pub use readers::{CorpusOptions, Document, Fault, Format, OnBad, cargo_sources, records};
pub use sampler::Sampler;
pub use shards::{Dataset, DocumentEntry, Split};
pub use tally::{Example, Kind, Loss, Stage, Tally};
pub use tokenizer::{Tokenizer, TokenizerOptions};
