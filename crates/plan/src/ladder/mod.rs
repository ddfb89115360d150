//! The ladder of phases: laid as a project file, priced on this machine, climbed phase by phase, and surveyed on the way.

pub mod climb;
mod ground;
pub mod here;
pub mod lay;
pub mod phase_law;
pub mod project;
mod stand;
pub mod survey;
