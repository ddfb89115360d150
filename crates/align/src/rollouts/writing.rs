//! What a policy writes after, and how: the keys of `[objective]` that PPO and GRPO share, prompts, and stored originals.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use train::{TrainError, recipe::Recipe};

use super::source;
use crate::{
    AlignError,
    preferences::lines,
    rows::{Encoder, Row},
};

/// What is written, and who judges: keys of the table `[objective]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writing {
    /// A file of prompts: a text a line, or JSON lines with a `prompt`.
    pub prompts: PathBuf,
    /// Who judges a response.
    pub reward: toml::Table,
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
    /// How the policy is held near the model that it began as.
    #[serde(default)]
    pub kl: Kl,
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
        "response_tokens",
        "temperature",
        "rollouts",
        "inner_epochs",
        "missing_end_penalty",
        "repetition_penalty",
        "pretrain_data",
        "pretrain_coef",
        "kl",
        "originals",
        "held_out_ratio",
    ];

    /// Rows of a sample: a rollout, with pretraining a window of text, and with stored originals one of those.
    #[must_use]
    pub fn rows(&self) -> usize {
        1 + usize::from(self.pretrain_data.is_some()) + usize::from(self.originals.is_some())
    }

    /// Refuse what cannot be, of a recipe with `group` responses to a prompt.
    /// # Errors
    /// Names the key.
    pub fn check(&self, recipe: &Recipe, group: usize) -> Result<(), TrainError> {
        let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        source::options(&self.reward)?;
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
    let (all, identity) = (crate::respond::read(path)?, crate::respond::identity(from)?);
    let (mut kept, mut other) = (Vec::new(), 0);
    for one in &all {
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
    let (all, bad) = prompts_of(&options.prompts)?;
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

/// Prompts of a file: a text a line, or JSON lines with a `prompt`; each once, and how many lines held none.
/// # Errors
/// When it cannot be read.
pub fn prompts_of(path: &Path) -> Result<(Vec<String>, usize), AlignError> {
    let (mut all, mut seen, mut bad) = (Vec::new(), std::collections::HashSet::new(), 0);
    lines(path, |_, line| {
        let prompt = match line {
            Ok(line) if line.starts_with('{') => {
                serde_json::from_str::<serde_json::Value>(line).ok().and_then(|value| value["prompt"].as_str().map(str::to_owned))
            }
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
