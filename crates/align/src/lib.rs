//! Learning from feedback: responses are ranked by people, models or any digital signal; a reward model learns the rankings; the policy
//! learns the reward, held near the model that it began as.
//!
//! ```text
//! prompts -> respond (k responses each) -> rank (people, a model, a signal) -> preferences
//! preferences -> reward model (objective `reward`)                 or at once `dpo`
//! prompts -> rollouts -> reward - KL -> advantages -> objective `ppo` or `grpo` -> judge: before against after
//! ```
//! Every objective is one file under [`objectives`] that `hairpin train` runs as it runs any recipe: the same loop, strategies,
//! checkpoints and gates. [`register`] makes them known.
//!
//! **Absent on purpose:** a second training loop.

pub mod agreement;
pub mod cost;
pub mod demo;
#[cfg(feature = "chat")]
pub mod endpoint;
mod gates;
pub mod judge;
pub mod naive;
pub mod objectives;
pub mod originals;
#[cfg(feature = "page")]
pub mod page;
pub mod passes;
pub mod preferences;
pub mod respond;
pub mod rollouts;
pub mod rows;
pub mod scorecard;
pub mod signals;
pub mod template;

use std::path::{Path, PathBuf};

/// Make objectives, metrics and gates of this crate known. Calling it again changes nothing.
pub fn register() {
    for metric in objectives::METRICS {
        train::metric::METRICS.add(*metric);
    }
    for kind in objectives::KINDS {
        train::objective::KINDS.add(*kind);
    }
    for gate in gates::GATES {
        train::gate::GATES.add(*gate);
    }
}

/// What can go wrong between prompts and a judged policy.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AlignError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(align::io), help("check that the path exists, that you may use it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("`{}` holds {problem}", path.display())]
    #[diagnostic(code(align::too_few), help("{help}"))]
    TooFew { path: PathBuf, problem: String, help: String },

    #[error("another process is writing to `{}`", path.display())]
    #[diagnostic(code(align::busy), help("wait for it to end, or give another `--out`"))]
    Busy { path: PathBuf },

    #[error("the signal `{name}`: {problem}")]
    #[diagnostic(code(align::signal), help("{help}"))]
    Signal { name: String, problem: String, help: String },

    #[error("the chat template does not render: {problem}")]
    #[diagnostic(code(align::template), help("give a template in Jinja as `chat_template` of `tokenizer_config.json`, or plain prompts"))]
    Template { problem: String },

    #[error("`{}`, {place}: it is a conversation, and the model has no chat template", path.display())]
    #[diagnostic(
        code(align::no_template),
        help("put the model's `chat_template.jinja` beside its `tokenizer.json`, begin with a model that has one, or give plain prompts")
    )]
    NoTemplate { path: PathBuf, place: String },

    #[error("`{}` was made by another model or tokenizer: {problem}", path.display())]
    #[diagnostic(code(align::other_model), help("make it anew with `hairpin align originals`, or give the model that made it"))]
    OtherModel { path: PathBuf, problem: String },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Train(#[from] train::TrainError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Checkpoint(#[from] train::checkpoint::CheckpointError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] data::DataError),
}

impl AlignError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// In a feed, what befell it stops the training that asks for it.
impl From<AlignError> for train::TrainError {
    fn from(error: AlignError) -> Self {
        match error {
            AlignError::Train(error) => error,
            AlignError::Data(error) => Self::Data(error),
            AlignError::Checkpoint(error) => error.into(),
            AlignError::Io { action, path, source } => Self::Io { action, path, source },
            other => {
                let help = miette::Diagnostic::help(&other).map_or_else(String::new, |help| help.to_string());
                Self::Value { key: "objective", problem: other.to_string(), help }
            }
        }
    }
}
