//! Forward passes of a model that is not trained here over rows of prompts and responses: log-probabilities, values, rewards.

use engine::{Inputs, NoParams, ParamStore, ParamTable, Pool, Precision, Tape};
use models::{LanguageModel, Model};
use train::{
    TrainError,
    eval::{inference, pool},
    run::Loaded,
};

use crate::rows::{self, Row};

/// Rows in one pass.
const BATCH: usize = 16;

/// What a model says of the tokens of a response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// `ln p` of each token of the response.
    pub log_probs: Vec<f32>,
    /// The scalar head where each of these tokens is chosen, if the model has one: the value before it.
    pub values: Vec<f32>,
    /// The scalar head at the last token of the row: its reward.
    pub last: f32,
}

/// A model to ask.
pub struct Asked<'a> {
    pub model: &'a dyn Model,
    pub store: &'a mut dyn ParamStore,
    pub precision: Precision,
}

impl<'a> Asked<'a> {
    #[must_use]
    pub fn of(loaded: &'a mut Loaded) -> Self {
        Self { model: &*loaded.model, store: &mut loaded.store, precision: loaded.precision }
    }

    /// What the model says of each row.
    /// # Errors
    /// When it is no model of language, a row is longer than it reads, or memory is short.
    pub fn say(&mut self, rows: &[Row]) -> Result<Vec<Said>, TrainError> {
        let language = self.model.language().ok_or(TrainError::NotLanguage)?;
        let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(1);
        let pool = pool_for(language, self.model.params(), self.precision, &rows::shapes(BATCH.min(rows.len().max(1)), longest))?;
        let mut said = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            // The last token is read too: its scalar is the reward. It has no target, so any will do.
            let whole: Vec<Row> = batch
                .iter()
                .map(|row| Row { tokens: [&row.tokens[..], &[row.tokens[row.tokens.len() - 1]]].concat(), first: row.first })
                .collect();
            let inputs = rows::inputs(&whole.iter().collect::<Vec<_>>(), longest, 0);
            let mut tape = Tape::new(&pool, self.store, self.model.params(), inference(self.precision));
            let [nll, scalars] = outputs(language, &mut tape, &inputs)?;
            for (i, row) in batch.iter().enumerate() {
                let of = |all: &[f32]| if all.is_empty() { Vec::new() } else { all[i * longest..][row.places()].to_vec() };
                let log_probs = of(&nll).into_iter().map(|nll| -nll).collect();
                let last = if scalars.is_empty() { 0.0 } else { scalars[i * longest + row.tokens.len() - 1] };
                said.push(Said { log_probs, values: of(&scalars), last });
            }
        }
        Ok(said)
    }
}

/// `-ln p` and scalars `[rows, seq]`; empty where the model has no such head.
fn outputs<'m>(language: &'m dyn LanguageModel, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<[Vec<f32>; 2], TrainError> {
    let x = language.trunk(tape, inputs, None, 0..language.params().blocks().len())?;
    let head = language.head();
    Ok(match (head.has_tokens(), head.has_scalar()) {
        (true, true) => {
            let [nll, scalars] = language.head_nll_and_scalars(tape, inputs, &x)?;
            [nll.f32s().to_vec(), scalars.f32s().to_vec()]
        }
        (true, false) => [language.head_nll(tape, inputs, &x)?.f32s().to_vec(), Vec::new()],
        (false, _) => [Vec::new(), language.head_scalars(tape, &x)?.f32s().to_vec()],
    })
}

fn pool_for(language: &dyn LanguageModel, table: &ParamTable, precision: Precision, shapes: &Inputs) -> Result<Pool, TrainError> {
    let (meta, mut none) = (Pool::meta(), NoParams);
    let mut tape = Tape::new(&meta, &mut none, table, inference(precision));
    outputs(language, &mut tape, shapes)?;
    drop(tape);
    pool(meta.usage().high_water_bytes)
}
