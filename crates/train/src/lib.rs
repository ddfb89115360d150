//! Training: from a recipe to a checkpoint that can be trusted.
//!
//! ```text
//! Recipe -> Run: Feed -> Trainer::step (lanes x micro-batches -> tree -> clip -> optimiser) -> metrics
//!                -> [eval] -> [checkpoint] -> gate -> ledger
//! ```
//! Start at [`run::train`]. One whole step is [`step::Trainer`], which planning and benchmarks run too.
//!
//! **Invariant:** the bits after step `n` depend on the recipe, the data and the seed; not on threads, crashes or
//! resumes. **Absent on purpose:** scaling laws (a gate is handed its interval), launching, printing.

mod asynchronous;
pub mod checkpoint;
pub mod clock;
mod cost;
mod dial;
pub mod eval;
pub mod feed;
pub mod gate;
pub mod generate;
pub mod guard;
mod held_out;
pub mod hf;
pub mod ledger;
mod links;
pub mod measure;
pub mod metric;
pub mod metrics;
pub mod objective;
pub mod optim;
mod options;
mod passes;
pub mod ranks;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod step;
pub mod tensorboard;
pub mod timeline;

use std::path::{Path, PathBuf};

/// What can go wrong while training, with what to do about it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TrainError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(train::io), help("check that the path exists, that you may use it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{origin}: {problem}")]
    #[diagnostic(
        code(train::recipe),
        help("correct the recipe; `hairpin recipe` lists every key, `hairpin recipe optim` those of a table")
    )]
    Recipe { origin: String, problem: String },

    #[error("{key}: {problem}")]
    #[diagnostic(code(train::value), help("{help}"))]
    Value { key: &'static str, problem: String, help: String },

    #[error("the data holds {have} windows of {context} tokens in its first {percent}%, and one batch takes {need}")]
    #[diagnostic(
        code(train::small_corpus),
        help("give more text, a larger `data.fraction`, or a smaller `batch.sequences` or `batch.context`")
    )]
    SmallCorpus { have: u64, need: u64, context: usize, percent: f64 },

    #[error("another run is at work in `{}`", folder.display())]
    #[diagnostic(code(train::locked), help("wait for it to end, or give another `--out`"))]
    Locked { folder: PathBuf },

    #[error("`{}` already holds a run at step {step}", folder.display())]
    #[diagnostic(code(train::exists), help("continue it with `--resume`, or give another `--out`"))]
    Exists { folder: PathBuf, step: u64 },

    #[error("`{}` holds a run of another recipe: {difference}", folder.display())]
    #[diagnostic(code(train::other_recipe), help("resume with the recipe that is kept beside it, or begin another run with its weights: `--from {}` and another `--out`", folder.display()))]
    OtherRecipe { folder: PathBuf, difference: String },

    #[error("the weights in `{}` do not fit this run: {problem}", path.display())]
    #[diagnostic(code(train::other_weights), help("{help}"))]
    OtherWeights { path: PathBuf, problem: String, help: String },

    #[error("a step needs {} of memory, and {} are free to this process", amount(*need_bytes), amount(*free_bytes))]
    #[diagnostic(
        code(train::memory),
        help(
            "use a smaller `batch.micro_batch`, `batch.context` or model, or `train.recompute = true`; `hairpin plan` tells what each takes"
        )
    )]
    Memory { need_bytes: u64, free_bytes: u64 },

    #[error("the data in `{}` are not those of the run in `{}`: {difference}", path.display(), folder.display())]
    #[diagnostic(
        code(train::other_data),
        help(
            "point `data.path` at the data that it was trained on, or begin another run with its weights: `--from {}` and another `--out`",
            folder.display()
        )
    )]
    OtherData { folder: PathBuf, path: PathBuf, difference: &'static str },

    #[error("loss at step {step} is {loss}; the batch's samples, the worst first: {}", samples.join(", "))]
    #[diagnostic(code(train::diverged), help("lower `optim.lr`, lengthen `schedule.warmup_steps`, or look at those samples"))]
    Diverged { step: u64, loss: f32, samples: Vec<String> },

    #[error("a rank did not answer at step {step}")]
    #[diagnostic(
        code(train::rank),
        help("look at that rank's own log; checkpoints are whole: go on with `--resume`, on fewer ranks if a machine is gone")
    )]
    Rank { step: u64, source: Box<dyn std::error::Error + Send + Sync> },

    #[error("the model is no language model")]
    #[diagnostic(code(train::no_language), help("this command works on models of text"))]
    NotLanguage,

    #[error("the recipe's model learns from {unit}, and data here is text")]
    #[diagnostic(
        code(train::no_reader),
        help("no reader of {unit} is built yet; `hairpin plan RECIPE --on INSTANCE:NODES` prices the recipe")
    )]
    NoReader { unit: &'static str },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] data::DataError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] models::ModelError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Engine(#[from] engine::EngineError),
}

fn amount(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1000.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
