//! Planning: what a recipe costs on this machine, what loss earlier phases lead to expect, and the ladder that climbs
//! from small to large with a gate at each phase.
//!
//! **Invariant:** there is no second model of training here. Memory and FLOPs come from the step itself on `Meta`, time
//! from running that step.

pub mod climb;
pub mod law;
pub mod machine;
pub mod project;
pub mod simulate;

/// What can go wrong while planning or climbing.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PlanError {
    #[error("{origin}: {problem}")]
    #[diagnostic(code(plan::project), help("correct the project file; `hairpin init` writes a good one"))]
    Project { origin: String, problem: String },

    #[error("phase {phase} needs {needed_secs:.0} s more, and {left_secs:.0} s of the budget of {budget_secs:.0} s are left")]
    #[diagnostic(code(plan::budget), help("raise `budget_secs` in the project file, or take steps off the phase"))]
    Budget { phase: usize, needed_secs: f64, left_secs: f64, budget_secs: f64 },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Train(#[from] train::TrainError),

    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] data::DataError),
}
