//! What phases that learn from feedback have to be better than: of rankings, ordering by length alone; of policies and fine-tuned models, the
//! model that they began as, on the same held-out samples.

use engine::{Array, ops::IGNORE};
use train::{
    TrainError,
    eval::{Evaluator, HeldOut, SampleLoss},
    feed::Feed,
    objective::{self, OfModel},
    recipe::Recipe,
    run,
};

use crate::objectives::{RANKING_ACCURACY, beginning};

/// What is naive on the held-out samples of `feed`, and whose that is.
/// # Errors
/// When the model that `recipe` begins with cannot be read, or samples cannot.
pub fn baseline(recipe: &Recipe, feed: &dyn Feed) -> Result<(HeldOut, &'static str), TrainError> {
    if matches!(objective::name(recipe), "reward" | "dpo") {
        return Ok((by_length(feed)?, "of length alone"));
    }
    let mut base = run::load(beginning(recipe)?)?;
    let whose = "of the model that it began as";
    if let Some(judged) = feed.judge(&*base.model, &mut base.store, base.precision)? {
        return Ok((judged, whose));
    }
    let evaluator = Evaluator::new(&*base.model, &OfModel, recipe.batch.micro_batch.min(8), recipe.batch.context, base.precision)?;
    Ok((evaluator.held_out(&*base.model, &OfModel, &mut base.store, base.precision, feed)?, whose))
}

/// Share of the pairs of held-out rankings of which the longer response, in tokens, is the better; equal lengths are half right.
fn by_length(feed: &dyn Feed) -> Result<HeldOut, TrainError> {
    let mut samples = Vec::new();
    for sample in 0..feed.held_out() {
        let inputs = feed.held_out_inputs(sample..sample + 1)?;
        let Array::U32(dims, targets) = inputs.get("targets")? else { return Err(TrainError::NotLanguage) };
        let seq = dims.last().max(1);
        let lengths: Vec<usize> = targets.chunks(seq).map(|row| row.iter().filter(|target| **target != IGNORE).count()).collect();
        // Of a pair without ranks the first is the better.
        let ranks = match inputs.get("ranks") {
            Ok(Array::U32(_, ranks)) => ranks.clone(),
            _ => (0..lengths.len() as u32).collect(),
        };
        let lengths: Vec<f64> = lengths.into_iter().map(|length| length as f64).collect();
        samples.push(SampleLoss { loss: crate::objectives::reward::ordered_right(&lengths, &ranks), weight: 1 });
    }
    Ok(HeldOut::of(&RANKING_ACCURACY, samples))
}
