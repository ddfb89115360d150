//! From a recipe to jobs that run somewhere: this machine, a list of hosts, Slurm, SageMaker, Kubernetes.
//!
//! ```text
//! recipes x sweep -> Quote (the planner's) -> Job (data) -> Store (a folder of JSON files)
//!                                                             ^ one writer: Queue --Launcher--> the place
//!                                                             inbox <- launch, stop, resume
//! ```
//! Start at [`queue::Queue::pass`]. What runs at a place is the same binary and the same loop as here. Clusters, queues and scaling are
//! theirs: each place is spoken to through its own client (`sbatch`, `aws`, `kubectl`, `mpirun`), which also finds credentials,
//! so that none of them passes through here.
//!
//! **Invariant:** what is to be sent is written down before it is sent, under a name that the place takes once, and a place is asked
//! before anything is sent a second time: nothing is lost and nothing is launched twice, wherever a kill falls.

pub mod array;
pub mod ask;
pub mod batch;
pub mod cause;
pub mod job;
pub mod keep;
mod on;
pub mod outside;
pub mod places;
pub mod progress;
pub mod queue;
pub mod quote;
pub mod record;
pub mod spare;
pub mod store;
pub mod sweep;
pub mod wake;
pub mod work;

use std::path::{Path, PathBuf};

use cause::Cause;

/// What can go wrong while launching.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LaunchError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(launch::io), help("check that the path exists, that you may use it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("`{text}` names no machines: {problem}")]
    #[diagnostic(
        code(launch::place),
        help("write it like `local`, `hosts:a,b`, `slurm:8`, `sagemaker:ml.p4d.24xlarge:16` or `kubernetes:4`")
    )]
    Place { text: String, problem: String },

    #[error("{place}: {problem}")]
    #[diagnostic(code(launch::option), help("{help}"))]
    Option { place: &'static str, problem: String, help: String },

    #[error("{origin}: {problem}")]
    #[diagnostic(code(launch::sweep), help("write it like `--sweep optim.lr=1e-3,3e-3` or `--sweep seed=1..4`"))]
    Sweep { origin: String, problem: String },

    #[error("there is a job `{name}` already, and it is another one")]
    #[diagnostic(code(launch::name_taken), help("give another `--name`, or none: then the name follows from what the job is"))]
    NameTaken { name: String },

    #[error("there is no job `{name}`")]
    #[diagnostic(code(launch::no_job), help("{near}`hairpin jobs` lists them"))]
    NoJob { name: String, near: String },

    #[error("the name `{name}` {problem}")]
    #[diagnostic(code(launch::name), help("use up to {} small letters, digits and single dashes, a letter first", job::LONGEST_NAME))]
    Name { name: String, problem: &'static str },

    #[error("`{}` is damaged: {problem}", path.display())]
    #[diagnostic(code(launch::damaged), help("mend it by hand, or move its folder away: the place still knows the job by its name"))]
    Damaged { path: PathBuf, problem: String },

    #[error("this would cost {usd:.2} US dollars, and at most {max_usd:.2} are allowed")]
    #[diagnostic(code(launch::budget), help("{relax}raise `--max-usd`, or take fewer steps or machines"))]
    Budget { usd: f64, max_usd: f64, relax: String },

    #[error("{problem}")]
    #[diagnostic(
        code(launch::does_not_fit),
        help("take more or larger machines, or a smaller batch or model; `hairpin plan RECIPE --on INSTANCE:N --search` shows what fits")
    )]
    DoesNotFit { problem: String },

    #[error("nothing was launched: this costs {usd:.2} US dollars, and nobody has said yes")]
    #[diagnostic(code(launch::unconfirmed), help("add `--yes`; `--dry-run` shows what would be sent"))]
    Unconfirmed { usd: f64 },

    #[error("`{program}` is not on this machine, and {place} is reached through it")]
    #[diagnostic(code(launch::client), help("{help}"))]
    Client { program: String, place: &'static str, help: String },

    #[error("`{program}` says: {problem}")]
    #[diagnostic(code(launch::call), help("{}", cause.help()))]
    Call { program: String, problem: String, cause: Cause },

    #[error("{problem}")]
    #[diagnostic(code(launch::contract), help("{help}"))]
    Contract { problem: String, help: String },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] plan::PlanError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Train(#[from] train::TrainError),
}

impl LaunchError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
