//! The checkpoint reads back to the bits that were trained: the held-out loss of what was read is that of what was measured.

use super::{GateResult, Subject, result};
use crate::{TrainError, eval::Evaluator, step::StepOptions};

pub(super) fn gate(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let (model, objective, recipe) = (&*s.loaded.model, &*s.loaded.objective, &s.loaded.recipe);
    let micro_batch = StepOptions::of(recipe).micro_batch.min(8);
    let evaluator = Evaluator::new(model, objective, micro_batch, recipe.batch.context, s.loaded.precision)?;
    let measured = evaluator.held_out(model, objective, &mut s.loaded.store, s.loaded.precision, s.feed)?;
    let (again, before) = (measured.metric, s.held_out.metric);
    s.held_out.samples = measured.samples;
    let help = "the disk or memory is at fault: run `hairpin doctor`, and train again from the checkpoint before";
    let passed = again.value.to_bits() == before.value.to_bits();
    Ok(result("reloads", passed, format!("{:?} {}", again.value, again.kind.unit), format!("{:?}, to the bit", before.value), help))
}
