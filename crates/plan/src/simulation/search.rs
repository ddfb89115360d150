//! The best mesh and strategy for a model on a cluster: every way to cut it is simulated, and what does not fit says by how
//! much.
//!
//! ```text
//! tensor x pipeline x data x strategy -> the largest micro-batch that fits, with and without recomputing -> simulate -> sort
//! ```
//! Steps of many micro-batches are looked at over a few first, since each more costs the same; what is told is then run whole, for
//! where memory lies in a pipeline depends on all micro-batches before. A batch that the ranks do not divide leaves places of a step
//! idle: they take their time and count for nothing ([`Cut::idle_sequences`]).
//! Where an answer needs many searches ([`quick`]) pipelines are left out, and of many blocks, which are all alike, a few tell.

use std::sync::Mutex;

use comm::Order;
use models::Model;
use parallel::{Kind, mesh::Mesh, pipeline::Schedule};
use serde::Serialize;
use train::{TrainError, step::StepOptions};

use crate::{
    PlanError,
    catalogue::Instance,
    simulation::hardware::{Cluster, Constants},
    simulation::step::{self as simulate, StepTime},
};

/// What is settled before the search; the rest is its choice.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// How many choices are told: the best alone, or its runners-up too. Each costs a whole step.
    pub told: usize,
    pub tensor: Option<usize>,
    pub pipeline: Option<usize>,
    pub strategy: Option<&'static str>,
    pub shards: Option<usize>,
    pub chunks: Option<usize>,
    pub micro_batch: Option<usize>,
    pub recompute: Option<bool>,
    /// Only what a recipe can name: a power of two of ranks that see other data.
    pub is_for_recipe: bool,
}

/// How a model is cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cut {
    pub tensor: usize,
    pub pipeline: usize,
    pub data: usize,
    pub strategy: &'static str,
    /// Ranks that hold one copy together.
    pub shards: usize,
    /// Runs of blocks on each stage.
    pub chunks: usize,
    pub micro_batch: usize,
    /// Micro-batches of each rank in a step.
    pub lanes: usize,
    /// Of the places that all ranks' micro-batches have in a step, those that no sequence fills.
    pub idle_sequences: usize,
    pub recompute: bool,
}

impl Cut {
    /// Of the places in a step, the share that sequences fill.
    #[must_use]
    pub fn filled_ratio(&self) -> f64 {
        let places = self.data * self.lanes * self.micro_batch;
        (places - self.idle_sequences) as f64 / places as f64
    }

    /// With so many micro-batches on each rank that `sequences` find a place.
    fn of_batch(self, micro_batch: usize, sequences: usize) -> Self {
        let lanes = sequences.div_ceil(self.data).div_ceil(micro_batch);
        Self { micro_batch, lanes, idle_sequences: self.data * lanes * micro_batch - sequences, ..self }
    }
}

/// A cut that fits, and its step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub cut: Cut,
    pub time: StepTime,
    pub limit: &'static str,
}

/// A cut that does not fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Miss {
    pub cut: Cut,
    /// Beyond what an accelerator has.
    pub over_bytes: f64,
    /// The kind that takes most.
    pub largest: &'static str,
}

/// Fastest first, and what fits least badly first; of both as many as are worth telling.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Found {
    pub choices: Vec<Choice>,
    pub misses: Vec<Miss>,
    /// Why the model allows one of the other cuts not.
    pub refusal: Option<String>,
}

/// The best and its runners-up, and as many misses.
pub const TOLD: usize = 9;
const MOST_SEQUENCES: usize = 16;
const MOST_STAGES: usize = 16;
const FEW_ROUNDS: usize = 16;

/// Layers that stand for many.
const FEW_LAYERS: [usize; 2] = [3, 5];

type Build<'a> = dyn Fn() -> Result<Box<dyn Model>, TrainError> + Sync + 'a;

/// Search for steps of `sequences`; `base` gives context, precision and optimiser.
/// # Errors
/// When the model cannot be built.
pub fn search(
    build: &Build<'_>,
    base: &StepOptions,
    sequences: usize,
    cluster: &Cluster,
    constants: Constants,
    settled: &Settled,
) -> Result<Found, TrainError> {
    let look = Look { build, base, cluster, constants, sketch: None };
    let mut found = look.all(cuts(&*build()?, sequences, cluster, settled), sequences, settled)?;
    let mut wholes: Vec<Cut> = Vec::new();
    loop {
        let is_glanced = |choice: &Choice| !wholes.contains(&choice.cut);
        let glanced: Vec<Choice> = found.choices.iter().take(settled.told.max(1)).filter(|choice| is_glanced(choice)).cloned().collect();
        if glanced.is_empty() {
            break;
        }
        wholes.extend(glanced.iter().map(|choice| choice.cut));
        found.choices.retain(|choice| !glanced.contains(choice));
        for choice in look.wholes(glanced)? {
            match look.miss(choice.cut, &choice.time) {
                Some(miss) => found.misses.push(miss),
                None => found.choices.push(choice),
            }
        }
        sort(&mut found);
    }
    found.choices.truncate(settled.told.max(1));
    found.misses.truncate(TOLD);
    Ok(found)
}

/// The best cut without a pipeline, soon; `build` makes the model with so many layers, or with its own. The first choice is of
/// the whole model, those after it are of a few layers and what each more adds.
/// # Errors
/// When the model cannot be built.
pub fn quick(
    build: &(dyn Fn(Option<usize>) -> Result<Box<dyn Model>, TrainError> + Sync),
    base: &StepOptions,
    sequences: usize,
    cluster: &Cluster,
    constants: Constants,
) -> Result<Found, TrainError> {
    let whole = || build(None);
    let model = whole()?;
    let blocks = model.params().blocks().len();
    let few: [&Build<'_>; 2] = [&|| build(Some(FEW_LAYERS[0])), &|| build(Some(FEW_LAYERS[1]))];
    // Beside its layers a decoder has a block before them and one after.
    let layers = blocks.saturating_sub(2);
    let sketch = (layers > FEW_LAYERS[1]).then_some(Sketch { layers, few });
    let settled = Settled { pipeline: Some(1), ..Settled::default() };
    let look = Look { build: &whole, base, cluster, constants, sketch };
    let mut found = look.all(cuts(&*model, sequences, cluster, &settled), sequences, &settled)?;
    let look = Look { sketch: None, ..look };
    while let Some(first) = found.choices.first_mut() {
        first.time = look.glance(first.cut)?;
        let Some(miss) = look.miss(first.cut, &first.time) else { break };
        found.choices.remove(0);
        found.misses.push(miss);
    }
    Ok(found)
}

/// All ways to cut `model` over the cluster that `settled` leaves open; micro-batches are chosen later.
fn cuts(model: &dyn Model, sequences: usize, cluster: &Cluster, settled: &Settled) -> Vec<Cut> {
    let (blocks, is_whole) = (model.params().blocks().len(), model.is_whole());
    let ranks = cluster.topology.ranks();
    let powers = |most: usize| (0..).map(|i| 1 << i).take_while(move |n| *n <= most);
    let tensors: Vec<usize> = settled.tensor.map_or_else(|| powers(cluster.topology.devices.min(8)).collect(), |n| vec![n]);
    let pipelines = |tensor: usize| -> Vec<usize> {
        let all: Vec<usize> = (1..=MOST_STAGES).filter(|n| ranks.is_multiple_of(tensor * n)).collect();
        // Of many, the powers of two tell enough.
        let few = all.len() <= 5;
        settled
            .pipeline
            .map_or_else(|| all.into_iter().filter(|n| few || settled.is_for_recipe || n.is_power_of_two()).collect(), |n| vec![n])
    };
    let mut cuts = Vec::new();
    for (tensor, pipeline) in tensors.iter().flat_map(|t| pipelines(*t).into_iter().map(move |p| (*t, p))) {
        let data = ranks / (tensor * pipeline);
        let is_cut = tensor * pipeline > 1;
        let is_named = data.is_power_of_two() || !settled.is_for_recipe;
        let is_shared = ranks.is_multiple_of(tensor * pipeline) && data <= sequences && blocks >= pipeline + 2;
        if !is_shared || !is_named || is_cut && is_whole {
            continue;
        }
        let near = (cluster.topology.devices / tensor).max(1);
        let groups = settled.shards.map_or_else(|| (1..=data / near / 2).map(|n| n * near).collect::<Vec<_>>(), |n| vec![n]);
        let mut ways: Vec<(&str, usize)> = if pipeline > 1 { vec![("zero1", data)] } else { vec![("zero1", data), ("zero3", data)] };
        if data == 1 {
            ways.truncate(1); // one rank shares with nobody
        }
        if pipeline == 1 {
            let is_group = |n: &usize| *n > 1 && data.is_multiple_of(*n) && (n.is_power_of_two() || !settled.is_for_recipe);
            ways.extend(groups.into_iter().filter(is_group).map(|n| ("mics", n)));
        }
        if let Some(strategy) = settled.strategy {
            ways.retain(|(name, _)| *name == strategy);
            if ways.is_empty() {
                ways.push((strategy, parallel::STRATEGIES.find(strategy).map_or(1, |kind| (kind.shards)(data, data))));
            }
        }
        for (strategy, shards) in ways {
            cuts.push(Cut {
                tensor,
                pipeline,
                data,
                strategy,
                shards,
                chunks: 1,
                micro_batch: 1,
                lanes: 1,
                idle_sequences: 0,
                recompute: false,
            });
        }
    }
    cuts
}

/// The one cut that `options` names, for steps of `sequences`.
/// # Errors
/// When the model cannot be cut so.
pub fn only(
    build: &Build<'_>,
    options: &StepOptions,
    sequences: usize,
    cluster: &Cluster,
    constants: Constants,
) -> Result<Found, TrainError> {
    let mesh = options.mesh;
    let cut = Cut {
        tensor: mesh.tensor,
        pipeline: mesh.pipeline,
        data: mesh.data,
        strategy: options.strategy.name,
        shards: options.shards,
        chunks: options.chunks,
        micro_batch: options.micro_batch,
        lanes: options.lanes,
        idle_sequences: (mesh.data * options.lanes * options.micro_batch).saturating_sub(sequences),
        recompute: options.recompute,
    };
    let time = simulate::step(build, &StepOptions { order: Order::Any, ..options.clone() }, cluster, constants)?.filled(cut.filled_ratio());
    let over_bytes = time.bytes.total() - cluster.hardware.usable_bytes();
    Ok(if over_bytes > 0.0 {
        Found { misses: vec![Miss { cut, over_bytes, largest: largest_kind(&time) }], ..Found::default() }
    } else {
        Found { choices: vec![Choice { cut, limit: limit(&time), time }], ..Found::default() }
    })
}

/// Fastest first; where two are alike, in the order of their cuts, whichever thread was first.
fn sort(found: &mut Found) {
    found.choices.sort_by(|a, b| b.time.tokens_per_sec.total_cmp(&a.time.tokens_per_sec).then_with(|| order(&a.cut).cmp(&order(&b.cut))));
    found.misses.sort_by(|a, b| a.over_bytes.total_cmp(&b.over_bytes).then_with(|| order(&a.cut).cmp(&order(&b.cut))));
}

fn order(cut: &Cut) -> (usize, usize, &'static str, usize, usize, usize, bool) {
    (cut.tensor, cut.pipeline, cut.strategy, cut.shards, cut.micro_batch, cut.chunks, cut.recompute)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Look<'a> {
    build: &'a Build<'a>,
    base: &'a StepOptions,
    cluster: &'a Cluster,
    constants: Constants,
    sketch: Option<Sketch<'a>>,
}

/// The same model with [`FEW_LAYERS`], to stand for one with many.
#[derive(Clone, Copy)]
struct Sketch<'a> {
    layers: usize,
    few: [&'a Build<'a>; 2],
}

impl Look<'_> {
    /// Every cut, over all threads of the machine; sorted.
    fn all(&self, cuts: Vec<Cut>, sequences: usize, settled: &Settled) -> Result<Found, TrainError> {
        let (next, found, refusal) = (Mutex::new(cuts.into_iter()), Mutex::new(Found::default()), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
                scope.spawn(|| {
                    loop {
                        let Some(cut) = lock(&next).next() else { break };
                        // A way to cut that the model does not allow is no candidate; why is told when there is no other.
                        match self.at(cut, sequences, settled) {
                            Ok((choices, miss)) => {
                                let mut found = lock(&found);
                                found.choices.extend(choices);
                                found.misses.extend(miss);
                            }
                            Err(e) => {
                                let mut refusal = lock(&refusal);
                                if refusal.as_ref().is_none_or(|(other, _)| order(&cut) < order(other)) {
                                    *refusal = Some((cut, e));
                                }
                            }
                        }
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match refusal.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            // What is not even possible on ranks that see other data is wrong with the model.
            Some((cut, e)) if found == Found::default() && cut.tensor * cut.pipeline == 1 => return Err(e),
            refusal => found.refusal = refusal.map(|(_, e)| e.to_string()),
        }
        sort(&mut found);
        Ok(found)
    }

    /// Each with its whole step, over all threads of the machine.
    fn wholes(&self, choices: Vec<Choice>) -> Result<Vec<Choice>, TrainError> {
        let (next, wholes) = (Mutex::new(choices.into_iter()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
                scope.spawn(|| {
                    loop {
                        let Some(choice) = lock(&next).next() else { break };
                        let whole = self.step(choice.cut).map(|time| Choice { limit: limit(&time), time, ..choice });
                        lock(&wholes).push(whole);
                    }
                });
            }
        });
        wholes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().collect()
    }

    /// The micro-batches worth a look for one cut: the largest that fits, and the smaller ones down to one that leaves no place of
    /// a rank idle; in a pipeline each of the smallest with each number of chunks, for there the bubble decides. Recomputing is tried
    /// where it allows a larger one, or any.
    fn at(&self, cut: Cut, sequences: usize, settled: &Settled) -> Result<(Vec<Choice>, Option<Miss>), TrainError> {
        let (mut choices, mut miss, mut largest) = (Vec::new(), None, 0);
        let each = sequences.div_ceil(cut.data);
        let is_pipeline = cut.pipeline > 1;
        let sizes = (1..=each.min(MOST_SEQUENCES)).filter(|n| n.is_power_of_two() || each.is_multiple_of(*n));
        let sizes: Vec<usize> = match settled.micro_batch {
            Some(micro_batch) => vec![micro_batch],
            None if is_pipeline => sizes.take(2).collect(),
            None => sizes.rev().collect(),
        };
        for recompute in [false, true].into_iter().filter(|r| settled.recompute.is_none_or(|settled| settled == *r)) {
            for micro_batch in sizes.iter().copied().filter(|n| *n > largest).collect::<Vec<_>>() {
                let cut = cut.of_batch(micro_batch, sequences);
                let lanes = cut.lanes;
                // Where micro-batches are many, the bubble is small without chunks.
                let is_short = settled.chunks.is_some() || lanes < FEW_ROUNDS * cut.pipeline;
                let is_whole = |chunks: &usize| *chunks == 1 || is_pipeline && lanes.is_multiple_of(cut.pipeline) && is_short;
                let mut fits = false;
                for chunks in settled.chunks.map_or(vec![1, 2, 4], |n| vec![n]).into_iter().filter(is_whole) {
                    let cut = Cut { chunks, recompute, ..cut };
                    let time = match self.glance(cut) {
                        Ok(time) => time,
                        // So many chunks cannot be cut from so few layers.
                        Err(_) if chunks > 1 && settled.chunks.is_none() => break,
                        Err(e) => return Err(e),
                    };
                    if let Some(this) = self.miss(cut, &time) {
                        if miss.as_ref().is_none_or(|miss: &Miss| this.over_bytes < miss.over_bytes) {
                            miss = Some(this);
                        }
                        break;
                    }
                    fits = true;
                    largest = largest.max(micro_batch);
                    choices.push(Choice { cut, limit: limit(&time), time });
                }
                if !is_pipeline && fits && (each.is_multiple_of(micro_batch)) || is_pipeline && !fits {
                    break;
                }
            }
        }
        Ok((choices, miss.filter(|_| largest == 0)))
    }

    /// A step by its first micro-batches: each more takes what the last did.
    fn glance(&self, cut: Cut) -> Result<StepTime, TrainError> {
        let few = cut.pipeline;
        let more = if cut.chunks > 1 { 2 * few } else { few + 2 };
        if cut.lanes <= more {
            return self.step(cut);
        }
        let full = |lanes| self.step(Cut { lanes, idle_sequences: 0, ..cut });
        let a = full(few)?;
        if a.bytes.total() > self.cluster.hardware.usable_bytes() {
            return Ok(a);
        }
        let b = full(more)?;
        Ok(beyond(&a, b, (cut.lanes - more) as f64 / (more - few) as f64).filled(cut.filled_ratio()))
    }

    fn step(&self, cut: Cut) -> Result<StepTime, TrainError> {
        let step = |build| step(build, self.base, cut, self.cluster, self.constants);
        let Some(Sketch { layers, few }) = self.sketch else { return step(self.build) };
        let ([a, b], [least, most]) = ([step(few[0])?, step(few[1])?], FEW_LAYERS);
        let times = (layers - most) as f64 / (most - least) as f64;
        let bytes = a.bytes.beyond(b.bytes, times);
        Ok(StepTime { bytes, ..beyond(&a, b, times) })
    }

    fn miss(&self, cut: Cut, time: &StepTime) -> Option<Miss> {
        let over_bytes = time.bytes.total() - self.cluster.hardware.usable_bytes();
        (over_bytes > 0.0).then(|| Miss { cut, over_bytes, largest: largest_kind(time) })
    }
}

/// A whole step that is cut so.
/// # Errors
/// When the model cannot be cut so.
pub fn step(build: &Build<'_>, base: &StepOptions, cut: Cut, cluster: &Cluster, constants: Constants) -> Result<StepTime, TrainError> {
    Ok(simulate::step(build, &options(base, cut), cluster, constants)?.filled(cut.filled_ratio()))
}

/// What lies beyond `b` on the line from `a`, `times` as far again; memory is `b`'s.
fn beyond(a: &StepTime, b: StepTime, times: f64) -> StepTime {
    let on = |a: f64, b: f64| b + (b - a) * times;
    let (step_secs, flops) = (on(a.step_secs, b.step_secs), on(a.flops, b.flops));
    let tokens = on(a.tokens as f64, b.tokens as f64);
    let mfu = b.mfu * (flops / b.flops) * (b.step_secs / step_secs);
    StepTime { step_secs, tokens: tokens.round() as u64, tokens_per_sec: tokens / step_secs, flops, mfu, ..b }
}

/// The options of a step that is cut so.
fn options(base: &StepOptions, cut: Cut) -> StepOptions {
    StepOptions {
        mesh: Mesh { pipeline: cut.pipeline, data: cut.data, context: 1, tensor: cut.tensor },
        schedule: if cut.chunks > 1 { Schedule::Interleaved } else { Schedule::OneFOneB },
        chunks: cut.chunks,
        strategy: strategy(cut.strategy),
        staleness: None,
        shards: cut.shards,
        order: Order::Any,
        lanes: cut.lanes,
        passes: 1,
        micro_batch: cut.micro_batch,
        recompute: cut.recompute,
        ..base.clone()
    }
}

fn strategy(name: &str) -> &'static Kind {
    parallel::STRATEGIES.find(name).unwrap_or(&parallel::replicated::KIND)
}

/// Where most of the time goes that is no product.
fn limit(time: &StepTime) -> &'static str {
    let exposed = |axis: &str| {
        let of = |role: &simulate::RoleTime| role.exposed_secs.iter().filter(|(name, _)| *name == axis).map(|(_, secs)| secs).sum::<f64>();
        time.roles.iter().map(of).fold(0.0, f64::max)
    };
    let waits =
        [("data", exposed("data")), ("tensor", exposed("tensor")), ("context", exposed("context")), ("bubble", exposed("pipeline"))];
    match waits.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((name, secs)) if secs > 0.05 * time.step_secs => name,
        _ => "compute",
    }
}

fn largest_kind(time: &StepTime) -> &'static str {
    let kinds = time.bytes.kinds();
    kinds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(name, _)| name)
}

/// Why there is no cut, and what would mend it; `refusal` is what the model says of cuts that leave each rank a sequence.
pub(crate) fn nothing_fits(misses: &[Miss], refusal: Option<&str>, instance: &Instance, cluster: &Cluster, sequences: usize) -> PlanError {
    let (nodes, ranks, devices) = (cluster.topology.nodes, cluster.topology.ranks(), cluster.topology.devices);
    let Some(miss) = misses.first() else {
        let most = sequences / devices;
        let fewer = match most {
            0 => "an instance with fewer accelerators".to_owned(),
            most => format!("`--on {}:{most}`", instance.name),
        };
        let why = refusal.map_or_else(|| "it runs whole on each".to_owned(), |why| format!("none of its cuts reaches so far: {why}"));
        return PlanError::Impossible {
            problem: format!(
                "{ranks} accelerators cannot share out a batch of {sequences}: the model would have to be cut among them, and {why}"
            ),
            relax: format!("set `batch.sequences={ranks}` or a multiple of it, or take {fewer}"),
        };
    };
    let gb = miss.over_bytes / 1e9;
    let relax = match miss.largest {
        "activations" | "logits" => "shorten `batch.context`, or take an accelerator with more memory".to_owned(),
        _ => {
            let times = 1.0 + miss.over_bytes / cluster.hardware.usable_bytes();
            format!("take about {:.0} nodes, or an accelerator with more memory than {}'s", (times * nodes as f64).ceil(), instance.name)
        }
    };
    PlanError::Impossible {
        problem: format!(
            "on {nodes} x {} nothing fits: the leanest cut ({}, tensor {}, pipeline {}) is over by {:.0} bytes ({gb:.1} GB) an accelerator, most of it {}",
            instance.name, miss.cut.strategy, miss.cut.tensor, miss.cut.pipeline, miss.over_bytes, miss.largest
        ),
        relax,
    }
}

#[cfg(test)]
mod tests {
    use train::{recipe::Recipe, run};

    use super::*;
    use crate::catalogue::Catalogue;

    fn found(model: &str, instance: &str, nodes: usize, sequences: usize) -> Found {
        let text = format!("[model]\n{model}\n[batch]\ncontext = 1024\n[train]\nprecision = \"bf16\"");
        let (recipe, _) = run::resolve(&Recipe::parse(&text, "test", &[]).unwrap(), None).unwrap();
        let catalogue = Catalogue::load(None).unwrap();
        let cluster = Cluster::of(&catalogue, catalogue.instance(instance).unwrap(), nodes).unwrap();
        let build = || Ok(models::build(&recipe.model)?);
        search(&build, &StepOptions::of(&recipe), sequences, &cluster, Constants::default(), &Settled { told: TOLD, ..Settled::default() })
            .unwrap()
    }

    #[test]
    fn the_best_of_a_small_model_is_the_best_of_all_cuts_and_steady_steps_are_foretold() {
        let found = found("preset = \"gpt2-1.5b\"\nvocab = 50304\nheads = 20\nhead_dim = 80", "p4d.24xlarge", 2, 256);
        assert!(found.choices.len() > 8);
        let rates: Vec<f64> = found.choices.iter().map(|choice| choice.time.tokens_per_sec).collect();
        assert!(rates.windows(2).all(|pair| pair[0] >= pair[1]));
        assert_eq!(found.choices[0].cut.tensor, 1, "what fits one device needs no tensor ranks");
        for choice in &found.choices {
            assert_eq!(choice.cut.tensor * choice.cut.pipeline * choice.cut.data, 16);
            assert_eq!(choice.cut.lanes * choice.cut.micro_batch * choice.cut.data - choice.cut.idle_sequences, 256);
            assert_eq!(choice.time.tokens, 256 * 1024);
        }
    }

    #[test]
    fn what_does_not_fit_says_by_how_much() {
        let found = found("preset = \"gpt3-175b\"\nvocab = 50304", "p4d.24xlarge", 1, 64);
        assert!(found.choices.is_empty());
        // 16 bytes a parameter over eight accelerators of 43 GB, less what is usable.
        let least = 16.0 * 174.6e9 / 8.0 - 42.9e9;
        assert!(found.misses[0].over_bytes > 0.7 * least, "{:?}", found.misses[0]);
    }
}
