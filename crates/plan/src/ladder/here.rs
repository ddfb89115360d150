//! What a recipe costs here: memory and FLOPs from `Meta`, time from a few of its own steps.

use comm::{Communicator, Order};
use engine::EngineError;
use serde::Serialize;
use train::{
    TrainError,
    clock::Clock,
    ranks,
    recipe::Recipe,
    run,
    step::{StepCost, StepOptions, Trainer, cost},
};

use crate::before::{self, Before};

/// The price of a recipe on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Price {
    pub name: String,
    /// Of the first rank.
    pub cost: StepCost,
    /// Of all ranks, which are all on this machine, and of what comes before their steps.
    pub memory_bytes: u64,
    pub steps: u64,
    /// What samples are counted in, `tokens` or whole `images` or `pairs`, and how many are seen.
    pub unit: &'static str,
    pub tokens: u64,
    /// Of the whole run, without what is computed twice.
    pub flops: f64,
    pub step_secs: f64,
    /// What a step of images waits for, which `step_secs` has no part of and `secs` has.
    pub before: Option<Before>,
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
    let mesh = options.mesh;
    let costs = (0..mesh.ranks()).map(|rank| cost(&*model, &options, mesh.place(rank))).collect::<Result<Vec<StepCost>, _>>()?;
    let (cost, memory_bytes): (_, u64) = (costs[0], costs.iter().map(StepCost::total_bytes).sum());
    drop(model);
    let probe = ranks::run(&recipe, |comm| probe(&recipe, comm), |comm| probe(&recipe, comm))?;
    let (lanes, passes) = (options.lanes as f64, options.passes as f64);
    let step_secs = probe.rest_secs + lanes * (probe.lane_secs + passes * probe.pass_secs);
    let steps = recipe.train.steps;
    let flops = cost.micro_batch_flops as f64 / options.micro_batch as f64 * recipe.batch.sequences as f64 * steps as f64;
    // Held-out passes are a third of a training pass; each covers `eval.windows` sequences, shared out among the ranks.
    let evals = (steps / recipe.eval.every_steps + 1) as f64;
    let windows = recipe.eval.windows as f64 / mesh.data as f64;
    let eval_secs = evals * windows * probe.pass_secs / options.micro_batch as f64 / 3.0;
    let before = before::here(&recipe, step_secs, evals)?;
    let before_secs = before.as_ref().map_or(0.0, |before| before.open_secs + steps as f64 * before.step_secs);
    Ok(Price {
        name: recipe.name.clone(),
        cost,
        memory_bytes: memory_bytes + before.as_ref().map_or(0, Before::memory_bytes),
        steps,
        unit: models::unit(&recipe.model),
        tokens: steps * recipe.step_tokens(),
        flops,
        step_secs,
        before,
        secs: steps as f64 * step_secs + eval_secs + before_secs,
        tokens_per_sec: recipe.step_tokens() as f64 / step_secs,
        gflops_per_sec: flops / steps as f64 / step_secs / 1e9,
    })
}

/// Seconds that a step is made of.
struct Probe {
    /// A forward and backward pass; in a full pipeline, until the next one is through.
    pass_secs: f64,
    /// What a lane takes besides: its gradient is added to those of others.
    lane_secs: f64,
    /// What a step takes once: filling a pipeline, exchange between ranks, norm, update.
    rest_secs: f64,
}

/// Medians over short steps of the recipe's own ranks, after one to warm up; of what is beyond the shortest, over the differences of
/// each round, so that a machine that is slower for a while is so for both.
fn probe(recipe: &Recipe, mut comm: Box<dyn Communicator>) -> Result<Probe, TrainError> {
    const ROUNDS: std::ops::Range<u64> = 3..15;
    const ENOUGH_SECS: f64 = 2.0;
    // Of steps so long one round tells as much, and somebody waits.
    const LONG_SECS: f64 = 15.0;
    let (mut recipe, model) = run::resolve(recipe, None)?;
    // Without a common step there is none to time: that of the synchronous form takes as long where no worker is slow.
    recipe.parallel.staleness = None;
    let whole = StepOptions::of(&recipe);
    // A pipeline is full from as many micro-batches as it has stages: in lanes, or in passes of a lane where those are few.
    let few = whole.mesh.pipeline.min(whole.lanes);
    // A lane of several passes keeps the gradients of the first, and none of the shortest steps may do without.
    let passes = whole.mesh.pipeline.div_ceil(few).max(2).min(whole.passes);
    let (more, more_passes) = ((2 * few).min(whole.lanes), (2 * passes).min(whole.passes));
    let inputs = whole.objective.made_up(&*model, 0, whole.micro_batch, whole.context);
    let all = comm.split(0).map_err(EngineError::rank)?;
    let mut trainer = Trainer::on_rank(model, StepOptions { lanes: more, passes: more_passes, ..whole }, all)?;
    let begun = Clock::start();
    let (mut least, mut of_lanes, mut of_passes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS.end {
        // All ranks begin together, as each would in a long run, and end together.
        let mut begin = |has_enough: bool| {
            let mut votes = [f32::from(u8::from(has_enough))];
            comm.all_reduce(&mut votes, Order::Any).map_err(EngineError::rank)?;
            Ok::<_, TrainError>(votes[0] > 0.0)
        };
        let (secs, after) = (begun.secs(), round.saturating_sub(1));
        if begin(after >= ROUNDS.start && secs > ENOUGH_SECS || after >= 1 && secs > LONG_SECS)? {
            break;
        }
        let mut step = |lanes: usize, passes: usize| {
            begin(false)?;
            let clock = Clock::start();
            let gradient = trainer.gradient(round + 1, &vec![vec![inputs.clone(); passes]; lanes], recipe.step_tokens())?;
            trainer.update(round + 1, 1e-6, gradient.norm)?;
            Ok::<_, TrainError>(clock.secs())
        };
        if round == 0 {
            // What steps keep is all there afterwards.
            step(more, more_passes)?;
            continue;
        }
        let first = step(few, passes)?;
        least.push(first);
        if more > few {
            of_lanes.push(step(more, passes)? - first);
        }
        if more_passes > passes {
            of_passes.push(step(few, more_passes)? - first);
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    let least = median(least).unwrap_or_default();
    let beyond = |all, number: usize| median(all).map(|secs: f64| secs.max(0.0) / number as f64);
    let (lane, pass) = (beyond(of_lanes, more - few), beyond(of_passes, few * (more_passes - passes)));
    // How much of a lane are its passes is not known where it has no more of them, and need not be.
    let pass_secs = pass.or(lane.map(|lane| lane / passes as f64)).unwrap_or(least / (few * passes) as f64);
    let lane_secs = lane.map_or(0.0, |lane| (lane - passes as f64 * pass_secs).max(0.0));
    let rest_secs = least - few as f64 * (lane_secs + passes as f64 * pass_secs);
    Ok(Probe { pass_secs, lane_secs, rest_secs: rest_secs.max(0.0) })
}
