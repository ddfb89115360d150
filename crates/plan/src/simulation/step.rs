//! A step on a cluster that is not here: the trainer itself, on `Meta`, over `comm::sim`'s virtual clock.
//!
//! ```text
//! StepOptions + Cluster -> one thread for each role (stage of the pipeline, place along the context)
//!     Trainer::on_meta  --each op-->  Hardware::op_secs  --> clock.compute
//!                       --each job->  comm::sim          --> streams of the links
//! -> seconds of a step and where they go, tokens per second, MFU, bytes of each rank
//! ```
//! There is no second model of training: what is gathered, sent and waited for is what the strategies do. What is modelled
//! is how long an operation takes on a device, and one set of constants holds for all devices and runs.

use comm::sim::{Clock, Settings, Sim};
use engine::{Event, Kind, NoParams, Options, Pass, Pool, Precision, Tape, ops::Class};
use models::Model;
use parallel::mesh::Place;
use serde::Serialize;
use train::{
    TrainError,
    step::{StepCost, StepOptions, Trainer},
};

use crate::simulation::hardware::{Cluster, Constants, Hardware, Numbers};

/// A step's price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTime {
    pub step_secs: f64,
    pub tokens: u64,
    pub tokens_per_sec: f64,
    /// Model FLOPs of the whole step, and their share of all accelerators' peak.
    pub flops: f64,
    pub mfu: f64,
    /// Bytes that the fullest rank holds.
    pub bytes: MemoryUse,
    pub roles: Vec<RoleTime>,
}

/// A rank's memory by kind, on an accelerator: weights and gradients in 16 bits, a 32-bit copy and two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryUse {
    pub weights: f64,
    pub gradients: f64,
    pub optimiser: f64,
    pub activations: f64,
    /// Scores of every token of a micro-batch over the vocabulary, in 16 bits and, for the loss, in 32. The trainer works on
    /// them in pieces and has none; frameworks hold all.
    pub logits: f64,
}

impl MemoryUse {
    /// Each kind by its name.
    #[must_use]
    pub fn kinds(self) -> [(&'static str, f64); 5] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimiser", self.optimiser),
            ("activations", self.activations),
            ("logits", self.logits),
        ]
    }

    /// What lies beyond `b` on the line from this, `times` as far again.
    #[must_use]
    pub fn beyond(self, b: Self, times: f64) -> Self {
        let on = |a: f64, b: f64| b + (b - a) * times;
        Self {
            weights: on(self.weights, b.weights),
            gradients: on(self.gradients, b.gradients),
            optimiser: on(self.optimiser, b.optimiser),
            activations: on(self.activations, b.activations),
            logits: on(self.logits, b.logits),
        }
    }

    #[must_use]
    pub fn total(self) -> f64 {
        self.weights + self.gradients + self.optimiser + self.activations + self.logits
    }
}

impl StepTime {
    /// Where sequences fill only this share of the step's places: the time stays, and what the others do is no work.
    #[must_use]
    pub fn filled(self, ratio: f64) -> Self {
        Self {
            tokens: (self.tokens as f64 * ratio).round() as u64,
            tokens_per_sec: self.tokens_per_sec * ratio,
            flops: self.flops * ratio,
            mfu: self.mfu * ratio,
            ..self
        }
    }
}

/// Where the step of one role goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleTime {
    pub stage: usize,
    pub context: usize,
    pub compute_secs: f64,
    /// Of it, models that run before the step and are not trained.
    pub encoder_secs: f64,
    pub optimiser_secs: f64,
    /// Waiting for gathers, sums and messages of each axis; on `pipeline` it is the bubble.
    pub exposed_secs: Vec<(&'static str, f64)>,
    pub sent_bytes: Vec<(&'static str, u64)>,
}

/// Price one step of `options` on `cluster`; `build` makes the model anew for each role.
/// # Errors
/// When shapes do not fit, or the mesh is not as large as the cluster.
pub fn step(
    build: &(dyn Fn() -> Result<Box<dyn Model>, TrainError> + Sync),
    options: &StepOptions,
    cluster: &Cluster,
    constants: Constants,
) -> Result<StepTime, TrainError> {
    let mesh = options.mesh;
    // Ranks that do the same: all data and tensor places of a stage and a place along the context.
    let representative = |rank: usize| {
        let place = mesh.place(rank);
        (place.stage * mesh.data * mesh.context + place.context) * mesh.tensor
    };
    let sim = Sim::new(
        cluster.topology.clone(),
        Settings { contention: constants.contention, bytes_per_element: 4.0 * constants.numbers.of_four(), ..Settings::default() },
        representative,
    );
    let results: Vec<Result<Role, TrainError>> = std::thread::scope(|scope| {
        let sim = &sim;
        let role = |rank: usize| move || role(build, options, sim, rank, &cluster.hardware, constants);
        let threads: Vec<_> = sim.representatives().iter().map(|rank| scope.spawn(role(*rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let roles = results.into_iter().collect::<Result<Vec<Role>, TrainError>>()?;
    let step_secs = roles.iter().map(|role| role.end_secs).fold(0.0, f64::max);
    let tokens = (mesh.data * options.lanes * options.micro_batch * options.context) as u64;
    let flops = roles.iter().map(|role| role.flops).sum::<f64>() * (mesh.data * mesh.tensor) as f64;
    let ranks = mesh.ranks() as f64;
    let fullest = roles.iter().map(|role| role.bytes).max_by(|a, b| a.total().total_cmp(&b.total()));
    Ok(StepTime {
        step_secs,
        tokens,
        tokens_per_sec: tokens as f64 / step_secs,
        flops,
        mfu: flops / (step_secs * ranks * cluster.hardware.peak_flops),
        bytes: fullest.unwrap_or_default(),
        roles: roles.into_iter().map(|role| role.time).collect(),
    })
}

struct Role {
    end_secs: f64,
    flops: f64,
    bytes: MemoryUse,
    time: RoleTime,
}

/// One role's whole step, on a thread of its own.
fn role(
    build: &(dyn Fn() -> Result<Box<dyn Model>, TrainError> + Sync),
    options: &StepOptions,
    sim: &Sim,
    rank: usize,
    hardware: &Hardware,
    constants: Constants,
) -> Result<Role, TrainError> {
    let comm = sim.rank(rank);
    let clock: Clock = comm.clock();
    let Place { stage, context, .. } = options.mesh.place(rank);
    let precision = if constants.numbers == Numbers::Half { Precision::Bf16 } else { Precision::F32 };
    let options = &StepOptions { kind: Kind::Gpu, precision, ..options.clone() };
    let flops = std::rc::Rc::new(std::cell::Cell::new(0.0));
    let logits = std::rc::Rc::new(std::cell::Cell::new(0.0_f64));
    let watch = {
        let (clock, flops, logits, hardware) = (clock.clone(), flops.clone(), logits.clone(), hardware.clone());
        let parts = if constants.shares_tokens { 1.0 } else { options.mesh.tensor as f64 };
        Box::new(move |event: &Event| {
            let is_shared = event.class == Class::TokenWise;
            clock.compute(hardware.op_secs(event, constants) * if is_shared { parts } else { 1.0 });
            if event.pass != Pass::Recompute {
                flops.set(flops.get() + event.flops as f64);
            }
            if let (Some([rows, vocab, _]), Class::Loss) = (event.gemm, event.class) {
                logits.set(logits.get().max((rows * vocab) as f64 * (2.0 + 4.0)));
            }
        })
    };
    let model = build()?;
    let inputs = options.objective.shapes(&*model, options.micro_batch, options.context);
    let mut trainer = Trainer::on_meta(model, options.clone(), Box::new(comm), watch)?;
    // What was done to set it up is no part of a step.
    let (before, traffic_before) = (clock.times(), trainer.traffic());
    let lanes: Vec<Vec<engine::Inputs>> = (0..options.lanes).map(|_| vec![inputs.clone()]).collect();
    let encoding = Encoding::of(trainer.model(), options, hardware, constants)?;
    clock.compute(encoding.secs * options.lanes as f64);
    let gradient = trainer.gradient(1, &lanes, 1)?;
    let passed = clock.times();
    let cost = trainer.cost();
    // Weight, gradient and two moments read, weight and moments and a 16-bit copy written.
    let share = cost.optimiser_bytes as f64 / 8.0;
    let optimiser_secs =
        30.0 * share / (hardware.memory_bytes_per_sec * constants.stream_share) + cost.optimiser_flops as f64 / hardware.attainable_flops;
    clock.compute(optimiser_secs);
    trainer.update(1, 1.0, gradient.norm)?;
    let end_secs = clock.times().now_secs - before.now_secs;
    let traffic = trainer.traffic();
    let each = |of: &dyn Fn(&comm::Traffic) -> f64| {
        traffic.iter().zip(&traffic_before).map(|((axis, now), (_, then))| (*axis, of(now) - of(then))).collect::<Vec<_>>()
    };
    Ok(Role {
        end_secs,
        flops: flops.get(),
        bytes: memory(&cost, &encoding, logits.get(), constants.numbers),
        time: RoleTime {
            stage,
            context,
            compute_secs: passed.compute_secs - before.compute_secs,
            encoder_secs: encoding.secs * options.lanes as f64,
            optimiser_secs,
            exposed_secs: each(&|traffic| traffic.exposed_secs),
            sent_bytes: each(&|traffic| traffic.sent_bytes as f64).into_iter().map(|(axis, bytes)| (axis, bytes as u64)).collect(),
        },
    })
}

/// What the trainer holds, as an accelerator holds it: weights at work and their gradients in `numbers`, and where those are of 16
/// bits, beside the two moments a 32-bit copy of the weights that this rank moves. The pool is that of an accelerator already.
fn memory(cost: &StepCost, encoding: &Encoding, logits: f64, numbers: Numbers) -> MemoryUse {
    let (moments, share) = (cost.optimiser_bytes as f64, numbers.of_four());
    MemoryUse {
        weights: (cost.weight_bytes as f64 + 4.0 * encoding.params) * share,
        // Lanes exist for the sake of bits; an accelerator adds each into the one before.
        gradients: cost.weight_bytes as f64 * share,
        optimiser: if numbers == Numbers::Half { 1.5 * moments } else { moments },
        // What an encoder needs is free again when the step begins.
        activations: (cost.pool_bytes as f64).max(encoding.pool_bytes),
        logits,
    }
}

/// What the encoders of a model, or those that its objective names in their place, do with one micro-batch, each forward alone.
struct Encoding {
    secs: f64,
    params: f64,
    /// Of the largest.
    pool_bytes: f64,
}

impl Encoding {
    fn of(model: &dyn Model, options: &StepOptions, hardware: &Hardware, constants: Constants) -> Result<Self, TrainError> {
        let mut all = Self { secs: 0.0, params: 0.0, pool_bytes: 0.0 };
        let named = options.objective.encoders()?;
        for encoder in if named.is_empty() { model.encoders() } else { &named } {
            let (pool, mut store, secs) = (Pool::planned(options.kind), NoParams, std::cell::Cell::new(0.0));
            let watch = |event: &Event| secs.set(secs.get() + hardware.op_secs(event, constants));
            let tape_options = Options { precision: options.precision, recompute: false, train: false, key: 0, trace: true };
            let mut tape = Tape::new(&pool, &mut store, encoder.params(), tape_options).watched(&watch);
            encoder.run(&mut tape, &encoder.shapes(options.micro_batch))?;
            drop(tape);
            all.secs += secs.get();
            all.params += encoder.params().elements() as f64;
            all.pool_bytes = all.pool_bytes.max(pool.usage().high_water_bytes as f64);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use comm::{
        Order,
        sim::{Link, Topology},
    };
    use parallel::mesh::Mesh;
    use train::recipe::Recipe;

    use super::*;

    /// 175B on `nodes` of eight A100 joined as p4de are.
    fn price(nodes: usize, strategy: &str, shards: usize, mesh: Mesh, micro_batch: usize, lanes: usize) -> StepTime {
        let hardware = Hardware {
            peak_flops: 312e12,
            attainable_flops: 271e12,
            memory_bytes: 80e9,
            memory_bytes_per_sec: 2039e9,
            units: 108.0,
            mma_share: 1.0,
            single_share: 1.0 / 16.0,
        };
        let topology = Topology { nodes, devices: 8, inside: Link::nvlink(300e9), across: Link::efa(400e9), switch_share: 0.0 };
        let text =
            "[model]\npreset = \"gpt3-175b\"\nvocab = 50304\n[batch]\ncontext = 2048\n[train]\nrecompute = true\nprecision = \"bf16\"";
        let (recipe, _) = train::run::resolve(&Recipe::parse(text, "test", &[]).unwrap(), None).unwrap();
        let strategy = parallel::STRATEGIES.find(strategy).unwrap();
        let options = StepOptions { mesh, order: Order::Any, strategy, shards, lanes, passes: 1, micro_batch, ..StepOptions::of(&recipe) };
        step(&|| Ok(models::build(&recipe.model)?), &options, &Cluster { hardware, topology }, Constants::default()).unwrap()
    }

    #[test]
    fn shards_over_all_machines_wait_for_the_network_and_small_groups_do_less() {
        let zero = price(64, "zero3", 512, Mesh::data(512), 1, 4);
        let mics = price(64, "mics", 64, Mesh::data(512), 1, 4);
        assert!(zero.mfu > 0.1 && zero.mfu < mics.mfu && mics.mfu < 0.65, "{} and {}", zero.mfu, mics.mfu);
        assert!(zero.bytes.total() < mics.bytes.total(), "what it costs is memory");
        // With enough work for each gather there is nothing to wait for.
        assert!(price(64, "zero3", 512, Mesh::data(512), 8, 1).mfu > 2.0 * zero.mfu);
        let data = |time: &StepTime| time.roles[0].sent_bytes[0].1 as f64;
        // Three times the parameters a lane, in 16 bits.
        let want = 3.0 * 4.0 * 2.0 * 174.6e9 * 511.0 / 512.0;
        assert!((data(&zero) / want - 1.0).abs() < 0.02, "{} for {want}", data(&zero));
    }

    #[test]
    fn a_pipeline_has_the_bubble_that_its_schedule_leaves() {
        let mesh = Mesh { pipeline: 8, data: 1, context: 1, tensor: 8 };
        let bubble = |lanes| {
            let time = price(8, "replicated", 1, mesh, 1, lanes);
            let first = &time.roles[0];
            first.exposed_secs[3].1 / (time.step_secs - first.exposed_secs[3].1 - first.optimiser_secs)
        };
        // (stages - 1) / micro-batches, arXiv:2104.04473, section 2.2; the stage with the head is a little slower than the others.
        for micro_batches in [8, 64] {
            let (want, got) = (7.0 / micro_batches as f64, bubble(micro_batches));
            assert!(got > 0.98 * want && got < 1.1 * want + 0.05, "{got} for {want}");
        }
    }
}
