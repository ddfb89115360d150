//! Responses to rank: several to each prompt, by one model, written as they are done, so that a run that is stopped goes on.
//!
//! ```json
//! {"prompt": "1 + 1 =", "responses": [" 2", " 3"], "seeds": [7, 8], "model": "b3f1.."}
//! ```

use std::{
    collections::HashSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use engine::mix;
use serde::{Deserialize, Serialize};
use train::{checkpoint, generate::Sampling, run::Loaded};

use crate::{
    AlignError,
    passes::{AT_ONCE, Asked},
    preferences::{Preference, Ranker, RankerKind, lines},
    rollouts::Source,
    rows::{Encoder, Row},
};

/// Responses to one prompt, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Responses {
    pub prompt: String,
    pub responses: Vec<String>,
    /// Of each response's sampling.
    pub seeds: Vec<u64>,
    /// Of the model that wrote them, see [`identity`].
    pub model: String,
    /// `ln p` of each token of each response, where they are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_probs: Vec<Vec<f32>>,
    /// The reward of each, where somebody judged them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<f64>,
}

/// How responses are written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Responses to each prompt.
    pub k: usize,
    /// Tokens of one, at most.
    pub tokens: usize,
    pub sampling: Sampling,
    /// Whether log-probabilities are kept.
    pub log_probs: bool,
}

/// What a model is, wherever it lies: the hash in its newest checkpoint.
/// # Errors
/// When there is no checkpoint.
pub fn identity(run: &Path) -> Result<String, AlignError> {
    let newest = checkpoint::list(run).pop().map_or_else(|| run.to_owned(), |(_, path)| path);
    let path = newest.join("manifest.blake3");
    disk::read_text(&path, 1 << 10).map_err(AlignError::io("read", &path))
}

/// Write `k` responses to each of `prompts` that `out` does not hold yet; false when asked to stop before the last. `done` is told how
/// many prompts have theirs.
/// # Errors
/// When the model cannot write, or the file cannot be written.
pub fn respond(
    loaded: &mut Loaded,
    model: &str,
    prompts: &[String],
    out: &Path,
    options: Options,
    judge: Option<&Source>,
    stop: &AtomicBool,
    mut done: impl FnMut(usize),
) -> Result<bool, AlignError> {
    let encoder = Encoder::new(&loaded.tokenizer_path.clone(), loaded.recipe.batch.context)?;
    let there: HashSet<String> = if out.exists() { read(out)?.into_iter().map(|one| one.prompt).collect() } else { HashSet::new() };
    let mut finished = there.len();
    done(finished);
    let left: Vec<(usize, &String)> = prompts.iter().enumerate().filter(|(_, prompt)| !there.contains(*prompt)).collect();
    for part in left.chunks((AT_ONCE / options.k.max(1)).max(1)) {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        for one in write(loaded, &encoder, model, part, options, judge)? {
            let line = serde_json::to_string(&one).map_err(|e| AlignError::io("write", out)(e.into()))?;
            disk::append_line(out, &line).map_err(AlignError::io("write", out))?;
        }
        finished += part.len();
        done(finished);
    }
    Ok(true)
}

/// Responses to prompts, each with its place among all.
fn write<'a>(
    loaded: &mut Loaded,
    encoder: &Encoder,
    model: &str,
    prompts: &[(usize, &'a String)],
    options: Options,
    judge: Option<&Source>,
) -> Result<Vec<Responses>, AlignError> {
    let seed = |place: usize, i: usize| mix(options.sampling.seed ^ mix((place * options.k + i) as u64 + 1));
    let of_prompt = |(place, prompt): (usize, &'a String)| (0..options.k).map(move |i| (prompt.as_str(), seed(place, i)));
    let asks: Vec<(&str, u64)> = prompts.iter().copied().flat_map(of_prompt).collect();

    let mut asked = Asked::of(loaded);
    let written = asked.write(encoder, &asks, options.tokens, options.sampling)?;
    let rows: Vec<Row> = written.iter().map(|one| one.row.clone()).collect();
    let said = if options.log_probs { asked.say(&rows)? } else { Vec::new() };
    let texts: Vec<(&str, &str)> = written.iter().map(|one| (one.prompt.as_str(), one.response.as_str())).collect();
    let rewards = judge.map_or(Ok(Vec::new()), |judge| judge.score(&texts, &rows))?;
    let of = |(n, (place, prompt)): (usize, &(usize, &String))| {
        let all = n * options.k..(n + 1) * options.k;
        Responses {
            prompt: (*prompt).clone(),
            responses: written[all.clone()].iter().map(|one| one.response.clone()).collect(),
            seeds: (0..options.k).map(|i| seed(*place, i)).collect(),
            model: model.to_owned(),
            log_probs: said.get(all.clone()).map_or_else(Vec::new, |said| said.iter().map(|said| said.log_probs.clone()).collect()),
            rewards: rewards.get(all).map_or_else(Vec::new, <[f64]>::to_vec),
        }
    };
    Ok(prompts.iter().enumerate().map(of).collect())
}

/// All whole lines of a file of responses; a torn last line is what a stop left, and is passed over.
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<Responses>, AlignError> {
    let mut all = Vec::new();
    lines(path, |_, line| {
        all.extend(line.ok().and_then(|line| serde_json::from_str(line).ok()));
        Ok(())
    })?;
    Ok(all)
}

/// Rank responses by a signal or a reward model; responses that score alike are ties.
/// # Errors
/// When it cannot judge.
pub fn rank(all: &[Responses], judge: &Source, name: &str, encoder: &Encoder) -> Result<Vec<Preference>, AlignError> {
    let kind = if judge.is_relative() { RankerKind::Model } else { RankerKind::Signal };
    let by = Ranker { kind, name: name.to_owned() };
    let mut ranked = Vec::with_capacity(all.len());
    for one in all {
        let texts: Vec<(&str, &str)> = one.responses.iter().map(|response| (one.prompt.as_str(), response.as_str())).collect();
        let rows: Option<Vec<Row>> = one
            .responses
            .iter()
            .map(|response| encoder.row(&one.prompt, response).transpose())
            .collect::<Option<Result<_, _>>>()
            .transpose()?;
        let Some(rows) = rows else { continue };
        let scores = judge.score(&texts, &rows)?;
        let made = Preference::of_scores(one.prompt.clone(), one.responses.clone(), &scores, Some(by.clone()));
        ranked.push(Preference { unix_secs: Some(train::clock::unix_secs()), ..made });
    }
    Ok(ranked)
}
