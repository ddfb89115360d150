//! The loop on this machine: a few short steps of each recipe, a few passes of each model that is asked, and a few tokens of each that
//! writes, run now.

use std::rc::Rc;

use align::{passes::Asked, rows::Row};
use parallel::Replicated;
use train::{TrainError, clock::Clock, generate};

use super::{Plan, Question, Teller, Work, comparisons, parts};
use crate::{PlanError, ladder::here::price};

/// Texts that are written together, and their tokens, while it is timed.
const TEXTS: usize = 64;
const TOKENS: usize = 16;
/// Rows of a pass that is timed.
const ROWS: usize = 16;

/// Price `question` on this machine.
/// # Errors
/// When a recipe's model cannot be, or the reward model is neither here nor among the recipes.
pub fn here(question: &Question) -> Result<Plan, PlanError> {
    let (works, params) = parts(question)?;
    let mut known: Vec<(Rc<Teller>, Rates)> = Vec::new();
    let mut steps = Vec::new();
    for Work { mut step, recipe, says, writes } in works {
        if let Some(recipe) = &recipe {
            let price = price(recipe, None)?;
            // Of a policy, held-out samples are replies, which are counted as such.
            step.train_secs = if writes.is_some() { price.steps as f64 * price.step_secs } else { price.secs };
        }
        let tellers = says.iter().map(|(teller, _)| teller).chain(writes.iter().map(|(teller, ..)| teller));
        for teller in tellers {
            if !known.iter().any(|(other, _)| Rc::ptr_eq(other, teller)) {
                known.push((Rc::clone(teller), Rates::of(teller)?));
            }
        }
        let rates = |teller: &Rc<Teller>| known.iter().find(|(other, _)| Rc::ptr_eq(other, teller)).map(|(_, rates)| *rates);
        step.say_secs = says.iter().filter_map(|(teller, rows)| Some(rows * rates(teller)?.row_secs)).sum();
        if let Some((teller, replies, tokens)) = &writes
            && let Some(rates) = rates(teller)
        {
            let prompt_secs = rates.row_secs * question.prompt_tokens as f64 / teller.row_tokens as f64;
            step.write_secs = replies * (prompt_secs + *tokens as f64 * rates.written_token_secs);
        }
        steps.push(step);
    }
    Ok(Plan { steps, params, comparisons: comparisons(question), on: "this machine".into(), accelerators: None, price: None })
}

#[derive(Clone, Copy)]
struct Rates {
    /// Of a row that it is asked about, and of a token of one of many texts that it writes.
    row_secs: f64,
    written_token_secs: f64,
}

impl Rates {
    fn of(teller: &Teller) -> Result<Self, TrainError> {
        let language = teller.model.language().ok_or(TrainError::NotLanguage)?;
        let table = teller.model.params();
        let mut store = Replicated::solo(table, |id| table.initial(id, 1));
        let mut asked = Asked { model: &*teller.model, store: &mut store, precision: teller.precision };
        let token = |i: usize| (engine::mix(i as u64) % language.vocab() as u64) as u32;
        let rows: Vec<Row> = (0..ROWS)
            .map(|row| Row { tokens: (0..teller.row_tokens.max(2)).map(|i| token(row * teller.row_tokens + i)).collect(), first: 1 })
            .collect();
        // Weights are packed when they are first read.
        asked.say(&rows[..1])?;
        let clock = Clock::start();
        asked.say(&rows)?;
        let row_secs = clock.secs() / ROWS as f64;
        if !language.head().has_tokens() {
            return Ok(Self { row_secs, written_token_secs: 0.0 });
        }
        let tokens = TOKENS.min(language.context().saturating_sub(16)).max(2);
        let rate = generate::rate(&*teller.model, teller.precision, TEXTS, tokens)?;
        Ok(Self { row_secs, written_token_secs: 1.0 / rate.tokens_per_sec })
    }
}
