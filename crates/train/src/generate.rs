//! Generating text: one token at a time over a cache of keys and values.

use engine::{Device, Inputs, ParamStore, ParamTable, Pool, Precision, Tape};
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
    let pool = Pool::new(Device::Cpu, meta.usage().high_water_bytes + (1 << 20));

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

/// One token; `index` counts draws, so that the text is a function of the seed.
fn draw(logits: &[f32], sampling: &Sampling, index: u64) -> Drawn {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    let log_prob = |token: usize| (f64::from(logits[token] - largest) - total.ln()) as f32;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if sampling.temperature <= 0.0 {
        return Drawn { token: order[0] as u32, log_prob: log_prob(order[0]) };
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let weight = |token: usize| (f64::from(logits[token] - largest) / f64::from(sampling.temperature)).exp();
    let all: f64 = order.iter().map(|t| weight(*t)).sum();
    let mut sum = 0.0;
    let kept = order.iter().take_while(|t| {
        let before = sum;
        sum += weight(**t) / all;
        before < f64::from(sampling.top_p)
    });
    let kept: Vec<(usize, f64)> = kept.map(|t| (*t, weight(*t))).collect();
    let mut point =
        f64::from(kernels::rng::uniform(engine::key(sampling.seed, "sample"), index)) * kept.iter().map(|(_, w)| w).sum::<f64>();
    let chosen = kept.iter().find(|(_, w)| {
        point -= w;
        point < 0.0
    });
    let token = chosen.or(kept.last()).map_or(order[0], |(t, _)| *t);
    Drawn { token: token as u32, log_prob: log_prob(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
