//! What a step on several ranks is made of: what it computes, what it exchanges, and how much of one hides behind the
//! other. Each is run alone on all ranks at once, then the step as it is.

use comm::Communicator;
use engine::{BlockId, Device, EngineError, ParamId, ParamTable, PassAt};
use parallel::{Build, Strategy};
use serde::Serialize;

use crate::{
    TrainError,
    clock::Clock,
    recipe::{Parallel, Recipe},
    run,
    step::{StepOptions, Trainer},
};

/// Medians over rounds, as one rank saw them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTimes {
    pub step_secs: f64,
    /// The same batch without other ranks.
    pub compute_secs: f64,
    /// Everything that the strategy moves in a step, without computing.
    pub exchange_secs: f64,
    /// Of a step, in which this rank had nothing to compute and waited for what others sent.
    pub exposed_secs: f64,
    /// That left this rank's machine (or container) in an exchange, as its network interfaces count: all its ranks, with
    /// headers. `None` where the system does not tell.
    pub exchange_sent_bytes: Option<u64>,
    pub tokens_per_sec: f64,
    pub params: u64,
}

impl StepTimes {
    /// Of what could hide, the share that did: 1 when a step takes no longer than the longer of its two sides. What the
    /// exchange takes of the cores, and so of compute, counts as not hidden.
    #[must_use]
    pub fn hidden_share(&self) -> f64 {
        (self.compute_secs + self.exchange_secs - self.step_secs) / self.compute_secs.min(self.exchange_secs)
    }

    /// The same by what this rank waited for, whatever the exchange takes of the cores: what a machine would see whose network
    /// needs none of them.
    #[must_use]
    pub fn covered_share(&self) -> f64 {
        (self.exchange_secs - self.exposed_secs) / self.compute_secs.min(self.exchange_secs)
    }
}

/// Measure `rounds` steps of `recipe` on made-up tokens, as one rank of `comm`; all ranks call it.
/// # Errors
/// When shapes do not fit, or a rank does not answer.
pub fn step_times(recipe: &Recipe, mut comm: Box<dyn Communicator>, rounds: usize) -> Result<StepTimes, TrainError> {
    let (ranks, rounds) = (comm.ranks(), rounds.max(1));
    let (recipe, model) = run::resolve(recipe, None)?;
    let options = StepOptions::of(&recipe);
    options.needs_common_step()?;
    let table = model.params().clone();

    let whole = comm.split(0).map_err(EngineError::rank)?;
    let mut value = |id: ParamId| table.initial(id, options.seed);
    let build = Build { table: &table, device: Device::Cpu, order: options.order, comm: whole, shards: options.shards, value: &mut value };
    let mut store = (options.strategy.build)(build).map_err(EngineError::rank)?;
    let mut sent_bytes = Vec::new();
    let mut exchange_secs = Vec::new();
    for _ in 0..=rounds {
        store.sum(&mut [0.0])?;
        let (before, clock) = (sent_by_machine(), Clock::start());
        exchange(&mut *store, &table, options.lanes)?;
        let secs = clock.secs();
        // The counters of all ranks of this machine stand still once all ranks are here.
        store.sum(&mut [0.0])?;
        sent_bytes.extend(before.and_then(|before| Some(sent_by_machine()? - before)));
        exchange_secs.push(secs);
    }
    sent_bytes.sort_unstable();
    let exchange_sent_bytes = sent_bytes.get(sent_bytes.len() / 2).copied();
    drop(store);

    let whole = comm.split(0).map_err(EngineError::rank)?;
    let mut trainer = Trainer::on_rank(model, options, whole)?;
    let [step_secs, exposed_secs] = step(&mut trainer, &recipe, &mut *comm, rounds)?;
    drop(trainer);

    let mut alone = recipe.clone();
    (alone.batch.sequences, alone.batch.lanes, alone.parallel) =
        (recipe.batch.sequences / ranks, recipe.batch.lanes / ranks, Parallel::default());
    let (alone, model) = run::resolve(&alone, None)?;
    let mut trainer = Trainer::new(model, StepOptions::of(&alone))?;
    let [compute_secs, _] = step(&mut trainer, &alone, &mut *comm, rounds)?;

    Ok(StepTimes {
        step_secs,
        compute_secs,
        exchange_secs: median(exchange_secs),
        exposed_secs,
        exchange_sent_bytes,
        tokens_per_sec: recipe.step_tokens() as f64 / step_secs,
        params: table.elements(),
    })
}

/// Median seconds of a step of `recipe` on made-up samples, and those in which it waited for others, over `rounds` after one that does
/// not count; all ranks of `comm` call it. They begin together, as each would in a long run.
/// # Errors
/// When shapes do not fit, or a rank does not answer.
pub fn step(trainer: &mut Trainer, recipe: &Recipe, comm: &mut dyn Communicator, rounds: usize) -> Result<[f64; 2], TrainError> {
    let b = &recipe.batch;
    let each = b.sequences / b.lanes;
    let micro_batch = b.micro_batch.min(each);
    let made_up = |first, batch| trainer.options().objective.made_up(trainer.model(), first, batch, b.context);
    let lane = |lane: usize| {
        let starts = (0..each).step_by(micro_batch);
        starts.map(|start| made_up(lane * each + start, micro_batch.min(each - start))).collect::<Vec<_>>()
    };
    let lanes: Vec<_> = trainer.lanes().into_iter().map(lane).collect();
    let waited = |trainer: &Trainer| trainer.traffic().iter().map(|(_, traffic)| traffic.exposed_secs).sum::<f64>();
    let (mut secs, mut exposed_secs) = (Vec::new(), Vec::new());
    for round in 1..=rounds as u64 + 1 {
        comm.all_reduce(&mut [0.0], comm::Order::Any).map_err(EngineError::rank)?;
        let (before, clock) = (waited(trainer), Clock::start());
        let gradient = trainer.gradient(round, &lanes, recipe.step_tokens())?;
        trainer.update(round, 0.1, gradient.norm)?;
        secs.push(clock.secs());
        exposed_secs.push(waited(trainer) - before);
    }
    Ok([median(secs), median(exposed_secs)])
}

/// What a step asks of its strategy, without the work between.
fn exchange(store: &mut dyn Strategy, table: &ParamTable, lanes: usize) -> Result<(), EngineError> {
    store.begin_step();
    let blocks = || (0..table.blocks().len()).map(BlockId);
    for lane in 0..lanes {
        store.begin_pass(PassAt { ends_step: lane + 1 == lanes, ..PassAt::ONLY });
        for block in blocks() {
            store.gather(block)?;
            store.release(block);
        }
        for block in blocks().rev() {
            store.gather(block)?;
            for param in table.ids().filter(|id| table.spec(*id).block == block) {
                let grad = store.take_grad(param);
                store.put_grad(param, grad);
                store.reduce(param)?;
            }
            store.release(block);
        }
        store.end_pass()?;
    }
    store.end_step()?;
    store.publish()
}

/// The first round does not count.
fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.remove(0);
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// Bytes that have left this machine, or this container, over all its interfaces but the one to itself.
fn sent_by_machine() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    let sent = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let sent: u64 = counts.split_whitespace().nth(8)?.parse().ok()?;
        (name.trim() != "lo").then_some(sent)
    };
    Some(table.lines().filter_map(sent).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_on_two_ranks_is_taken_apart() {
        let text = "[model]\ndepth = 2\nvocab = 97\ncontext = 16\n[batch]\nsequences = 4\nlanes = 4\ncontext = 16\n\
                    [parallel]\nranks = 2\nstrategy = \"zero3\"\n";
        let recipe = Recipe::parse(text, "test", &[]).unwrap();
        let work = |comm| step_times(&recipe, comm, 3);
        let times = crate::ranks::run(&recipe, work, work).unwrap();
        assert!(times.exchange_secs > 0.0 && times.compute_secs > 0.0 && times.step_secs > 0.0, "{times:?}");
        assert!((times.tokens_per_sec * times.step_secs - 64.0).abs() < 1e-6);
    }
}
