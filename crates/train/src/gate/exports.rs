//! The model leaves and comes back: exported to a Hugging Face folder and imported again, it gives the same logits.

use engine::{Array, Inputs, Precision, Tape};
use parallel::Replicated;

use super::{GateResult, Subject, result};
use crate::{
    TrainError,
    eval::{inference, pool_for},
    hf,
};

pub(super) fn gate(s: &mut Subject<'_>) -> Result<GateResult, TrainError> {
    let folder = s.folder.join("export");
    hf::export(&s.loaded, s.feed.tokenizer().ok_or(TrainError::NotLanguage)?, &folder, hf::Format::default())?;
    let imported = hf::import(&folder)?;
    let model = models::build(&imported.model)?;
    let table = model.params();
    let values = table.specs().iter().map(|spec| imported.values(&spec.name)).collect::<Result<Vec<_>, _>>()?;
    let mut values = values.into_iter();
    let mut store = Replicated::solo(table, |_| values.next().unwrap_or_default());
    let context = s.loaded.recipe.batch.context.min(64);
    let held_out = s.feed.held_out_inputs(0..1)?;
    let Array::U32(_, tokens) = held_out.get("tokens")? else { return Err(TrainError::NotLanguage) };
    let tokens = &tokens[..context.min(tokens.len())];
    let ours = logits(&*s.loaded.model, &mut s.loaded.store, tokens)?;
    let theirs = logits(&*model, &mut store, tokens)?;
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let help = "the exported folder does not hold what was trained: report it, with the recipe";
    Ok(result("exports", worst == 0.0, format!("logits within {worst:.1e}"), "equal logits".into(), help))
}

fn logits(model: &dyn models::Model, store: &mut Replicated, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
    let language = model.language().ok_or(TrainError::NotLanguage)?;
    let inputs = Inputs::new().with_u32("tokens", &[1, tokens.len()], tokens.to_vec());
    let pool = pool_for(language, model.params(), Precision::F32, &inputs, |language, tape, inputs| language.logits(tape, inputs))?;
    let mut tape = Tape::new(&pool, store, model.params(), inference(Precision::F32));
    Ok(language.logits(&mut tape, &inputs)?.f32s().to_vec())
}
