//! One whole training step: forward and backward over lanes and micro-batches, the lane tree, clipping, the optimiser.
//! The loop, the benchmark and the planner run this and nothing else.

use comm::{Communicator, Solo};
use engine::{Device, Inputs, NoParams, Options, ParamTable, Pass, Pool, Precision, Tape, key, mix};
use models::Model;
use parallel::{Replicated, lanes::LaneSum};

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
    /// Lanes of this rank, and the number of the first among all.
    pub lanes: usize,
    pub first_lane: usize,
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
            lanes: recipe.batch.lanes / recipe.parallel.ranks,
            first_lane: 0,
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
    let bytes = Replicated::<Solo>::bytes(model.params(), options.lanes);
    Ok(StepCost {
        micro_batch_flops: needed.map(|event| event.flops).sum(),
        optimiser_flops: Optimiser::flops(&options.optim, model.params()),
        params: model.params().elements(),
        weight_bytes: bytes.weights,
        grad_bytes: bytes.grads,
        optimiser_bytes: Optimiser::bytes(&options.optim, model.params()),
        packed_bytes: tape.packed_bytes(),
        pool_bytes: pool.usage().high_water_bytes,
    })
}

fn tape_options(options: &StepOptions, key: u64) -> Options {
    Options { precision: options.precision, recompute: options.recompute, train: true, key, trace: false }
}

/// Where a rank in training holds its parameters.
pub type Store = Replicated<Box<dyn Communicator>>;

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
    store: Store,
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
    pub fn on_rank(model: Box<dyn Model>, mut options: StepOptions, mut comm: Box<dyn Communicator>) -> Result<Self, TrainError> {
        options.first_lane = comm.rank() * options.lanes;
        let cost = cost(&*model, &options)?;
        let need_bytes = cost.total_bytes() * comm.ranks() as u64;
        let free_bytes = crate::memory::available_bytes().unwrap_or(u64::MAX);
        // No rank allocates before all have looked, or the last would find what the first left.
        comm.all_reduce(&mut [0.0], comm::Order::Tree).map_err(|e| engine::EngineError::Rank(Box::new(e)))?;
        if free_bytes < need_bytes {
            return Err(TrainError::Memory { need_bytes, free_bytes });
        }
        let store = Replicated::new(model.params(), options.seed, comm);
        let optimiser = Optimiser::new(&options.optim, model.params(), options.precision);
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

    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn optimiser(&self) -> &Optimiser {
        &self.optimiser
    }

    /// Model, its parameters and its pool, for passes that do not train.
    pub fn parts(&mut self) -> (&dyn Model, &mut Store, Precision) {
        (&*self.model, &mut self.store, self.options.precision)
    }

    /// The gradient of the mean loss over the batch: for each lane of this rank its micro-batches, in order. `tokens` is
    /// the number in the whole batch; the loss of each is divided by it, so cuts of one batch give one gradient.
    /// # Errors
    /// When shapes do not fit.
    pub fn gradient(&mut self, step: u64, lanes: &[Vec<Inputs>], tokens: u64) -> Result<Gradient, TrainError> {
        let scale = 1.0 / tokens as f32;
        let mut losses = LaneSum::default();
        self.store.begin_step();
        for (lane, micro_batches) in lanes.iter().enumerate() {
            let lane = self.options.first_lane + lane;
            let mut loss = 0.0_f64;
            for (i, inputs) in micro_batches.iter().enumerate() {
                self.store.begin_pass(i + 1 == micro_batches.len());
                let draw = mix(key(self.options.seed, "dropout") ^ mix(step) ^ mix((lane as u64) << 32 | i as u64));
                let table = self.model.params();
                let mut tape = Tape::new(&self.pool, &mut self.store, table, tape_options(&self.options, draw));
                let part = self.model.loss(&mut tape, inputs, scale)?;
                tape.backward(&part)?;
                loss += f64::from(part.f32s()[0]);
            }
            losses.put(vec![loss as f32]);
            losses.end_lane(1);
        }
        self.store.end_step()?;
        self.store.all_reduce_sum(losses.total_mut())?;
        let squares = self.table().ids().map(|id| kernels::elementwise::sum_squares(self.store.grad(id)));
        let norm = squares.sum::<f64>().sqrt();
        Ok(Gradient { loss: losses.total()[0], norm: norm as f32 })
    }

    /// Move every parameter by the gradient, clipped; `step` counts from 1.
    pub fn update(&mut self, step: u64, lr_share: f32, norm: f32) {
        let clip = self.options.clip;
        let grad_scale = if norm > clip { clip / norm } else { 1.0 };
        self.optimiser.update(Update { step, lr_share, grad_scale }, self.store.values_and_grads());
    }

    /// Put back values and state by name; the first name that is missing or of another length.
    pub fn restore(&mut self, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<(), String> {
        for id in self.model.params().ids() {
            let name = &self.model.params().spec(id).name;
            let values = find(name).ok_or_else(|| name.clone())?;
            let (w, _) = self.store.value_and_grad(id);
            if values.len() != w.len() {
                return Err(name.clone());
            }
            w.copy_from_slice(&values);
        }
        self.optimiser.restore(self.model.params(), find)
    }
}
