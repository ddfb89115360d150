//! Planning: what a recipe costs on this machine, what loss earlier phases lead to expect, and the ladder that climbs
//! from small to large with a gate at each phase.
//!
//! ```text
//! questions  what a budget buys, what a cluster costs, whether to pretrain at all
//!     ask    simulation (time and memory of a step elsewhere), laws (loss), catalogue (prices, machines, models)
//! ladder     phases laid by the same answers, climbed here, surveyed on the way
//! before     what a step of images waits for: decoding, and frozen models that are asked
//! evidence   published runs that the answers are checked against
//! ```
//!
//! **Invariant:** there is no second model of training here. Memory and FLOPs come from the step itself on `Meta`, time
//! from running that step.

pub mod before;
pub mod catalogue;
pub mod evidence;
pub mod ladder;
pub mod laws;
pub mod questions;
pub mod reference;
pub mod simulation;
pub mod units;

/// What can go wrong while planning or climbing.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PlanError {
    #[error("{origin}: {problem}")]
    #[diagnostic(code(plan::project), help("correct the project file; `hairpin init` writes a good one"))]
    Project { origin: String, problem: String },

    #[error("phase {phase} needs {needed_secs:.0} s more, and {left_secs:.0} s of the budget of {budget_secs:.0} s are left")]
    #[diagnostic(code(plan::budget), help("raise `budget_secs` in the project file, or take steps off the phase"))]
    Budget { phase: usize, needed_secs: f64, left_secs: f64, budget_secs: f64 },

    #[error("phase {phase} `{name}`: {problem}")]
    #[diagnostic(
        code(plan::phase),
        help("{restore}; or `hairpin climb --anew {name}` trains it from its beginning and keeps the old run beside it")
    )]
    Phase { phase: usize, name: String, problem: String, restore: String },

    #[error("what {phases} began from is no more: phase `{ground}` {how}")]
    #[diagnostic(code(plan::stale), help("{help}"))]
    Stale { phases: String, ground: String, how: &'static str, help: String },

    #[error("a phase did not come to its end there: {problem}")]
    #[diagnostic(code(plan::elsewhere), help("{help}"))]
    Elsewhere { problem: String, help: String },

    #[error("there is no phase `{name}`")]
    #[diagnostic(code(plan::no_phase), help("the phases are `{names}`"))]
    NoPhase { name: String, names: String },

    #[error("{problem}")]
    #[diagnostic(code(plan::impossible), help("{relax}"))]
    Impossible { problem: String, relax: String },

    #[error("there is no {kind} called `{name}`")]
    #[diagnostic(code(plan::unknown), help("{near}`hairpin plan list {list}` names all, `--catalogue mine.toml` adds your own"))]
    Unknown { kind: &'static str, name: String, near: String, list: &'static str },

    #[error("{origin}: {problem}")]
    #[diagnostic(code(plan::catalogue), help("write rows as in crates/plan/src/catalogue/*.toml"))]
    Catalogue { origin: String, problem: String },

    #[error("`{text}` {problem}")]
    #[diagnostic(code(plan::unit), help("write it like {example}"))]
    Unit { text: String, problem: String, example: &'static str },

    #[error("{origin}: {problem}")]
    #[diagnostic(code(plan::points), help("give a CSV file with the columns `params`, `tokens` and `loss`, one run a line"))]
    Points { origin: String, problem: String },

    #[error("{origin}: {problem}")]
    #[diagnostic(code(plan::law), help("make it anew: `hairpin plan fit runs.csv --json > law.json`"))]
    Law { origin: String, problem: String },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Train(#[from] train::TrainError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] data::DataError),
}
