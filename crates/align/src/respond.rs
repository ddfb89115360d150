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
    preferences::{self, Preference, Ranker, RankerKind, lines},
    rollouts::{Group, Source},
    rows::{Encoder, Row, tokenizer_blake3},
    template::Chat,
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
    /// The hash of the tokenizer that they are tokens of, where their log-probabilities are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
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

/// What a model is, wherever it lies, in a folder or at a URL: the hash in its newest checkpoint.
/// # Errors
/// When there is no checkpoint.
pub fn identity(run: &Path) -> Result<String, AlignError> {
    let run = &*checkpoint::here(run)?;
    let newest = checkpoint::list(run).pop().map_or_else(|| run.to_owned(), |(_, path)| path);
    let path = newest.join("manifest.blake3");
    disk::read_text(&path, 1 << 10).map_err(AlignError::io("read", &path))
}

/// Write `k` responses to each of `prompts` that `out` does not hold yet; false when asked to stop before the last. `done` is told how
/// many prompts have theirs.
/// # Errors
/// When the model cannot write, another process writes to the file, or it cannot be written.
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
    let _lock = preferences::one_writer(out)?;
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
pub(crate) fn write<'a>(
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

    let tokenizer = if options.log_probs { Some(tokenizer_blake3(&loaded.tokenizer_path)?) } else { None };
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
            tokenizer: tokenizer.clone(),
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

/// What came of ranking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ranked {
    /// Prompts that are ranked in the file by now.
    pub ranked: usize,
    /// Prompts as long as the context, and prompts that the judge could not judge.
    pub too_long: usize,
    pub without_judgement: usize,
    pub is_stopped: bool,
}

/// Prompts that are ranked between two looks at `stop`.
const RANKED_AT_ONCE: usize = 16;

/// Rank the responses of `all` that this judge, `name`, has not ranked in the file `out` yet, and add them to it as they are judged;
/// responses that score alike are ties. Where `noise` is above 0, draws of that deviation times a Gumbel variable are added to a score:
/// rankings by a Plackett-Luce ranker of that temperature, keyed by `seed`.
/// # Errors
/// When it cannot judge, another process writes to the file, or it cannot be written; what was judged before is in the file.
pub fn rank(
    all: &[Responses],
    judge: &Source,
    name: &str,
    encoder: &Encoder,
    noise: Noise,
    out: &Path,
    stop: &AtomicBool,
    mut done: impl FnMut(usize),
) -> Result<Ranked, AlignError> {
    let kind = if judge.is_relative() { RankerKind::Model } else { RankerKind::Signal };
    let by = Ranker { kind, name: name.to_owned() };
    let _lock = preferences::one_writer(out)?;
    let there: HashSet<String> = match preferences::read(out, &Chat::shown()) {
        Ok(read) => read.all.into_iter().filter(|one| one.by.as_ref() == Some(&by)).map(|one| one.prompt).collect(),
        Err(AlignError::TooFew { .. }) => HashSet::new(),
        Err(AlignError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => HashSet::new(),
        Err(other) => return Err(other),
    };
    let mut told = Ranked { ranked: there.len(), ..Ranked::default() };
    let left: Vec<&Responses> = all.iter().filter(|one| !there.contains(&one.prompt)).collect();
    for part in left.chunks(RANKED_AT_ONCE) {
        done(told.ranked + told.too_long + told.without_judgement);
        if stop.load(Ordering::Relaxed) {
            told.is_stopped = true;
            return Ok(told);
        }
        let (mut of, mut groups) = (Vec::new(), Vec::new());
        for one in part {
            let rows = one.responses.iter().map(|response| encoder.row(&one.prompt, response)).collect::<Result<Option<Vec<Row>>, _>>()?;
            let Some(rows) = rows else {
                told.too_long += 1;
                continue;
            };
            groups.push(Group { prompt: &one.prompt, responses: one.responses.iter().map(String::as_str).collect(), rows });
            of.push(one);
        }
        let mut of = of.into_iter();
        judge.order_each(&groups, &mut |scores| {
            let (Some(one), Some(scores)) = (of.next(), scores) else {
                told.without_judgement += 1;
                return Ok(());
            };
            let scores: Vec<f64> = scores.iter().enumerate().map(|(i, score)| score + noise.draw(&one.prompt, i)).collect();
            let made = Preference::of_scores(one.prompt.clone(), one.responses.clone(), &scores, Some(by.clone()));
            preferences::append(out, &Preference { unix_secs: Some(train::clock::unix_secs()), ..made })?;
            told.ranked += 1;
            Ok(())
        })?;
    }
    Ok(told)
}

/// Of a ranker who errs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    /// In units of the judge's numbers; 0 errs never.
    pub scale: f64,
    pub seed: u64,
}

impl Noise {
    fn draw(&self, prompt: &str, place: usize) -> f64 {
        if self.scale == 0.0 {
            return 0.0;
        }
        let bits = mix(engine::key(self.seed, prompt) ^ mix(place as u64 + 1));
        // From 0 to 1, without either.
        let share = ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        self.scale * -(-share.ln()).ln()
    }
}
