//! What the loop itself keeps in a checkpoint, beside the arrays.

use serde::{Deserialize, Serialize};

use super::course::Course;
use crate::{checkpoint::Manifest, guard::Guard, recipe::Recipe};

/// The loop's own state, kept in checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) guard: Guard,
    pub(super) skipped_steps: u64,
    pub(super) loss: f32,
    /// Of another run, whose optimiser this one goes on with.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) updates_before: u64,
    /// With `eval.patience`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) course: Option<Course>,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Whether the checkpoint of `manifest` is the last of the run of `recipe`: of its last step, or where it ended by itself.
#[must_use]
pub fn is_over(manifest: &Manifest, recipe: &Recipe) -> bool {
    let state: State = serde_json::from_value(manifest.state.clone()).unwrap_or_default();
    manifest.step == recipe.train.steps || state.course.is_some_and(|course| course.has_turned(recipe.eval.patience))
}
