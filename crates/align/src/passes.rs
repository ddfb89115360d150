//! What a model that is not trained here writes after prompts, and what it says of rows of prompts and responses: log-probabilities,
//! values, rewards.

use engine::{Inputs, NoParams, Options, ParamStore, ParamTable, Pool, Precision, Tape};
use models::{LanguageModel, Model};
use train::{
    TrainError,
    eval::{inference, pool},
    generate::{Drawn, Request, Sampling, Writer},
    run::Loaded,
};

use crate::rows::{self, Encoder, Row};

/// Rows in one pass.
pub(crate) const BATCH: usize = 16;
/// Texts that are written together.
pub(crate) const AT_ONCE: usize = 64;

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

/// A text that a model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub prompt: String,
    /// Without its end.
    pub response: String,
    pub row: Row,
    pub has_end: bool,
}

impl<'a> Asked<'a> {
    #[must_use]
    pub fn of(loaded: &'a mut Loaded) -> Self {
        Self { model: &*loaded.model, store: &mut loaded.store, precision: loaded.precision }
    }

    /// What the model writes after each prompt, of up to `tokens` tokens, each drawn by its own seed and else as `sampling` says.
    /// # Errors
    /// When it is no model of language, or a prompt is longer than it reads.
    pub fn write(
        &mut self,
        encoder: &Encoder,
        asks: &[(&str, u64)],
        tokens: usize,
        sampling: Sampling,
    ) -> Result<Vec<Written>, TrainError> {
        let language = self.model.language().ok_or(TrainError::NotLanguage)?;
        let stops = encoder.tokenizer.ends().stops.clone();
        let request = |(prompt, seed): &(&str, u64)| {
            let sampling = Sampling { seed: *seed, ..sampling };
            Ok(Request { prompt: encoder.prompt(prompt)?, count: tokens, stops: stops.clone(), sampling })
        };
        let requests = asks.iter().map(request).collect::<Result<Vec<Request>, TrainError>>()?;
        let (table, precision) = (self.model.params(), self.precision);
        let drawn = Writer { language, table, store: self.store, precision }.write(&requests, AT_ONCE, |_, _| {})?;
        let one = |((request, drawn), (prompt, _)): ((Request, Vec<Drawn>), &(&str, u64))| {
            let response: Vec<u32> = drawn.iter().map(|drawn| drawn.token).collect();
            let has_end = response.last().is_some_and(|last| stops.contains(last));
            let text = encoder.tokenizer.decode(&response[..response.len() - usize::from(has_end)]);
            let first = request.prompt.len();
            let row = Row { tokens: request.prompt.into_iter().chain(response).collect(), first };
            Written { prompt: (*prompt).to_owned(), response: text, row, has_end }
        };
        Ok(requests.into_iter().zip(drawn).zip(asks).map(one).collect())
    }

    /// What the model says of each row.
    /// # Errors
    /// When it is no model of language, a row is longer than it reads, or memory is short.
    pub fn say(&mut self, rows: &[Row]) -> Result<Vec<Said>, TrainError> {
        let language = self.model.language().ok_or(TrainError::NotLanguage)?;
        let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(1);
        let pool = pool_for(language, self.model.params(), self.precision, &rows::shapes(BATCH.min(rows.len().max(1)), longest))?;
        let mut said = vec![Said::default(); rows.len()];
        // Rows of like length go together, for a pass is as wide as its longest.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|i| rows[*i].tokens.len());
        for batch in order.chunks(BATCH) {
            // The last token is read too: its scalar is the reward. It has no target, so any will do.
            let whole: Vec<Row> = batch
                .iter()
                .map(|i| &rows[*i])
                .map(|row| Row { tokens: [&row.tokens[..], &[row.tokens[row.tokens.len() - 1]]].concat(), first: row.first })
                .collect();
            let width = whole.iter().map(|row| row.tokens.len() - 1).max().unwrap_or(1);
            let inputs = rows::inputs(&whole.iter().collect::<Vec<_>>(), width, 0);
            let mut tape = Tape::new(&pool, self.store, self.model.params(), inference(self.precision));
            let [nll, scalars] = outputs(language, &mut tape, &inputs)?;
            for (at, i) in batch.iter().enumerate() {
                let row = &rows[*i];
                let of = |all: &[f32]| if all.is_empty() { Vec::new() } else { all[at * width..][row.places()].to_vec() };
                let log_probs = of(&nll).into_iter().map(|nll| -nll).collect();
                let last = if scalars.is_empty() { 0.0 } else { scalars[at * width + row.tokens.len() - 1] };
                said[*i] = Said { log_probs, values: of(&scalars), last };
            }
        }
        Ok(said)
    }
}

/// `-ln p` and scalars `[rows, seq]`; empty where the model has no such head.
pub(crate) fn outputs<'m>(language: &'m dyn LanguageModel, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<[Vec<f32>; 2], TrainError> {
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
    pool(cost(language, table, precision, shapes)?.1)
}

/// FLOPs and bytes of a pass over `shapes`, told by `Meta`.
pub(crate) fn cost(
    language: &dyn LanguageModel,
    table: &ParamTable,
    precision: Precision,
    shapes: &Inputs,
) -> Result<(u64, u64), TrainError> {
    let (meta, mut none) = (Pool::meta(), NoParams);
    let mut tape = Tape::new(&meta, &mut none, table, Options { trace: true, ..inference(precision) });
    outputs(language, &mut tape, shapes)?;
    let flops = tape.events().iter().map(|event| event.flops).sum();
    drop(tape);
    Ok((flops, meta.usage().high_water_bytes))
}
