//! Windows of prepared text, in the order of the keyed permutation.

use std::{ops::Range, sync::Arc};

use data::{Content, DataError, Dataset, Sampler, Tokenizer};
use engine::Inputs;

use super::{Feed, Pick};
use crate::{TrainError, checkpoint::TokenizerFiles, recipe::Recipe};

/// See the head of this file.
pub struct TextWindows {
    data: Arc<Dataset>,
    context: usize,
    sampler: Sampler,
    held_out: Vec<Vec<u32>>,
}

impl TextWindows {
    /// Open the data of a recipe.
    /// # Errors
    /// When they cannot be read, or are less than one batch and one held-out window.
    pub fn open(recipe: &Recipe) -> Result<Self, TrainError> {
        Self::of(Arc::new(Dataset::open(&recipe.data.path)?), recipe)
    }

    /// Windows of `data` as a recipe cuts them.
    /// # Errors
    /// As [`TextWindows::open`].
    pub fn of(data: Arc<Dataset>, recipe: &Recipe) -> Result<Self, TrainError> {
        let (context, fraction) = (recipe.batch.context, recipe.data.fraction);
        let windows = data.train().windows(context, fraction);
        let need = recipe.batch.sequences as u64;
        if windows < need {
            return Err(TrainError::SmallCorpus { have: windows, need, context, percent: 100.0 * fraction });
        }
        let held_out = held_out_windows(&data, context, recipe.eval.windows)?;
        if held_out.is_empty() {
            return Err(TrainError::SmallCorpus { have: 0, need: 1, context, percent: 100.0 });
        }
        Ok(Self { data, context, sampler: Sampler::new(recipe.seed, windows), held_out })
    }

    /// Held-out windows of `data` alone, to measure a model on.
    /// # Errors
    /// When there is not one, or it cannot be read.
    pub fn to_measure(data: Arc<Dataset>, context: usize, windows: u64) -> Result<Self, TrainError> {
        let held_out = held_out_windows(&data, context, windows)?;
        if held_out.is_empty() {
            let problem = format!("{} held-out tokens are no window of {context}", data.held_out().tokens());
            return Err(TrainError::Value { key: "data", problem, help: "give data with more held-out text".into() });
        }
        Ok(Self { sampler: Sampler::new(0, data.train().windows(context, 1.0).max(1)), data, context, held_out })
    }
}

/// Windows of held-out text, evenly spread, the same for every model of one context length.
/// # Errors
/// When a shard cannot be read.
pub fn held_out_windows(data: &Dataset, context: usize, windows: u64) -> Result<Vec<Vec<u32>>, DataError> {
    let all = data.held_out().windows(context, 1.0);
    let count = windows.min(all);
    (0..count).map(|i| data.held_out().window(i * all / count, context)).collect()
}

/// `tokens` and `targets` of windows of one length.
#[must_use]
pub fn inputs_of(windows: &[Vec<u32>]) -> Inputs {
    let seq = windows.first().map_or(0, |w| w.len() - 1);
    let column = |shift: usize| windows.iter().flat_map(|w| w[shift..shift + seq].to_vec()).collect::<Vec<u32>>();
    let dims = [windows.len(), seq];
    Inputs::new().with_u32("tokens", &dims, column(0)).with_u32("targets", &dims, column(1))
}

impl Feed for TextWindows {
    fn picks(&self, positions: Range<u64>) -> Vec<Pick> {
        positions.map(|position| Pick { sample: self.sampler.at(position), position }).collect()
    }

    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError> {
        let window = |pick: &Pick| self.data.train().window(pick.sample, self.context);
        Ok(inputs_of(&picks.iter().map(window).collect::<Result<Vec<_>, _>>()?))
    }

    fn weight(&self, picks: &[Pick]) -> u64 {
        (picks.len() * self.context) as u64
    }

    fn name(&self, sample: u64) -> Option<String> {
        self.data.train().document_at(sample * self.context as u64).map(|document| document.name.clone())
    }

    fn held_out(&self) -> u64 {
        self.held_out.len() as u64
    }

    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError> {
        Ok(inputs_of(&self.held_out[samples.start as usize..samples.end as usize]))
    }

    /// The end of a document stands for no bytes; it is counted all the same, as it has to be told.
    fn held_out_weight(&self, sample: u64) -> u64 {
        self.data.target_bytes(&self.held_out[sample as usize])
    }

    fn content(&self) -> &Content {
        self.data.content()
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles, TrainError> {
        Ok(self.data.tokenizer_files()?)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(self.data.tokenizer())
    }
}
