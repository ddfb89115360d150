//! What a step costs before it is made: a run of its passes on `Meta`, and the cut of the model into stages that follows
//! from such a run.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use engine::{BlockId, Device, EngineError, Event, NoParams, Options, ParamId, ParamTable, Pass, Places, Pool};
use models::Model;
use parallel::{
    Build,
    flat::Layout,
    mesh::Place,
    param_server::Servers,
    pipeline::{self, BlockCost},
};

use crate::{
    TrainError,
    optim::{Optimiser, Update},
    options::StepOptions,
    passes::{Lengths, MicroBatch, Stage},
};

/// What a step costs, told by `Meta`: to the byte and the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct StepCost {
    /// Of one micro-batch, forward and backward, without what is computed twice.
    pub micro_batch_flops: u64,
    /// Of one update.
    pub optimiser_flops: u64,
    pub params: u64,
    pub weight_bytes: u64,
    pub grad_bytes: u64,
    pub optimiser_bytes: u64,
    /// Packed bf16 copies of the weights.
    pub packed_bytes: u64,
    /// The pool: activations, their gradients, working space.
    pub pool_bytes: u64,
    /// Activations and their gradients on their way to ranks that share the work of a pass.
    pub message_bytes: u64,
    /// What products and attention pack of activations, on this machine.
    pub kernel_bytes: u64,
}

impl StepCost {
    /// Bytes in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let held = self.weight_bytes + self.grad_bytes + self.optimiser_bytes + self.packed_bytes;
        held + self.pool_bytes + self.message_bytes + self.kernel_bytes
    }
}

/// What a rank at `place` does in a step, told by a run of its passes on `Meta`.
/// # Errors
/// When shapes do not fit.
pub fn cost(model: &dyn Model, options: &StepOptions, place: Place) -> Result<StepCost, TrainError> {
    Held::of(model, options, place)?.cost(model, options, place)
}

/// What one rank has of a model.
pub(crate) struct Held {
    /// The runs of blocks of its stage.
    pub runs: Vec<Range<usize>>,
    /// Their parameters, as long as it holds them.
    pub table: ParamTable,
}

impl Held {
    pub(crate) fn of(model: &dyn Model, options: &StepOptions, place: Place) -> Result<Self, TrainError> {
        let mesh = options.mesh;
        if let Some(why) = options.objective.whole_samples().filter(|_| mesh.context > 1) {
            let problem = format!("the samples of this objective are not cut along their tokens: {why}");
            return Err(TrainError::Value { key: "parallel.mesh.context", problem, help: "leave `context` out".into() });
        }
        if model.is_whole() && mesh.pipeline * mesh.tensor * mesh.context > 1 {
            let problem = "this kind of model runs in one piece on each rank".to_owned();
            let help = "leave `pipeline`, `tensor` and `context` out: ranks then share the batch, and with `zero3` the parameters".into();
            return Err(TrainError::Value { key: "parallel.mesh", problem, help });
        }
        if objective_needs_all(model, options) {
            let problem = "its loss is between all samples of a step, and workers of different steps do not meet".to_owned();
            return Err(TrainError::Value { key: "parallel.staleness", problem, help: "leave it out".into() });
        }
        let (runs, full) = (runs(model, options)?.swap_remove(place.stage), model.params());
        let here: Vec<BlockId> = runs.iter().flat_map(|run| run.clone().flat_map(|block| full.needs(BlockId(block)))).collect();
        let table = full.local(options.mesh.tensor, |block| here.contains(&block)).map_err(EngineError::from)?;
        Ok(Self { runs, table })
    }

    /// See [`cost`].
    pub(crate) fn cost(&self, model: &dyn Model, options: &StepOptions, place: Place) -> Result<StepCost, TrainError> {
        let Self { runs, table } = self;
        let places = Places::new((place.tensor, options.mesh.tensor), (place.context, options.mesh.context));
        // This rank stands for all that see other data: they do the same.
        let (ranks, rank) = (options.mesh.data * options.mesh.context, place.data * options.mesh.context + place.context);
        let link = comm::sim::Link::nvlink(1e9);
        let topology = comm::sim::Topology { nodes: 1, devices: ranks, inside: link.clone(), across: link, switch_share: 0.0 };
        let others = comm::sim::Sim::new(topology, comm::sim::Settings::default(), |_| rank).rank(rank);
        let (order, shards) = (options.order, options.shards);
        let build = Build { table, device: Device::Meta(options.kind), order, comm: Box::new(others), shards, value: &mut |_| Vec::new() };
        let store = (options.strategy.build)(build).map_err(EngineError::rank)?;
        let (pool, store) = (Pool::planned(options.kind), Rc::new(RefCell::new(store)));
        store.borrow_mut().begin_step();
        let tape_options = Options { trace: true, ..tape_options(options) };
        let (flops, kernel_bytes) = (Cell::new(0), Cell::new(0));
        let watch = |event: &Event| {
            if event.pass != Pass::Recompute {
                flops.set(flops.get() + event.flops)
            }
            kernel_bytes.set(event.packs_bytes.max(kernel_bytes.get()));
        };
        let objective = &*options.objective;
        let stage = Stage {
            model,
            objective,
            table,
            pool: &pool,
            store: &store,
            partition: &places,
            runs,
            options: tape_options,
            watch: &watch,
            meet: None,
        };
        let inputs = options.objective.shapes(model, options.micro_batch, options.context / options.mesh.context);
        // As many lanes as are summed. Without a pipeline the pool is empty after each pass, so that one of a lane stands for all, but
        // that gradients of several of the last are held at one time; in a pipeline where the next lies depends on all before.
        let is_alone = options.mesh.pipeline == 1;
        let passes = |lane| {
            if !is_alone {
                options.passes
            } else if lane + 1 == options.lanes {
                options.passes.min(2)
            } else {
                1
            }
        };
        let in_lane = |lane: usize| (1..=passes(lane)).map(move |pass| (lane, pass == passes(lane)));
        let one =
            |(lane, ends_lane)| MicroBatch { inputs: &inputs, lane, key: 0, ends_lane, ends_step: ends_lane && lane + 1 == options.lanes };
        let micro_batches: Vec<MicroBatch<'_>> = (0..options.lanes).flat_map(in_lane).map(one).collect();
        let count = micro_batches.len();
        let actions = |stage| options.schedule.actions(stage, options.mesh.pipeline, count, options.chunks);
        let mut lengths = Lengths::default();
        let shared = objective.shared_width(model);
        if shared.is_some() && options.lanes * options.passes > 1 {
            // Rows that the whole batch sees are made before the passes that learn from them.
            stage.rows(&micro_batches)?;
        }
        stage.run(&actions(place.stage), &micro_batches, 1.0, &mut lengths, &mut |_| {})?;
        store.borrow_mut().end_step()?;
        let layout = Layout::new(table, options.shards);
        let share = layout.share(rank % options.shards).map(|piece| (piece.param, piece.of_param.len()));
        let optimiser_bytes = Optimiser::bytes(&options.optim, table, share);
        if options.staleness.is_none() {
            let share = store.borrow().share();
            let mut optimiser = Optimiser::new(&options.optim, table, options.precision, Device::Meta(options.kind), share);
            optimiser.update(Update { step: 1, lr_share: 1.0, grad_scale: 1.0 }, &mut **store.borrow_mut(), &pool)?;
        }
        let bytes = store.borrow().peak_bytes();
        // Of all ranks, once as they are summed and once as each micro-batch is told of them.
        let rows = shared.map_or(0, |width| 2 * width * options.lanes * options.mesh.data * options.passes * options.micro_batch);
        // No stage is ahead of the next by more than the micro-batches that it works on at one time.
        let before = (place.stage + options.mesh.pipeline - 1) % options.mesh.pipeline;
        let between = lengths.forward * pipeline::at_work(&actions(place.stage)) + lengths.back * pipeline::at_work(&actions(before));
        Ok(StepCost {
            micro_batch_flops: flops.get() / count as u64,
            optimiser_flops: Optimiser::flops(&options.optim, table),
            params: model.params().elements(),
            weight_bytes: bytes.weights + if options.staleness.is_some() { Servers::bytes(table, options.mesh.data) } else { 0 },
            grad_bytes: bytes.grads,
            optimiser_bytes,
            packed_bytes: bytes.packed,
            pool_bytes: pool.usage().high_water_bytes,
            message_bytes: (4 * (between + rows) as u64 + places.held_bytes()).max(4 * self.exchanged(model, options, place) as u64),
            kernel_bytes: kernel_bytes.get(),
        })
    }

    /// Numbers that are held when gradients of what several ranks have are summed: all of them, and this rank's part of the sum.
    fn exchanged(&self, model: &dyn Model, options: &StepOptions, place: Place) -> usize {
        let (mesh, full) = (options.mesh, model.params());
        let held = |ranks: usize, chosen: &dyn Fn(ParamId) -> bool| {
            let numbers = self.table.ids().filter(|id| chosen(*id)).map(|id| self.table.spec(id).shape.elements()).sum();
            if ranks > 1 { numbers + comm::part(numbers, ranks, 0).len() } else { 0 }
        };
        let shared = shared_blocks(full);
        let ends = if place.stage == 0 || place.stage + 1 == mesh.pipeline { mesh.pipeline.min(2) } else { 1 };
        held(mesh.tensor, &|id| full.spec(id).cut.is_none()).max(held(ends, &|id| shared.contains(&full.spec(id).block)))
    }
}

/// The runs of blocks of each stage: the cut whose slowest stage is fastest, by each block's operations on `Meta`.
fn runs(model: &dyn Model, options: &StepOptions) -> Result<Vec<Vec<Range<usize>>>, TrainError> {
    let (stages, blocks) = (options.mesh.pipeline, model.params().blocks().len());
    let pieces = stages * options.chunks;
    if pieces == 1 {
        return Ok(vec![vec![0..blocks]]);
    }
    let (pool, mut store) = (Pool::planned(options.kind), NoParams);
    let mut tape = engine::Tape::new(&pool, &mut store, model.params(), Options { trace: true, ..tape_options(options) });
    let inputs = options.objective.shapes(model, options.micro_batch, options.context);
    tape.scale_losses(1.0);
    let x = model.trunk(&mut tape, &inputs, None, 0..blocks)?;
    let loss = options.objective.loss(model, &mut tape, &inputs, &x, 1.0)?;
    tape.backward(&loss)?;
    let mut costs = vec![BlockCost { secs: 0.0, bytes: 0 }; blocks];
    for event in tape.events() {
        if let Some(block) = event.block {
            costs[block.0].secs += event.flops as f64;
            costs[block.0].bytes += event.saved_bytes;
        }
    }
    let too_many = |_| {
        let problem = format!("{pieces} runs of blocks cannot be cut from {blocks} blocks");
        TrainError::Value { key: "parallel.mesh.pipeline", problem, help: "use fewer stages, or a deeper model".into() }
    };
    let cut = pipeline::cut(&costs, pieces, u64::MAX).map_err(too_many)?;
    Ok((0..stages).map(|stage| (0..options.chunks).map(|chunk| cut[chunk * stages + stage].clone()).collect()).collect())
}

fn objective_needs_all(model: &dyn Model, options: &StepOptions) -> bool {
    options.staleness.is_some() && options.objective.shared_width(model).is_some()
}

pub(crate) fn tape_options(options: &StepOptions) -> Options {
    Options { precision: options.precision, recompute: options.recompute, train: true, key: 0, trace: false }
}

/// The blocks whose parameters a later one reads too.
pub(crate) fn shared_blocks(table: &ParamTable) -> Vec<BlockId> {
    (0..table.blocks().len()).flat_map(|block| table.needs(BlockId(block)).into_iter().filter(move |need| need.0 != block)).collect()
}
