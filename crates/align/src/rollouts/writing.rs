//! What a policy writes after, and how: the keys of `[objective]` that PPO and GRPO share, prompts, and stored originals.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use train::{TrainError, recipe::Recipe};

use super::source;
use crate::{
    AlignError,
    preferences::lines,
    rows::{Encoder, Row},
    template::{self, Chat},
};

/// What is written, and who judges: keys of the table `[objective]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writing {
    /// A file of prompts: a text a line, or JSON lines with a `prompt`.
    pub prompts: PathBuf,
    /// Who judges a response.
    pub reward: toml::Table,
    /// Who judges responses to held-out prompts, where that is somebody else: a judge that training never sees, by whose word a run may end
    /// (`eval.patience`) and a checkpoint is the best.
    pub gold: Option<toml::Table>,
    /// Tokens of a response, at most.
    #[serde(default = "usual_tokens")]
    pub response_tokens: usize,
    #[serde(default = "one")]
    pub temperature: f32,
    /// Responses of an iteration.
    #[serde(default = "usual_rollouts")]
    pub rollouts: usize,
    /// How often an iteration's rollouts are learnt from.
    #[serde(default = "two")]
    pub inner_epochs: usize,
    /// Taken off the reward of a response without an end.
    #[serde(default)]
    pub missing_end_penalty: f64,
    /// Taken off it times the share of its runs of four tokens that it has had before.
    #[serde(default)]
    pub repetition_penalty: f64,
    /// Prepared text whose next tokens are learnt beside, and how much that counts: eq. 2's `gamma` of arXiv:2203.02155.
    pub pretrain_data: Option<PathBuf>,
    #[serde(default)]
    pub pretrain_coef: f64,
    /// Windows of that text beside each rollout; the weight is shared out among them.
    #[serde(default = "single")]
    pub pretrain_rows: usize,
    /// How the policy is held near the model that it began as.
    #[serde(default)]
    pub kl: Kl,
    /// What the gate of a ladder lets the divergence be at most, in nats a response; default: whatever it is.
    pub kl_most: Option<f64>,
    /// Responses of that model, stored by `hairpin align originals`: for `kl = "stored"`.
    pub originals: Option<PathBuf>,
    #[serde(default = "tenth")]
    pub held_out_ratio: f64,
}

/// By what the divergence of the policy from the model that it began as is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kl {
    /// What both say of each token of the policy's own text: a frozen copy of the original is run on every response.
    #[default]
    PerToken,
    /// What the policy now says of the original's stored responses: their loss is learnt beside, and no copy is run.
    Stored,
}

fn single() -> usize {
    1
}

fn usual_tokens() -> usize {
    48
}

fn one() -> f32 {
    1.0
}

fn usual_rollouts() -> usize {
    64
}

fn two() -> usize {
    2
}

fn tenth() -> f64 {
    0.1
}

impl Writing {
    /// Its keys, which stand among those of the objective.
    pub const KEYS: &[&str] = &[
        "prompts",
        "reward",
        "gold",
        "response_tokens",
        "temperature",
        "rollouts",
        "inner_epochs",
        "missing_end_penalty",
        "repetition_penalty",
        "pretrain_data",
        "pretrain_coef",
        "pretrain_rows",
        "kl",
        "kl_most",
        "originals",
        "held_out_ratio",
    ];

    /// Rows of a sample: a rollout, with pretraining windows of text, and with stored originals one of those.
    #[must_use]
    pub fn rows(&self) -> usize {
        1 + self.windows() + usize::from(self.originals.is_some())
    }

    /// Windows of pretraining text in a sample.
    pub(super) fn windows(&self) -> usize {
        if self.pretrain_data.is_some() { self.pretrain_rows } else { 0 }
    }

    /// Refuse what cannot be, of a recipe with `group` responses to a prompt.
    /// # Errors
    /// Names the key.
    pub fn check(&self, recipe: &Recipe, group: usize) -> Result<(), TrainError> {
        let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        source::options(&self.reward)?;
        self.gold.as_ref().map(source::options).transpose()?;
        let sequences = recipe.batch.sequences;
        if self.rollouts == 0 || !self.rollouts.is_multiple_of(sequences) || group == 0 || !self.rollouts.is_multiple_of(group) {
            let problem = format!("{} are no whole number of batches of {sequences} and of groups of {group}", self.rollouts);
            return wrong("objective.rollouts", problem, "use a multiple of `batch.sequences` and of `objective.group`");
        }
        if !(1..=1 << 12).contains(&self.inner_epochs) {
            return wrong("objective.inner_epochs", format!("{} is not in 1..=4096", self.inner_epochs), "2 or 4 are usual");
        }
        if self.response_tokens == 0 || self.response_tokens >= recipe.batch.context {
            let problem = format!("{} tokens leave no room for a prompt in {}", self.response_tokens, recipe.batch.context);
            return wrong("objective.response_tokens", problem, "use fewer, or a larger `batch.context`");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return wrong("objective.temperature", format!("{} is not above zero", self.temperature), "1.0 is usual");
        }
        if self.originals.is_some() != (self.kl == Kl::Stored) {
            let problem = "stored originals and `kl = \"stored\"` go together, and one of them is not there".into();
            return wrong("objective.originals", problem, "write them with `hairpin align originals`, and set both keys or neither");
        }
        if !(1..=64).contains(&self.pretrain_rows) {
            return wrong("objective.pretrain_rows", format!("{} is not in 1..=64", self.pretrain_rows), "1 is usual; InstructGPT took 8");
        }
        if self.pretrain_data.is_none() && self.pretrain_coef != 0.0 {
            return wrong("objective.pretrain_coef", "there is no text to learn from".into(), "set `objective.pretrain_data`");
        }
        Ok(())
    }
}

/// A stored response, and what its model said of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Original {
    pub row: Row,
    /// `ln p` of the whole response.
    pub log_prob: f64,
}

/// Stored responses of the model in `from`, and what was left out.
pub(super) fn read_originals(path: &Path, from: &Path, encoder: &Encoder) -> Result<(Vec<Original>, Vec<String>), TrainError> {
    let (all, identity) = (crate::originals::read(path)?, crate::respond::identity(from)?);
    let tokenizer = encoder.content(&blake3::Hasher::new())?.tokenizer_blake3;
    let (mut kept, mut other) = (Vec::new(), 0);
    for one in &all {
        if let Some(theirs) = one.tokenizer.as_ref().filter(|theirs| **theirs != tokenizer) {
            let problem = format!("its tokenizer is `{}`, and that of the model is `{tokenizer}`", disk::printable_line(theirs));
            return Err(AlignError::OtherModel { path: path.to_owned(), problem }.into());
        }
        if one.model != identity {
            let problem = format!("it is of `{}`, and training begins with `{identity}`", disk::printable_line(&one.model));
            return Err(AlignError::OtherModel { path: path.to_owned(), problem }.into());
        }
        for (response, log_probs) in one.responses.iter().zip(&one.log_probs) {
            let Some(mut row) = encoder.row(&one.prompt, response)? else {
                other += 1;
                continue;
            };
            // One that was cut off has no end.
            if row.response().len() == log_probs.len() + 1 {
                row.tokens.pop();
            }
            if row.response().len() == log_probs.len() && !log_probs.is_empty() {
                kept.push(Original { row, log_prob: log_probs.iter().map(|p| f64::from(*p)).sum() });
            } else {
                other += 1;
            }
        }
    }
    if kept.is_empty() {
        let help = "write them with `hairpin align originals`".into();
        return Err(AlignError::TooFew { path: path.to_owned(), problem: "no response with its log-probabilities".into(), help }.into());
    }
    let told = format!("`{}`: {other} responses are too long or are other tokens when read again, and are left out", path.display());
    Ok((kept, if other > 0 { vec![told] } else { Vec::new() }))
}

/// Prompts that leave room for a response, and what was left out.
pub(super) fn read_prompts(options: &Writing, encoder: &Encoder, context: usize) -> Result<(Vec<String>, Vec<String>), TrainError> {
    let (all, bad) = prompts_of(&options.prompts, &Chat::of(&encoder.tokenizer))?;
    let mut notes = Vec::new();
    if bad > 0 {
        notes.push(format!("`{}`: {bad} lines hold no prompt and are left out", options.prompts.display()));
    }
    let most = context - options.response_tokens;
    let (mut kept, mut long) = (Vec::new(), 0);
    for prompt in all {
        if encoder.prompt(&prompt)?.len() <= most { kept.push(prompt) } else { long += 1 }
    }
    if long > 0 {
        notes.push(format!("`{}`: {long} prompts of more than {most} tokens are left out", options.prompts.display()));
    }
    Ok((kept, notes))
}

/// Prompts of a file: a text a line, or JSON lines with a `prompt`, or a conversation as `prompt` or `messages`, as `chat` writes it; each
/// once, and how many lines held none.
/// # Errors
/// When it cannot be read, or a line is a conversation and there is no template.
pub fn prompts_of(path: &Path, chat: &Chat) -> Result<(Vec<String>, usize), AlignError> {
    let (mut all, mut seen, mut bad) = (Vec::new(), std::collections::HashSet::new(), 0);
    lines(path, |number, line| {
        let prompt = match line {
            Ok(line) if line.starts_with('{') => match serde_json::from_str::<serde_json::Value>(line) {
                Ok(value) => {
                    chat.check(path, &format!("line {number}"), &value)?;
                    prompt(&value, chat)
                }
                Err(_) => None,
            },
            Ok(line) => Some(line.to_owned()),
            Err(_) => None,
        };
        match prompt {
            Some(prompt) if seen.insert(prompt.clone()) => all.push(prompt),
            Some(_) => {}
            None => bad += 1,
        }
        Ok(())
    })?;
    Ok((all, bad))
}

fn prompt(value: &serde_json::Value, chat: &Chat) -> Option<String> {
    if let Some(text) = value["prompt"].as_str() {
        return Some(text.to_owned());
    }
    let key = if value["prompt"].is_array() { "prompt" } else { "messages" };
    let mut messages = template::messages(value, key).ok()?;
    // Of a whole conversation the answer is what is to be written.
    messages.pop_if(|last| last.role == "assistant");
    (!messages.is_empty()).then(|| chat.prompt(&messages).ok()).flatten()
}
