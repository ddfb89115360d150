//! A recipe on rented machines: how long its step takes there and why, what the run costs, and which cluster is cheapest for a
//! deadline.
//!
//! ```text
//! Recipe + instance x nodes -> search (or the recipe's own mesh) -> simulate -> days, dollars, energy, storage
//! ```

use engine::Precision;
use serde::Serialize;
use train::{
    TrainError,
    recipe::{PrecisionChoice, Recipe},
    run,
    step::StepOptions,
};

use crate::{
    PlanError,
    before::Feed,
    catalogue::{Catalogue, Instance, Price},
    simulation::efficiency,
    simulation::hardware::{Cluster, Constants, Numbers},
    simulation::reliability::{self, CHECKPOINT_BYTES_PER_PARAM, Reliability},
    simulation::search::{self, Choice, Found, Settled},
};

/// A recipe's run on a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rented {
    pub name: String,
    pub instance: String,
    pub nodes: usize,
    pub accelerators: usize,
    pub params: u64,
    /// Those that one token reads: all without experts.
    pub active_params: u64,
    pub steps: u64,
    /// What samples are counted in, `tokens` or whole `images` or `pairs`, and how many are seen.
    pub unit: &'static str,
    pub tokens: f64,
    /// What the recipe's own mesh gives, or else the best that was found.
    pub choice: Choice,
    /// Of weights at work, gradients and activations: `bf16`, also where the recipe leaves it to the machine, or `f32`.
    pub precision: &'static str,
    /// Whether the cut is the recipe's own.
    pub is_recipes: bool,
    pub runners_up: Vec<Choice>,
    pub misses: Vec<search::Miss>,
    pub usable_bytes: f64,
    /// Of images: whether the CPUs of the machines make samples as fast as the accelerators learn.
    pub feed: Option<Feed>,
    /// Of a step, in which accelerators wait for samples.
    pub wait_secs: f64,
    pub reliability: Reliability,
    /// Of training alone, and with what stops, restarts and checkpoints take.
    pub training_secs: f64,
    pub secs: f64,
    /// What to expect, between what a tenth of the runs stay below and what a tenth surpass: `secs` times what published runs took
    /// over what was said of them ([`efficiency::errors`]). Dollars and energy are of the middle.
    pub expected_secs: [f64; 3],
    pub price: Price,
    pub usd: f64,
    /// The newest price of each service and term, and the run's dollars by it.
    pub offers: Vec<(Price, f64)>,
    /// Accelerators alone, at their rated power.
    pub energy_kwh: Option<f64>,
    /// Tokens, and three checkpoints, until the end.
    pub storage_bytes: f64,
    pub storage_usd: f64,
}

/// How many checkpoints are kept at a time, and bytes of a token on disk.
const CHECKPOINTS: f64 = 3.0;
const BYTES_PER_TOKEN: f64 = 4.0;
/// Numbers of nodes that divide a batch, looked at beyond the fewest that end in time.
const MOST_EVEN: usize = 2;

/// `recipe` on `accelerators` of as few of `instance` as have them: on the recipe's own mesh where that is as large and nothing is
/// `settled` of a search, and else on the best that is found.
/// # Errors
/// When the model cannot be, or no way to cut it fits: then by how many bytes, and what would help.
pub fn rent(
    recipe: &Recipe,
    catalogue: &Catalogue,
    instance: &Instance,
    accelerators: usize,
    price: &Price,
    settled: Option<&Settled>,
) -> Result<Rented, PlanError> {
    let (resolved, model) = run::resolve(recipe, None)?;
    let params = model.params().elements();
    let (precision, numbers) = numbers(recipe);
    let options = StepOptions { precision, ..StepOptions::of(&resolved) };
    let constants = Constants { numbers, ..Constants::default() };
    let cluster = Cluster::part(catalogue, instance, accelerators)?;
    let (nodes, ranks) = (cluster.topology.nodes, cluster.topology.ranks());
    let build = || -> Result<_, TrainError> { Ok(models::build(&resolved.model)?) };
    let is_recipes = settled.is_none() && options.mesh.ranks() == ranks;
    let found = if is_recipes {
        // All micro-batches of a rank, of however many lanes.
        let lanes = options.lanes * options.passes;
        search::only(&build, &StepOptions { lanes, passes: 1, ..options }, resolved.batch.sequences, &cluster, constants)?
    } else {
        let settled = settled.cloned().unwrap_or_default();
        search::search(&build, &options, resolved.batch.sequences, &cluster, constants, &settled)?
    };
    let Found { mut choices, misses, refusal } = found;
    if choices.is_empty() {
        return Err(search::nothing_fits(&misses, refusal.as_deref(), instance, &cluster, resolved.batch.sequences));
    }
    let choice = choices.remove(0);
    let tokens = (resolved.batch.sequences * resolved.batch.context) as f64 * resolved.train.steps as f64;
    let cores = (instance.vcpus * nodes as u64) as f64;
    let samples = resolved.batch.sequences as u64;
    let feed = vision::reads(&resolved).then(|| Feed::by_catalogue(catalogue, samples, choice.time.step_secs, cores)).transpose()?;
    let wait_secs = feed.as_ref().map_or(0.0, |feed| (feed.secs() - choice.time.step_secs).max(0.0));
    let training_secs = resolved.train.steps as f64 * (choice.time.step_secs + wait_secs);
    let reliability = reliability::usual(params as f64, ranks as f64, nodes as f64)?;
    let secs = training_secs / reliability.goodput_ratio;
    let expected_secs = efficiency::errors().taken_over_said.map(|times| times * secs);
    let paid_secs = expected_secs[1];
    let unit = models::unit(&resolved.model);
    // An image is seen many times, and none has a usual size: what is stored of them is not said.
    let data_bytes = if unit == "tokens" { tokens * BYTES_PER_TOKEN } else { 0.0 };
    let storage_bytes = data_bytes + CHECKPOINTS * CHECKPOINT_BYTES_PER_PARAM * params as f64;
    let usd_per_gb_month = catalogue.storage.first().map_or(0.0, |s| s.usd_per_gb_month);
    let watts = catalogue.accelerator_of(instance)?.watts;
    let usd = |price: &Price| nodes as f64 * price.usd_per_hour * paid_secs / 3600.0;
    Ok(Rented {
        name: resolved.name.clone(),
        instance: instance.name.clone(),
        nodes,
        accelerators: ranks,
        params,
        active_params: model.params().active_elements(),
        steps: resolved.train.steps,
        unit,
        tokens,
        choice,
        precision: if precision == Precision::Bf16 { "bf16" } else { "f32" },
        is_recipes,
        runners_up: choices,
        misses,
        feed,
        wait_secs,
        usable_bytes: cluster.hardware.usable_bytes(),
        reliability,
        training_secs,
        secs,
        expected_secs,
        price: price.clone(),
        usd: usd(price),
        offers: instance.newest_prices().into_iter().map(|price| (price.clone(), usd(price))).collect(),
        energy_kwh: watts.map(|watts| watts * ranks as f64 * paid_secs / 3.6e6),
        storage_bytes,
        storage_usd: storage_bytes / 1e9 * usd_per_gb_month * paid_secs / (30.44 * 86_400.0),
    })
}

/// What an accelerator computes a recipe in. Left to the machine it is 16 bits, whatever this one here would take.
fn numbers(recipe: &Recipe) -> (Precision, Numbers) {
    match recipe.train.precision {
        PrecisionChoice::F32 => (Precision::F32, Numbers::Single),
        PrecisionChoice::Auto | PrecisionChoice::Bf16 => (Precision::Bf16, Numbers::Half),
    }
}

/// The cheapest number of nodes that ends within `deadline_secs`: of the powers of two, and then of those between the best of them and its
/// half, by halves, for fewer machines wait less for one another.
/// # Errors
/// As [`rent`]; [`PlanError::Impossible`] with the soonest end when none is in time.
pub fn cheapest(
    recipe: &Recipe,
    catalogue: &Catalogue,
    instance: &Instance,
    price: &Price,
    deadline_secs: f64,
) -> Result<Rented, PlanError> {
    let count = instance.count.max(1) as usize;
    let most = (recipe.batch.sequences / count).max(1);
    let (mut best, mut soonest, mut refusal): (Option<Rented>, Option<Rented>, Option<PlanError>) = (None, None, None);
    // Fewer nodes could not do the FLOPs in time at the best rate that a product has.
    let (resolved, model) = run::resolve(recipe, None)?;
    let tokens = (resolved.batch.sequences * resolved.batch.context) as f64 * resolved.train.steps as f64;
    let flops = crate::laws::train_flops(model.params().active_elements() as f64, tokens);
    let of_node = Cluster::of(catalogue, instance, 1)?.hardware.attainable_flops * instance.count as f64;
    let least = (efficiency::errors().taken_over_said[1] * flops / of_node / deadline_secs).min((most / 2 + 1) as f64);
    let on = |nodes: usize, settled: Settled| rent(recipe, catalogue, instance, nodes * count, price, Some(&settled));
    let is_in_time = |rented: &Rented| rented.expected_secs[1] <= deadline_secs;
    let powers = (0..).map(|i| 1_usize << i).take_while(|n| *n < most).chain([most]);
    for nodes in powers.skip_while(|n| (*n as f64) < least) {
        // What is twice as large is cheaper only where it saves what a want of memory costs, which is seen without pipelines.
        if let Some(best) = &best
            && !on(nodes, Settled { pipeline: Some(1), ..Settled::default() }).is_ok_and(|more| more.usd < best.usd)
        {
            break;
        }
        match on(nodes, Settled::default()) {
            Ok(rented) => {
                if is_in_time(&rented) && best.as_ref().is_none_or(|best| rented.usd < best.usd) {
                    best = Some(rented.clone());
                }
                if soonest.as_ref().is_none_or(|soonest| rented.secs < soonest.secs) {
                    soonest = Some(rented);
                }
            }
            Err(e) => refusal = Some(e),
        }
    }
    if let Some(power) = best.take() {
        let tensor = Some(power.choice.cut.tensor);
        let power_nodes = power.nodes;
        let [mut late, mut in_time] = [(power_nodes / 2).max((least.ceil() as usize).saturating_sub(1)), power_nodes];
        let mut cheapest = power;
        let mut look = |nodes: usize| {
            let found = on(nodes, Settled { tensor, ..Settled::default() }).ok().filter(is_in_time);
            let is_in_time = found.is_some();
            if let Some(found) = found.filter(|found| found.usd < cheapest.usd) {
                cheapest = found;
            }
            is_in_time
        };
        while late + 1 < in_time {
            let middle = usize::midpoint(late, in_time);
            if look(middle) { in_time = middle } else { late = middle }
        }
        // A few more may share out the batch evenly, where the fewest leave places idle.
        let is_even = |nodes: &usize| resolved.batch.sequences.is_multiple_of(*nodes);
        for nodes in (in_time + 1..power_nodes).filter(is_even).take(MOST_EVEN) {
            look(nodes);
        }
        best = Some(cheapest);
    }
    match (best, soonest, refusal) {
        (Some(best), _, _) => Ok(best),
        (None, Some(soonest), _) => Err(PlanError::Impossible {
            problem: format!("no number of {} ends in {:.1} hours", instance.name, deadline_secs / 3600.0),
            relax: format!(
                "{} nodes end soonest, in {:.1} days: allow `--deadline-days {:.0}`, raise `batch.sequences`, or take a faster instance",
                soonest.nodes,
                soonest.expected_secs[1] / 86_400.0,
                (soonest.expected_secs[1] / 86_400.0).ceil()
            ),
        }),
        (None, None, Some(refusal)) => Err(refusal),
        (None, None, None) => {
            Err(PlanError::Impossible { problem: "there is no cluster to try".into(), relax: "raise `batch.sequences`".into() })
        }
    }
}
