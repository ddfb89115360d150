//! What a recipe costs here: memory and FLOPs from `Meta`, time from a few of its own steps.

use serde::Serialize;
use train::{
    TrainError,
    clock::Clock,
    recipe::Recipe,
    run,
    step::{StepCost, StepOptions, Trainer, cost},
};

/// The price of a recipe on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Price {
    pub name: String,
    pub cost: StepCost,
    pub steps: u64,
    pub tokens: u64,
    /// Of the whole run, without what is computed twice.
    pub flops: f64,
    pub step_secs: f64,
    pub secs: f64,
    pub tokens_per_sec: f64,
    pub gflops_per_sec: f64,
}

/// Price `recipe`, whose data has `vocab` tokens.
/// # Errors
/// When the model cannot be.
pub fn price(recipe: &Recipe, vocab: Option<usize>) -> Result<Price, TrainError> {
    let (recipe, model) = run::resolve(recipe, vocab)?;
    let options = StepOptions::of(&recipe);
    let cost = cost(&*model, &options, options.mesh.place(0))?;
    let passes = (recipe.batch.sequences as f64 / options.micro_batch as f64).ceil();
    let (pass_secs, update_secs) = calibrate(&recipe, model, &options)?;
    let step_secs = passes * pass_secs + update_secs;
    let steps = recipe.train.steps;
    let flops = cost.micro_batch_flops as f64 / options.micro_batch as f64 * recipe.batch.sequences as f64 * steps as f64;
    // Held-out passes are a third of a training pass, and each covers `eval.windows` sequences.
    let evals = (steps / recipe.eval.every_steps + 1) as f64;
    let eval_secs = evals * recipe.eval.windows as f64 * pass_secs / options.micro_batch as f64 / 3.0;
    Ok(Price {
        name: recipe.name.clone(),
        cost,
        steps,
        tokens: steps * recipe.step_tokens(),
        flops,
        step_secs,
        secs: steps as f64 * step_secs + eval_secs,
        tokens_per_sec: recipe.step_tokens() as f64 / step_secs,
        gflops_per_sec: flops / steps as f64 / step_secs / 1e9,
    })
}

/// Median seconds of one forward and backward pass, and of one update, after one of each to warm up.
fn calibrate(recipe: &Recipe, model: Box<dyn models::Model>, options: &StepOptions) -> Result<(f64, f64), TrainError> {
    const ROUNDS: usize = 3;
    let (batch, context) = (options.micro_batch, options.context);
    let lanes = vec![vec![model.made_up(0, batch, context)]];
    let mut trainer = Trainer::new(model, StepOptions { lanes: 1, ..options.clone() })?;
    let (mut passes, mut updates) = (Vec::new(), Vec::new());
    for step in 1..=1 + ROUNDS as u64 {
        let clock = Clock::start();
        let gradient = trainer.gradient(step, &lanes, recipe.step_tokens())?;
        let pass = clock.secs();
        trainer.update(step, 1e-6, gradient.norm)?;
        if step > 1 {
            passes.push(pass);
            updates.push(clock.secs() - pass);
        }
    }
    let median = |mut x: Vec<f64>| {
        x.sort_by(f64::total_cmp);
        x[x.len() / 2]
    };
    Ok((median(passes), median(updates)))
}
