//! Feeds: where samples come from. The loop asks for the samples at places of a run and gets a model's inputs; it knows neither text nor
//! images.
//!
//! **Invariant:** what a feed gives follows from (seed, position) alone: not from threads, ranks or what was asked before.

mod text;

use std::{ops::Range, path::Path};

use data::{Content, Tokenizer};
use engine::{Inputs, ParamStore, Precision};
use models::Model;
use parallel::Replicated;
pub use text::{TextWindows, held_out_windows, inputs_of};

use crate::{TrainError, checkpoint::TokenizerFiles, held_out::HeldOut};

/// A sample of training data at a place of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Which sample, by the feed's own numbers.
    pub sample: u64,
    /// Its place in the run, counted over epochs: the key of whatever is drawn for it (masks, crops, noise).
    pub position: u64,
}

/// Whether a sample of this name is one of the `ratio` that are never trained on: by its name, so that whatever has one name falls alike.
#[must_use]
pub fn is_held_out(seed: u64, name: &str, ratio: f64) -> bool {
    (engine::mix(engine::key(seed, name)) as f64 / u64::MAX as f64) < ratio
}

/// A model in training, as a feed may see it; all ranks call each of these.
pub trait InTraining {
    fn model(&self) -> &dyn Model;

    fn precision(&self) -> Precision;

    /// All weights as they are now, whole, on the first rank.
    /// # Errors
    /// When a rank does not answer.
    fn weights(&mut self) -> Result<Option<Replicated>, TrainError>;

    /// Wait until all ranks are here.
    /// # Errors
    /// When a rank does not answer.
    fn meet(&mut self) -> Result<(), TrainError>;
}

/// See the head of this file.
pub trait Feed: Send + Sync {
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

    /// The tokenizer of its text, if that is what it gives.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    /// What a person should read of it: samples that were left out, and why.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Called by all ranks before the step `step` of the run in `folder` is made: what is learnt from may come from the model itself.
    /// # Errors
    /// Whatever befell it.
    fn refresh(&self, _step: u64, _trainer: &mut dyn InTraining, _folder: &Path) -> Result<(), TrainError> {
        Ok(())
    }

    /// Called by all ranks after 1, 2, 4, 8, ... measurements of held-out samples and the last, at `step` of the run in `folder`: what a person
    /// may look at of the model is written there. It changes nothing that is learnt. Notes for a person, of what could not be.
    /// # Errors
    /// When a rank does not answer.
    fn look(&self, _step: u64, _trainer: &mut dyn InTraining, _folder: &Path) -> Result<Vec<String>, TrainError> {
        Ok(Vec::new())
    }

    /// Figures of the samples of `step`, for its line of metrics.
    fn figures(&self, _step: u64) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The metric of a model that is judged by what it does, not by a pass over samples.
    /// # Errors
    /// Whatever befell it.
    fn judge(&self, _model: &dyn Model, _store: &mut dyn ParamStore, _precision: Precision) -> Result<Option<HeldOut>, TrainError> {
        Ok(None)
    }

    /// Whether [`Feed::judge`] gives one.
    fn is_judge(&self) -> bool {
        false
    }
}
