//! Feeds: where samples come from. The loop asks for the samples at places of a run and gets a model's inputs; it knows neither text nor
//! images.
//!
//! **Invariant:** what a feed gives follows from (seed, position) alone: not from threads, ranks or what was asked before.

mod text;

use std::ops::Range;

use data::{Content, Dataset};
use engine::Inputs;
pub use text::{TextWindows, held_out_windows, inputs_of};

use crate::{TrainError, checkpoint::TokenizerFiles, step::Trainer};

/// A sample of training data at a place of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Which sample: below [`Feed::samples`].
    pub sample: u64,
    /// Its place in the run, counted over epochs: the key of whatever is drawn for it (masks, crops, noise).
    pub position: u64,
}

/// See the head of this file.
pub trait Feed: Send + Sync {
    /// Samples to train on.
    fn samples(&self) -> u64;

    /// The samples that stand at `positions` of a run.
    fn picks(&self, positions: Range<u64>) -> Vec<Pick>;

    /// What a model reads of `picks`, which make one micro-batch.
    /// # Errors
    /// When they cannot be read.
    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError>;

    /// What the loss of `picks` is a mean over: tokens, samples or pairs.
    fn weight(&self, picks: &[Pick]) -> u64;

    /// What a person can find a sample by.
    fn name(&self, sample: u64) -> Option<String>;

    /// Samples that are never trained on, as many as are measured.
    fn held_out(&self) -> u64;

    /// What a model reads of held-out samples.
    /// # Errors
    /// When they cannot be read.
    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError>;

    /// What the metric of a held-out sample is a mean over: bytes of text, or one.
    fn held_out_weight(&self, sample: u64) -> u64;

    /// What the data are, wherever they lie: a run goes on only over the same.
    fn content(&self) -> &Content;

    /// Files that a checkpoint keeps, so that a model can be used without its data.
    /// # Errors
    /// When one cannot be read.
    fn tokenizer_files(&self) -> Result<TokenizerFiles, TrainError> {
        Ok(Vec::new())
    }

    /// The tokens behind it, of text.
    fn text(&self) -> Option<&Dataset> {
        None
    }

    /// Called by all ranks before the step `step` is made: what is learnt from may come from the model itself.
    /// # Errors
    /// Whatever befell it.
    fn refresh(&self, _step: u64, _trainer: &mut Trainer) -> Result<(), TrainError> {
        Ok(())
    }
}
