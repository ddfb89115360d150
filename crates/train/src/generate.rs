//! Generating text: one token at a time over a cache of keys and values.

use engine::{Inputs, ParamStore, ParamTable, Pool, Precision, Tape};
use models::LanguageModel;
use serde::Serialize;

use crate::{TrainError, eval::inference};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Only the so many likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together have this probability.
    pub top_p: f32,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95, seed: 1 }
    }
}

impl Sampling {
    /// # Errors
    /// When a value means nothing, naming what is allowed.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |key, problem, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", format!("{} is no temperature", self.temperature), "0 takes the likeliest token; 0.8 is usual");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", format!("{} is no share", self.top_p), "above 0 and at most 1; 1 leaves out no token");
        }
        Ok(())
    }
}

/// A token and its natural log-probability under the model itself, before temperature and cuts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Drawn {
    pub token: u32,
    pub log_prob: f32,
}

/// Up to `count` tokens after `prompt` (not empty), until `end` is drawn or the context is full.
/// # Errors
/// When the prompt is empty, holds unknown tokens, or is longer than the context.
pub fn generate(
    language: &dyn LanguageModel,
    table: &ParamTable,
    store: &mut dyn ParamStore,
    precision: Precision,
    prompt: &[u32],
    count: usize,
    end: Option<u32>,
    sampling: &Sampling,
    mut each: impl FnMut(Drawn),
) -> Result<Vec<Drawn>, TrainError> {
    sampling.check()?;
    let wrong = |problem: String, help: &str| TrainError::Value { key: "prompt", problem, help: help.into() };
    if prompt.is_empty() || prompt.len() > language.context() {
        return Err(wrong(format!("{} tokens, not 1..={}", prompt.len(), language.context()), "give a shorter prompt"));
    }
    if let Some(token) = prompt.iter().find(|t| **t as usize >= language.vocab()) {
        return Err(wrong(format!("token {token} is beyond the vocabulary of {}", language.vocab()), "use the model's own tokenizer"));
    }
    let meta = Pool::meta();
    let mut none = engine::NoParams;
    let shapes = Inputs::new().with_u32("tokens", &[1, prompt.len()], Vec::new());
    language.logits(&mut Tape::new(&meta, &mut none, table, inference(precision)), &shapes, None)?;
    let pool = crate::eval::pool(meta.usage().high_water_bytes + (1 << 20))?;

    let cache = language.cache();
    let (mut drawn, mut next) = (Vec::new(), prompt.to_vec());
    while drawn.len() < count && prompt.len() + drawn.len() <= language.context() {
        let inputs = Inputs::new().with_u32("tokens", &[1, next.len()], next.clone());
        let mut tape = Tape::new(&pool, store, table, inference(precision));
        let logits = language.logits(&mut tape, &inputs, Some(&cache))?;
        let last = &logits.f32s()[(next.len() - 1) * language.vocab()..];
        let one = draw(last, sampling, drawn.len() as u64);
        drawn.push(one);
        each(one);
        if end == Some(one.token) {
            break;
        }
        next = vec![one.token];
    }
    Ok(drawn)
}

/// How many of the likeliest tokens are put in order at first.
const FIRST: usize = 512;

/// The `count` likeliest tokens, likeliest first, equal ones by number.
fn order_of(logits: &[f32], count: usize) -> Vec<usize> {
    let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count, likelier);
        order.truncate(count);
    }
    order.sort_unstable_by(likelier);
    order
}

/// One token; `index` counts draws, so that the text is a function of the seed.
fn draw(logits: &[f32], sampling: &Sampling, index: u64) -> Drawn {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    let log_prob = |token: usize| (f64::from(logits[token] - largest) - total.ln()) as f32;
    if sampling.temperature <= 0.0 {
        let best = order_of(logits, 1)[0];
        return Drawn { token: best as u32, log_prob: log_prob(best) };
    }
    let weight = |token: usize| f64::from((logits[token] - largest) / sampling.temperature).exp();
    // A few hundred of the likeliest nearly always hold the share that is wanted; more are put in order only if not.
    let is_cut = (1..logits.len()).contains(&sampling.top_k);
    let most = if is_cut { sampling.top_k } else { logits.len() };
    let mut order = order_of(logits, if is_cut { most } else { FIRST });
    let sum_of = |order: &[usize]| order.iter().map(|t| weight(*t)).sum::<f64>();
    let wanted = f64::from(sampling.top_p) * if is_cut { sum_of(&order) } else { (0..most).map(weight).sum() };
    if sum_of(&order) < wanted {
        order = order_of(logits, most);
    }
    let mut sum = 0.0;
    let kept = order.iter().take_while(|t| {
        let before = sum;
        sum += weight(**t);
        before < wanted
    });
    let kept: Vec<(usize, f64)> = kept.map(|t| (*t, weight(*t))).collect();
    let mut point =
        f64::from(kernels::rng::uniform(engine::key(sampling.seed, "sample"), index)) * kept.iter().map(|(_, w)| w).sum::<f64>();
    let chosen = kept.iter().find(|(_, w)| {
        point -= w;
        point < 0.0
    });
    let token = chosen.or(kept.last()).map_or(0, |(t, _)| *t);
    Drawn { token: token as u32, log_prob: log_prob(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let base = Sampling::default();
        for top_p in [0.0, -1.0, 1.5, f32::NAN, f32::INFINITY] {
            assert!(Sampling { top_p, ..base }.check().is_err(), "{top_p}");
        }
        for temperature in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(Sampling { temperature, ..base }.check().is_err(), "{temperature}");
        }
        assert!(Sampling { temperature: 0.0, top_p: 1.0, ..base }.check().is_ok());
    }

    #[test]
    fn cuts_and_temperature_do_what_they_say() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let tokens = |s: Sampling| (0..500).map(|i| draw(&logits, &s, i).token).collect::<std::collections::BTreeSet<_>>();
        let base = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        assert_eq!(tokens(base).len(), 4);
        assert_eq!(tokens(Sampling { temperature: 0.0, ..base }), [1].into());
        assert_eq!(tokens(Sampling { top_k: 2, ..base }), [1, 2].into());
        assert_eq!(tokens(Sampling { top_p: 0.5, ..base }), [1].into());
        assert_eq!(draw(&logits, &base, 7), draw(&logits, &base, 7));
    }
}
