//! Writing text: a token of each of many texts at a time, over a cache of keys and values.

use engine::{
    Inputs, ParamStore, ParamTable, Pool, Precision, Tape,
    ops::{Advance, PAGE_TOKENS, SequenceId},
};
use models::{LanguageModel, Model};
use rayon::prelude::*;
use serde::Serialize;

use crate::{TrainError, clock::Clock, eval::inference};

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

/// One text to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What it follows; not empty.
    pub prompt: Vec<u32>,
    /// How many tokens at most.
    pub count: usize,
    /// The tokens that end it; they are drawn too.
    pub stops: Vec<u32>,
    pub sampling: Sampling,
}

/// A model that writes texts, many at a time: each advances by a token a pass, joins when another has ended, and has the
/// log-probabilities that it would have alone, to rounding.
pub struct Writer<'a> {
    pub language: &'a dyn LanguageModel,
    pub table: &'a ParamTable,
    pub store: &'a mut dyn ParamStore,
    pub precision: Precision,
}

/// A text that is being written.
struct Text {
    /// Of its request.
    index: usize,
    sequence: SequenceId,
    /// Tokens that the model has not read yet.
    unread: Vec<u32>,
    drawn: Vec<Drawn>,
}

impl Writer<'_> {
    /// Write one text; `each` token is told as it comes.
    /// # Errors
    /// Those of [`Writer::write`].
    pub fn write_one(&mut self, request: &Request, mut each: impl FnMut(Drawn)) -> Result<Vec<Drawn>, TrainError> {
        let texts = self.write(std::slice::from_ref(request), 1, |_, drawn| each(drawn))?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// Write a text for each request, `at_once` (at least one) at a time, until one of its stops is drawn or the context is full; `each`
    /// token of a request's is told as it comes. A prompt that begins as the one before it reads only what differs.
    /// # Errors
    /// When a prompt is empty, holds unknown tokens, or is longer than the context; a value of sampling that means nothing.
    pub fn write(
        &mut self,
        requests: &[Request],
        at_once: usize,
        mut each: impl FnMut(usize, Drawn),
    ) -> Result<Vec<Vec<Drawn>>, TrainError> {
        requests.iter().try_for_each(|request| self.check(request))?;
        let at_once = at_once.clamp(1, requests.len().max(1));
        let most_tokens = pass_tokens(at_once, requests.iter().map(|request| request.prompt.len()).max().unwrap_or(1));
        let pool = self.pool(at_once, most_tokens)?;
        let (language, cache, context) = (self.language, self.language.cache(), self.language.context());
        let mut done: Vec<Vec<Drawn>> = vec![Vec::new(); requests.len()];
        let (mut texts, mut next): (Vec<Text>, usize) = (Vec::new(), 0);
        // The prompt that was read last, whole in the cache.
        let mut kept: Option<(&[u32], SequenceId)> = None;
        loop {
            let mut room = most_tokens - texts.iter().map(|text| text.unread.len()).sum::<usize>();
            while let Some(request) = requests.get(next).filter(|_| texts.len() < at_once) {
                let shared = |other: &[u32]| common(other, &request.prompt).min(request.prompt.len() - 1);
                // One that begins as a prompt that this pass reads waits for the next.
                let is_being_read = texts.iter().any(|text| text.drawn.is_empty() && shared(&requests[text.index].prompt) >= PAGE_TOKENS);
                let [begun, begins] = [kept.map_or(0, |(prompt, _)| shared(prompt)), request.prompt.len()];
                if request.count == 0 {
                    next += 1;
                    continue;
                }
                if is_being_read && begun < PAGE_TOKENS || begins - begun > room {
                    break;
                }
                let sequence = match kept {
                    Some((_, kept)) if begun > 0 => cache.fork(kept, begun),
                    _ => cache.begin(),
                };
                room -= begins - begun;
                texts.push(Text { index: next, sequence, unread: request.prompt[begun..].to_vec(), drawn: Vec::new() });
                next += 1;
            }
            if texts.is_empty() {
                return Ok(done);
            }
            let parts: Vec<(SequenceId, usize)> = texts.iter().map(|text| (text.sequence, text.unread.len())).collect();
            let unread: Vec<u32> = texts.iter().flat_map(|text| &text.unread).copied().collect();
            let (advance, inputs) = (cache.advance(&parts), Inputs::new().with_u32("tokens", &[1, unread.len()], unread));
            let mut tape = Tape::new(&pool, self.store, self.table, inference(self.precision));
            let logits = language.next_logits(&mut tape, &inputs, &advance)?;
            let one = |(text, logits): (&Text, &[f32])| draw(logits, &requests[text.index].sampling, text.drawn.len() as u64);
            let drawn: Vec<Drawn> = texts.par_iter().zip(logits.f32s().par_chunks(language.vocab())).map(one).collect();
            for (text, one) in texts.iter_mut().zip(drawn) {
                let request = &requests[text.index];
                if text.drawn.is_empty() && requests.len() > next {
                    let sequence = cache.fork(text.sequence, request.prompt.len());
                    if let Some((_, old)) = kept.replace((&request.prompt, sequence)) {
                        cache.end(old);
                    }
                }
                text.drawn.push(one);
                text.unread = vec![one.token];
                each(text.index, one);
            }
            texts.retain_mut(|text| {
                let (request, count) = (&requests[text.index], text.drawn.len());
                let is_stopped = text.drawn.last().is_some_and(|last| request.stops.contains(&last.token));
                let goes_on = !is_stopped && count < request.count && request.prompt.len() + count <= context;
                if !goes_on {
                    cache.end(text.sequence);
                    done[text.index] = std::mem::take(&mut text.drawn);
                }
                goes_on
            });
        }
    }

    fn check(&self, request: &Request) -> Result<(), TrainError> {
        request.sampling.check()?;
        let wrong = |problem: String, help: &str| Err(TrainError::Value { key: "prompt", problem, help: help.into() });
        let (tokens, context, vocab) = (request.prompt.len(), self.language.context(), self.language.vocab());
        if tokens == 0 || tokens > context {
            return wrong(format!("{tokens} tokens, not 1..={context}"), "give a shorter prompt");
        }
        match request.prompt.iter().find(|token| **token as usize >= vocab) {
            Some(token) => wrong(format!("token {token} is beyond the vocabulary of {vocab}"), "use the model's own tokenizer"),
            None => Ok(()),
        }
    }

    /// Memory for a pass over so many sequences' new tokens.
    fn pool(&self, sequences: usize, tokens: usize) -> Result<Pool, TrainError> {
        let pass = cost(self.language, &mut engine::NoParams, self.table, self.precision, Advance::shape(sequences, tokens))?;
        crate::eval::pool(pass.pool_bytes)
    }
}

/// Prompts that begin together are read in one pass up to so many tokens: enough for products of full speed, and few beside weights.
const READ_TOGETHER: usize = 1024;

/// Tokens of a pass, at most, that writes `at_once` texts to prompts of which this is the `longest`: one prompt always has room beside the
/// texts that are being written.
#[must_use]
pub fn pass_tokens(at_once: usize, longest: usize) -> usize {
    (longest + at_once - 1).max(READ_TOGETHER.min(at_once * longest))
}

/// What a pass that writes costs, told by `Meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PassCost {
    pub flops: u64,
    pub pool_bytes: u64,
}

/// A pass that reads the new tokens of `advance` and gives the next of each sequence.
/// # Errors
/// When shapes do not fit.
pub fn cost(
    language: &dyn LanguageModel,
    store: &mut dyn ParamStore,
    table: &ParamTable,
    precision: Precision,
    advance: Advance,
) -> Result<PassCost, TrainError> {
    let meta = Pool::meta();
    let shapes = Inputs::new().with_u32("tokens", &[1, advance.places().len()], Vec::new());
    let mut tape = Tape::new(&meta, store, table, engine::Options { trace: true, ..inference(precision) });
    language.next_logits(&mut tape, &shapes, &advance)?;
    let flops = tape.events().iter().map(|event| event.flops).sum();
    // Draws take their own room beside the pass.
    Ok(PassCost { flops, pool_bytes: meta.usage().high_water_bytes + (1 << 20) })
}

/// How fast texts are written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WritingRate {
    /// Of all texts together, after their first.
    pub tokens_per_sec: f64,
    /// Of weights, shared by the texts, and of keys and values.
    pub bytes_read_per_token: f64,
}

/// Measure `batch` texts of `tokens` tokens each that follow prompts of 16 made-up tokens, greedily.
/// # Errors
/// Those of [`Writer::write`]; a model that writes no text.
pub fn rate(model: &dyn Model, precision: Precision, batch: usize, tokens: usize) -> Result<WritingRate, TrainError> {
    const PROMPT_TOKENS: usize = 16;
    let (language, table) = (model.language().ok_or(TrainError::NotLanguage)?, model.params());
    let mut store = parallel::Replicated::solo(table, |id| table.initial(id, 1));
    let prompt =
        |i: usize| (0..PROMPT_TOKENS).map(|t| (engine::mix((i * PROMPT_TOKENS + t) as u64) % language.vocab() as u64) as u32).collect();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let requests: Vec<Request> = (0..batch).map(|i| Request { prompt: prompt(i), count: tokens, stops: Vec::new(), sampling }).collect();
    let mut writer = Writer { language, table, store: &mut store, precision };
    // Weights are packed when they are first read.
    writer.write(&[Request { count: 2, ..requests[0].clone() }], 1, |_, _| {})?;
    let (mut clock, mut secs, mut count) = (Clock::start(), 0.0, 0);
    writer.write(&requests, batch, |_, _| {
        count += 1;
        if count == batch {
            clock = Clock::start();
        }
        secs = clock.secs();
    })?;
    let read = |spec: &engine::ParamSpec| spec.kind != engine::ParamKind::Embedding || language.decoder().is_some_and(|config| config.tied);
    let elements: u64 = table.specs().iter().filter(|spec| read(spec)).map(engine::ParamSpec::active_elements).sum();
    let weights = elements as f64 * if precision == Precision::Bf16 { 2.0 } else { 4.0 };
    let middle = (PROMPT_TOKENS + tokens / 2) as f64;
    let kept = language.decoder().map_or(0.0, |config| 8.0 * middle * (config.layers * config.kv_heads * config.head_dim) as f64);
    let tokens_per_sec = (count - batch) as f64 / secs.max(1e-9);
    Ok(WritingRate { tokens_per_sec, bytes_read_per_token: weights / batch as f64 + kept })
}

/// How many tokens two texts begin with alike.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Below this temperature the likeliest token has all the probability that f32 can tell.
const COLD: f32 = 1e-6;
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
    let total = kernels::elementwise::sum_exp(logits, 1.0, largest);
    let log_prob = |token: usize| (f64::from(logits[token] - largest) - total.ln()) as f32;
    if sampling.temperature <= COLD {
        // The first of equal ones.
        let best =
            logits.iter().enumerate().fold(0, |best, (token, logit)| if logit.total_cmp(&logits[best]).is_gt() { token } else { best });
        return Drawn { token: best as u32, log_prob: log_prob(best) };
    }
    let weight = |token: usize| f64::from((logits[token] - largest) / sampling.temperature).exp();
    // A few hundred of the likeliest nearly always hold the share that is wanted; more are put in order only if not.
    let is_cut = (1..logits.len()).contains(&sampling.top_k);
    let most = if is_cut { sampling.top_k } else { logits.len() };
    let mut order = order_of(logits, if is_cut { most } else { FIRST });
    let sum_of = |order: &[usize]| order.iter().map(|t| weight(*t)).sum::<f64>();
    let all = || kernels::elementwise::sum_exp(logits, 1.0 / sampling.temperature, largest);
    let wanted = f64::from(sampling.top_p) * if is_cut { sum_of(&order) } else { all() };
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
