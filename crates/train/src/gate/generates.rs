//! It writes text, and the probabilities of what it wrote are those that training would have given.

use engine::{Precision, Tape};

use super::{GateResult, Subject, result};
use crate::{
    TrainError,
    eval::{inference, pool_for},
    feed::inputs_of,
    generate::{Request, Sampling, Writer},
};

/// Largest difference of a log-probability: rounding of the cached and the whole pass, in bf16 at worst.
const TOLERANCE: f32 = 0.05;

pub(super) fn gate(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let loaded = &mut s.loaded;
    let language = loaded.model.language().ok_or(TrainError::NotLanguage)?;
    let table = loaded.model.params();
    // A router's choice is a step: what bf16 rounds otherwise in the other pass may go to another expert, and that is no fault.
    let has_experts = language.decoder().is_some_and(|config| config.experts.is_some());
    let precision = if has_experts { Precision::F32 } else { loaded.precision };
    let prompt = s.feed.tokenizer().ok_or(TrainError::NotLanguage)?.ends().before_prompt.clone();
    let request = Request { prompt, count: 32.min(language.context() - 1), stops: Vec::new(), sampling: Sampling::default() };
    let drawn = Writer { language, table, store: &mut loaded.store, precision }.write_one(&request, |_| {})?;

    let tokens: Vec<u32> = request.prompt.iter().copied().chain(drawn.iter().map(|d| d.token)).collect();
    let inputs = inputs_of(std::slice::from_ref(&tokens));
    let pool = pool_for(language, table, precision, &inputs, |language, tape, inputs| language.token_nll(tape, inputs))?;
    let mut tape = Tape::new(&pool, &mut loaded.store, table, inference(precision));
    let nll = language.token_nll(&mut tape, &inputs)?;
    let worst = nll.f32s().iter().zip(&drawn).map(|(nll, d)| (nll + d.log_prob).abs()).fold(0.0, f32::max);
    let help = "the cached pass and the training pass disagree: report it, with the recipe";
    Ok(result("generates", worst <= TOLERANCE, format!("log-probabilities within {worst:.1e}"), format!("within {TOLERANCE}"), help))
}
