//! The checkpoint reads back to the bits that were trained: the held-out loss of what was read is that of what was measured.

use super::{GateResult, Subject, result};
use crate::{
    TrainError,
    eval::{self, Evaluator},
};

pub(super) fn gate(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let recipe = &s.loaded.recipe;
    let model = &*s.loaded.model;
    let micro_batch = crate::step::StepOptions::of(recipe).micro_batch.min(8);
    let evaluator = Evaluator::new(model, micro_batch, recipe.batch.context, s.loaded.precision)?;
    let windows = eval::held_out_windows(s.data, recipe.batch.context, recipe.eval.windows)?;
    let language = model.language().ok_or(TrainError::NotLanguage)?;
    let measured = evaluator.held_out(language, model.params(), &mut s.loaded.store, s.loaded.precision, s.data, &windows)?;
    let again = measured.bits_per_byte;
    s.windows = measured.windows;
    let help = "the disk or memory is at fault: run `hairpin doctor`, and train again from the checkpoint before";
    let passed = again.to_bits() == s.bits_per_byte.to_bits();
    Ok(result("reloads", passed, format!("{again:?} bits per byte"), format!("{:?}, to the bit", s.bits_per_byte), help))
}
