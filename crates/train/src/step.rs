//! One whole training step: forward and backward over lanes and micro-batches, the lane tree, clipping, the optimiser.
//! The loop, the benchmark and the planner run this and nothing else.

use comm::{Communicator, Order, Solo};
use engine::{BlockId, Device, EngineError, Inputs, NoParams, Options, ParamId, ParamTable, Pass, Pool, Precision, Shape, Tape, key, mix};
use kernels::elementwise::{Squares, sum_squares};
use models::Model;
use parallel::{Build, Kind, PassAt, Strategy, flat::Layout, lanes::LaneSum};

use crate::{
    TrainError,
    optim::{Optimiser, Update},
    recipe::{Optim, Recipe},
};

/// What a step is made of, besides the model.
#[derive(Debug, Clone)]
pub struct StepOptions {
    pub precision: Precision,
    pub recompute: bool,
    pub clip: f32,
    /// How the ranks share the work.
    pub strategy: &'static Kind,
    /// Ranks that hold one copy of the model together, and how sums over ranks are ordered.
    pub shards: usize,
    pub order: Order,
    /// Lanes of each rank.
    pub lanes: usize,
    pub micro_batch: usize,
    pub context: usize,
    pub seed: u64,
    pub optim: Optim,
}

impl StepOptions {
    #[must_use]
    pub fn of(recipe: &Recipe) -> Self {
        Self {
            precision: recipe.train.precision.resolve(),
            recompute: recipe.train.recompute,
            clip: recipe.train.clip,
            strategy: recipe.parallel.kind(),
            shards: recipe.parallel.shards(),
            order: recipe.parallel.reduce.order(),
            lanes: recipe.batch.lanes / recipe.parallel.ranks,
            micro_batch: recipe.batch.micro_batch.min(recipe.batch.sequences / recipe.batch.lanes),
            context: recipe.batch.context,
            seed: recipe.seed,
            optim: recipe.optim.clone(),
        }
    }
}

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
}

impl StepCost {
    /// Bytes in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.grad_bytes + self.optimiser_bytes + self.packed_bytes + self.pool_bytes
    }
}

/// Run one micro-batch of `model` on `Meta`.
/// # Errors
/// When shapes do not fit.
pub fn cost(model: &dyn Model, options: &StepOptions) -> Result<StepCost, TrainError> {
    let (pool, mut store) = (Pool::meta(), NoParams);
    let mut tape = Tape::new(&pool, &mut store, model.params(), Options { trace: true, ..tape_options(options, 0) });
    let loss = model.loss(&mut tape, &model.shapes(options.micro_batch, options.context), 1.0)?;
    tape.backward(&loss)?;
    let needed = tape.events().iter().filter(|event| event.pass != Pass::Recompute);
    let table = model.params();
    let bytes = (options.strategy.bytes)(table, options.shards, options.lanes);
    let layout = Layout::new(table, options.shards);
    Ok(StepCost {
        micro_batch_flops: needed.map(|event| event.flops).sum(),
        optimiser_flops: Optimiser::flops(&options.optim, model.params()),
        params: model.params().elements(),
        weight_bytes: bytes.weights,
        grad_bytes: bytes.grads,
        // The first rank has the most: what is between parameters falls to the last.
        optimiser_bytes: Optimiser::bytes(&options.optim, table, layout.share(0).map(|piece| (piece.param, piece.of_param.len()))),
        packed_bytes: tape.packed_bytes(),
        pool_bytes: pool.usage().high_water_bytes,
    })
}

fn tape_options(options: &StepOptions, key: u64) -> Options {
    Options { precision: options.precision, recompute: options.recompute, train: true, key, trace: false }
}

/// Sequences `first..first + sequences` of made-up tokens, to measure with.
#[must_use]
pub fn made_up(first: usize, sequences: usize, context: usize, vocab: usize) -> Inputs {
    let token = |seed: u64, i: usize| (mix(seed ^ mix(i as u64)) % vocab as u64) as u32;
    let tokens = |seed| (first * context..(first + sequences) * context).map(|i| token(seed, i)).collect();
    let shape = [sequences, context];
    Inputs::new().with_u32("tokens", &shape, tokens(1)).with_u32("targets", &shape, tokens(2))
}

/// A model in training.
pub struct Trainer {
    model: Box<dyn Model>,
    options: StepOptions,
    store: Box<dyn Strategy>,
    optimiser: Optimiser,
    pool: Pool,
    cost: StepCost,
}

/// What came of a forward and backward pass over the batch.
#[derive(Debug, Clone, Copy)]
pub struct Gradient {
    /// Mean over tokens, in nats.
    pub loss: f32,
    pub norm: f32,
}

impl Trainer {
    /// A model at its starting values, with memory for its steps.
    /// # Errors
    /// When shapes do not fit.
    pub fn new(model: Box<dyn Model>, options: StepOptions) -> Result<Self, TrainError> {
        Self::on_rank(model, options, Box::new(Solo))
    }

    /// The same as one rank of a group: `options.lanes` of the lanes are its own.
    /// # Errors
    /// As [`Trainer::new`].
    pub fn on_rank(model: Box<dyn Model>, options: StepOptions, mut comm: Box<dyn Communicator>) -> Result<Self, TrainError> {
        let cost = cost(&*model, &options)?;
        let need_bytes = cost.total_bytes() * comm.ranks() as u64;
        let free_bytes = crate::memory::available_bytes().unwrap_or(u64::MAX);
        let rank_error = |e| EngineError::Rank(Box::new(e));
        // No rank allocates before all have looked, or the last would find what the first left.
        comm.all_reduce(&mut [0.0], Order::Any).map_err(rank_error)?;
        if free_bytes < need_bytes {
            return Err(TrainError::Memory { need_bytes, free_bytes });
        }
        let table = model.params();
        let mut value = |id| table.initial(id, options.seed);
        let build = Build { table, device: Device::Cpu, order: options.order, comm, shards: options.shards, value: &mut value };
        let store = (options.strategy.build)(build).map_err(rank_error)?;
        let optimiser = Optimiser::new(&options.optim, table, options.precision, &*store);
        Ok(Self { pool: Pool::new(Device::Cpu, cost.pool_bytes), model, options, store, optimiser, cost })
    }

    #[must_use]
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    #[must_use]
    pub fn cost(&self) -> StepCost {
        self.cost
    }

    /// Bytes that were really used so far: to be held against [`Trainer::cost`].
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.pool.usage().high_water_bytes + self.store.held_bytes() + self.optimiser.held_bytes()
    }

    #[must_use]
    pub fn table(&self) -> &ParamTable {
        self.model.params()
    }

    pub fn store_mut(&mut self) -> &mut dyn Strategy {
        &mut *self.store
    }

    #[must_use]
    pub fn store(&self) -> &dyn Strategy {
        &*self.store
    }

    /// Model, its parameters and its pool, for passes that do not train.
    pub fn parts(&mut self) -> (&dyn Model, &mut dyn Strategy, Precision) {
        (&*self.model, &mut *self.store, self.options.precision)
    }

    /// The places of this rank's lanes among all.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.options.lanes).map(|index| self.store.lane(index, self.options.lanes))
    }

    /// The gradient of the mean loss over the batch: for each lane of this rank its micro-batches, in order. `tokens` is
    /// the number in the whole batch; the loss of each is divided by it, so cuts of one batch give one gradient.
    /// # Errors
    /// When shapes do not fit.
    pub fn gradient(&mut self, step: u64, lanes: &[Vec<Inputs>], tokens: u64) -> Result<Gradient, TrainError> {
        let scale = 1.0 / tokens as f32;
        let places: Vec<usize> = self.lanes().collect();
        let mut losses = vec![0.0; self.options.lanes * self.store.rank().1];
        self.store.begin_step();
        for (index, (micro_batches, lane)) in lanes.iter().zip(places).enumerate() {
            let mut loss = 0.0_f64;
            for (i, inputs) in micro_batches.iter().enumerate() {
                let ends_lane = i + 1 == micro_batches.len();
                self.store.begin_pass(PassAt { ends_lane, ends_step: ends_lane && index + 1 == lanes.len() });
                let draw = mix(key(self.options.seed, "dropout") ^ mix(step) ^ mix((lane as u64) << 32 | i as u64));
                let table = self.model.params();
                let mut tape = Tape::new(&self.pool, &mut *self.store, table, tape_options(&self.options, draw));
                let part = self.model.loss(&mut tape, inputs, scale)?;
                tape.backward(&part)?;
                loss += f64::from(part.f32s()[0]);
                drop((part, tape));
                self.store.end_pass()?;
            }
            losses[lane] = loss as f32;
        }
        self.store.end_step()?;
        // Each loss is one rank's own, and limbs add exactly: no order of adding them changes a bit.
        self.store.sum(&mut losses)?;
        let squares: Squares = self.store.parts().iter().map(|part| sum_squares(part.grad)).sum();
        let mut limbs = squares.limbs();
        self.store.sum_parts(&mut limbs)?;
        let squares = Squares::from_limbs(limbs);
        let mut tree = LaneSum::default();
        for loss in losses {
            tree.put(vec![loss]);
            tree.end_lane(1);
        }
        Ok(Gradient { loss: tree.total()[0], norm: squares.value().sqrt() as f32 })
    }

    /// Move every parameter by the gradient, clipped; `step` counts from 1.
    /// # Errors
    /// When a rank does not answer.
    pub fn update(&mut self, step: u64, lr_share: f32, norm: f32) -> Result<(), TrainError> {
        let clip = self.options.clip;
        let grad_scale = if norm > clip { clip / norm } else { 1.0 };
        Ok(self.optimiser.update(Update { step, lr_share, grad_scale }, &mut *self.store)?)
    }

    /// Every whole parameter and its optimiser's state, by name. All ranks call it; where parameters are not cut, only those
    /// that want it.
    /// # Errors
    /// When a rank does not answer.
    pub fn tensors(&mut self, is_wanted: bool) -> Result<Vec<(String, Shape, Vec<f32>)>, TrainError> {
        let (mut all, is_cut) = (Vec::new(), self.store.is_cut());
        let table = self.model.params();
        for block in self.store.blocks().map(BlockId).filter(|_| is_wanted || is_cut) {
            let parts = self.store.parts().into_iter().filter(|part| table.spec(part.param).block == block);
            let mine = parts.map(|part| part.values.to_vec()).collect();
            let values = self.store.gather_parts(block, mine)?;
            let state = self.optimiser.tensors(table, block, &mut *self.store)?;
            if is_wanted {
                all.extend(values.into_iter().map(|(id, values)| (table.spec(id).name.clone(), table.spec(id).shape, values)));
                all.extend(state);
            }
        }
        Ok(all)
    }

    /// Put back values and state by name; the first name that is missing or of another length.
    pub fn restore(&mut self, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<(), String> {
        let table = self.model.params();
        for (i, spec) in table.specs().iter().enumerate() {
            let values = find(&spec.name).filter(|values| values.len() == spec.shape.elements());
            self.store.restore(ParamId(i), &values.ok_or_else(|| spec.name.clone())?);
        }
        self.optimiser.restore(table, find)
    }
}
