//! Who judges what a model writes: a reward model of one's own, a digital signal, or a model behind an endpoint.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use train::{TrainError, run::Loaded};

#[cfg(feature = "chat")]
use crate::endpoint::Endpoint;
use crate::{
    AlignError,
    passes::Asked,
    rows::Row,
    signals::{Signal, SignalOptions},
};

/// What a table `[objective.reward]` names.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceOptions {
    /// `kind = "model"`: a run of the objective `reward`, by its `path`.
    Model(PathBuf),
    /// `kind = "signal"`: see [`crate::signals`].
    Signal(SignalOptions),
}

/// Read a table `[objective.reward]`.
/// # Errors
/// When it names neither a model nor a signal, or holds a key that is neither's.
pub fn options(table: &toml::Table) -> Result<SourceOptions, TrainError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Model {
        path: PathBuf,
    }
    let mut rest = table.clone();
    let kind = rest.remove("kind");
    let wrong = |e: toml::de::Error| TrainError::Recipe { origin: "[objective.reward]".into(), problem: e.message().to_owned() };
    match kind.as_ref().and_then(toml::Value::as_str) {
        Some("model") => Ok(SourceOptions::Model(rest.try_into::<Model>().map_err(wrong)?.path)),
        Some("signal") => Ok(SourceOptions::Signal(rest.try_into().map_err(wrong)?)),
        _ => Err(TrainError::Value {
            key: "objective.reward.kind",
            problem: kind.map_or("it is not set".into(), |kind| format!("{kind} is neither")),
            help: "use `kind = \"model\"` with the `path` of a reward model, or `kind = \"signal\"` with its `name`".into(),
        }),
    }
}

/// See the head of this file.
pub enum Source {
    Model(Box<Mutex<Loaded>>),
    Signal(Box<dyn Signal>),
    /// Puts responses in order, and gives no number to one alone.
    #[cfg(feature = "chat")]
    Chat(Box<Endpoint>),
}

/// Responses to one prompt, which are put in order.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    pub prompt: &'a str,
    pub responses: Vec<&'a str>,
    pub rows: Vec<Row>,
}

impl Source {
    /// # Errors
    /// When it cannot be read, or the reward model reads other tokens than `tokenizer_blake3`'s.
    pub fn open(options: &SourceOptions, tokenizer_blake3: &str) -> Result<Self, TrainError> {
        match options {
            SourceOptions::Signal(signal) => Ok(Self::Signal(crate::signals::open(signal)?)),
            SourceOptions::Model(path) => {
                let (loaded, _) = train::run::load_averaged(path)?;
                let has_scalar = loaded.model.language().is_some_and(|language| language.head().has_scalar());
                let wrong = |problem: String, help: &str| Err(TrainError::Value { key: "objective.reward", problem, help: help.into() });
                if !has_scalar {
                    let problem = format!("`{}` does not end in a reward", path.display());
                    return wrong(problem, "give a run of `[objective] kind = \"reward\"`");
                }
                if crate::rows::tokenizer_blake3(&loaded.tokenizer_path)? != tokenizer_blake3 {
                    let problem = format!("`{}` has another tokenizer than the policy", path.display());
                    return wrong(problem, "train the reward model from the same base");
                }
                Ok(Self::Model(Box::new(Mutex::new(loaded))))
            }
        }
    }

    /// Whether it is a model, of whose numbers only differences mean something.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        !matches!(self, Self::Signal(_))
    }

    /// Numbers that put the responses of each group in order; none where the judge gave no judgement.
    /// # Errors
    /// When the judge fails.
    pub fn order(&self, groups: &[Group]) -> Result<Vec<Option<Vec<f64>>>, AlignError> {
        let mut all = Vec::with_capacity(groups.len());
        self.order_each(groups, &mut |numbers| {
            all.push(numbers);
            Ok(())
        })?;
        Ok(all)
    }

    /// The same, told to `each` group after group, as they come: what a judge that fails has judged before is not lost.
    /// # Errors
    /// When the judge fails, or that of `each`.
    pub fn order_each(&self, groups: &[Group], each: &mut dyn FnMut(Option<Vec<f64>>) -> Result<(), AlignError>) -> Result<(), AlignError> {
        #[cfg(feature = "chat")]
        if let Self::Chat(endpoint) = self {
            return endpoint.order(&groups.iter().map(|group| (group.prompt, group.responses.clone())).collect::<Vec<_>>(), each);
        }
        let texts: Vec<(&str, &str)> =
            groups.iter().flat_map(|group| group.responses.iter().map(|response| (group.prompt, *response))).collect();
        let rows: Vec<Row> = groups.iter().flat_map(|group| &group.rows).cloned().collect();
        let mut scores = self.score(&texts, &rows)?.into_iter();
        groups.iter().try_for_each(|group| each(Some(scores.by_ref().take(group.responses.len()).collect())))
    }

    /// The judgement of each response, `texts` being prompts and responses and `rows` their tokens.
    /// # Errors
    /// When the model or the signal cannot judge.
    pub fn score(&self, texts: &[(&str, &str)], rows: &[Row]) -> Result<Vec<f64>, TrainError> {
        match self {
            Self::Signal(signal) => Ok(signal.score(texts)?),
            #[cfg(feature = "chat")]
            Self::Chat(_) => Err(TrainError::Value {
                key: "objective.reward",
                problem: "a model behind an endpoint compares responses, and gives no number to one alone".into(),
                help: "let it rank responses, and train a reward model on the rankings".into(),
            }),
            Self::Model(model) => {
                let said = Asked::of(&mut model.lock().unwrap_or_else(PoisonError::into_inner)).say(rows)?;
                Ok(said.iter().map(|said| f64::from(said.last)).collect())
            }
        }
    }
}
