//! What a recipe of feedback costs besides its steps: replies that are written, and rows that models are asked about. FLOPs and bytes are
//! told by a run of the very passes on `Meta`; how often they are made follows from the recipe as [`crate::rollouts`] makes them.

use std::path::PathBuf;

use comm::{Order, Solo};
use engine::{
    Device, NoParams, Options, Pool, Precision, Tape,
    ops::{Advance, PAGE_TOKENS},
};
use models::{LanguageModel, Model};
use parallel::{Replicated, Strategy};
use serde::Serialize;
use train::{TrainError, eval::inference, generate, objective, recipe::Recipe};

use crate::{
    objectives,
    passes::{self, AT_ONCE, BATCH},
    rollouts::{Kl, STORED, SourceOptions, Writing, source_options},
    rows,
};

/// What one row or reply costs, and what is held while such passes are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Asking {
    /// Of one row, or of one reply with its prompt.
    pub flops: f64,
    /// Weights and their packed copies.
    pub weight_bytes: u64,
    /// Activations and working space of a pass; of writing also keys and values.
    pub pass_bytes: u64,
}

/// Asking `model` about rows of `tokens` tokens: a pass of [`passes::Asked::say`].
/// # Errors
/// When it is no model of language.
pub fn saying(model: &dyn Model, precision: Precision, tokens: usize) -> Result<Asking, TrainError> {
    let language = model.language().ok_or(TrainError::NotLanguage)?;
    let (flops, pass_bytes) = passes::cost(language, model.params(), precision, &rows::shapes(BATCH, tokens))?;
    Ok(Asking { flops: flops as f64 / BATCH as f64, weight_bytes: weight_bytes(language, precision)?, pass_bytes })
}

/// Letting `model` write replies of `reply_tokens` to prompts of `prompt_tokens`: passes of [`passes::Asked::write`].
/// # Errors
/// When it is no model of language.
pub fn writing(model: &dyn Model, precision: Precision, prompt_tokens: usize, reply_tokens: usize) -> Result<Asking, TrainError> {
    let language = model.language().ok_or(TrainError::NotLanguage)?;
    let of = |advance| generate::cost(language, &mut NoParams, model.params(), precision, advance);
    let prompt = of(Advance::shape(1, prompt_tokens.max(1)))?.flops as f64;
    // What a token costs grows with what was read by one amount for each.
    let [first, last] = [prompt_tokens, prompt_tokens + reply_tokens.saturating_sub(2)].map(|read| of(Advance::shape_after(read, 1, 1)));
    let rest = reply_tokens.saturating_sub(1) as f64 * (first?.flops + last?.flops) as f64 / 2.0;
    let pages = (prompt_tokens + reply_tokens).div_ceil(PAGE_TOKENS);
    let cached = language.decoder().map_or(0, |config| 2 * 4 * config.layers * config.kv_heads * config.head_dim);
    let cache_bytes = (AT_ONCE * pages * PAGE_TOKENS * cached) as u64;
    let pool_bytes = of(Advance::shape(AT_ONCE, generate::pass_tokens(AT_ONCE, prompt_tokens.max(1))))?.pool_bytes;
    Ok(Asking { flops: prompt + rest, weight_bytes: weight_bytes(language, precision)?, pass_bytes: pool_bytes + cache_bytes })
}

/// Of a model that is asked and not trained.
fn weight_bytes(language: &dyn LanguageModel, precision: Precision) -> Result<u64, TrainError> {
    let table = language.params();
    let mut store = Replicated::new(table, Device::META, Box::new(Solo), Order::Tree, |_| Vec::new());
    store.begin_step();
    let meta = Pool::meta();
    let mut tape = Tape::new(&meta, &mut store, table, Options { trace: false, ..inference(precision) });
    passes::outputs(language, &mut tape, &rows::shapes(1, 1))?;
    drop(tape);
    store.end_step()?;
    let held = store.peak_bytes();
    Ok(held.weights + held.packed)
}

/// How often a recipe writes and asks besides its steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Beside {
    /// Replies that are written, those to held-out prompts among them, and their tokens at most.
    pub replies: u64,
    pub reply_tokens: usize,
    /// Rows that the policy itself, the model that it began as, and the reward model are asked about; a second one, that judges replies to
    /// held-out prompts alone, is taken to be as large.
    pub of_policy: u64,
    pub of_original: u64,
    pub of_judge: u64,
    /// The reward model, where one judges.
    pub judge: Option<PathBuf>,
}

/// Of `recipe`; nothing where its objective neither writes nor asks.
/// # Errors
/// When its table `[objective]` cannot be read.
pub fn beside(recipe: &Recipe) -> Result<Beside, TrainError> {
    let (steps, sequences) = (recipe.train.steps, recipe.batch.sequences as u64);
    let evaluations = steps.div_ceil(recipe.eval.every_steps);
    let held_out = evaluations * recipe.eval.windows;
    match objective::name(recipe) {
        // Both rows of a pair.
        "dpo" => Ok(Beside { of_original: 2 * (steps * sequences + held_out), ..Beside::default() }),
        "ppo" | "grpo" => {
            let writing: Writing = objectives::writing(recipe)?;
            let of_iteration = (writing.rollouts * writing.inner_epochs) as u64 / sequences;
            let iterations = steps.div_ceil(of_iteration.max(1));
            let rollouts = iterations * writing.rollouts as u64;
            let is_stored = writing.kl == Kl::Stored;
            let judge = match source_options(&writing.reward)? {
                SourceOptions::Model(path) => Some(path),
                SourceOptions::Signal(_) => None,
            };
            let replies = rollouts + held_out;
            Ok(Beside {
                replies,
                reply_tokens: writing.response_tokens,
                of_policy: rollouts + if is_stored { iterations * STORED as u64 } else { 0 },
                of_original: if is_stored { 0 } else { rollouts },
                of_judge: if judge.is_some() { replies } else { 0 },
                judge,
            })
        }
        _ => Ok(Beside::default()),
    }
}
