//! One whole training step: forward and backward over lanes and micro-batches, the lane tree, clipping, the optimiser.
//! The loop, the benchmark and the planner run this and nothing else.

mod shared;
mod tensors;

use std::{
    borrow::Cow,
    cell::RefCell,
    ops::Range,
    rc::Rc,
    sync::{Arc, Mutex},
};

use comm::{Communicator, Group, Job, Order, Solo, Traffic};
use engine::{Array, Axis, BlockId, Device, EngineError, Event, Inputs, Options, ParamId, ParamTable, Partition, Pool, Shape, key, mix};
use kernels::elementwise::{Squares, sum_squares};
use models::Model;
use parallel::{
    Build, Strategy,
    lanes::LaneSum,
    mesh::{Groups, Mesh, Place},
    param_server::{Push, Report, Servers, Turn},
    pipeline::Action,
    sum_over,
};

use crate::{
    TrainError,
    asynchronous::{self, lock},
    cost::{Held, shared_blocks, tape_options},
    links::Edges,
    metric::MetricKind,
    optim::{Optimiser, Update},
    passes::{MicroBatch, Stage},
    timeline::{RankReport, Recorder, gather_texts},
};
pub use crate::{
    cost::{StepCost, cost},
    options::StepOptions,
};

/// A model in training: what one rank has of it.
pub struct Trainer {
    model: Box<dyn Model>,
    options: StepOptions,
    table: ParamTable,
    runs: Vec<Range<usize>>,
    store: Rc<RefCell<Box<dyn Strategy>>>,
    place: Place,
    world: Group,
    pipeline: Group,
    partition: parallel::mesh::Cut,
    edges: Edges,
    /// First and last stage, where they share a parameter.
    tied: Option<Group>,
    /// That of this rank's server moves parameters on a thread of its own.
    optimiser: Arc<Mutex<Optimiser>>,
    /// Without a common step; then also the part of a step that this rank has now.
    servers: Option<Servers>,
    part: usize,
    /// Steps that nobody has asked about yet, where all ranks make them together.
    finished: Vec<Report>,
    pool: Pool,
    cost: StepCost,
    /// On `Meta`, told of each op.
    watch: Option<Watch>,
    recorder: Option<Recorder>,
}

/// Told of each op as it is done.
pub type Watch = Box<dyn Fn(&Event)>;

/// What came of a forward and backward pass over the batch.
#[derive(Debug, Clone, Copy)]
pub struct Gradient {
    /// Mean over tokens, in nats.
    pub loss: f32,
    pub norm: f32,
}

impl Trainer {
    /// A model at its starting values, with memory for its steps, on one rank whatever mesh the options name.
    /// # Errors
    /// When shapes do not fit.
    pub fn new(model: Box<dyn Model>, options: StepOptions) -> Result<Self, TrainError> {
        let options = StepOptions { mesh: Mesh::data(1), shards: 1, chunks: 1, staleness: None, ..options };
        Self::on_rank(model, options, Box::new(Solo))
    }

    /// The same on `Meta`: every call does what it does on `Cpu`, with lengths instead of numbers, and tells `watch` of each
    /// op. Over a simulated `comm` that is the price of a step.
    /// # Errors
    /// As [`Trainer::new`]; when there is no common step to price.
    pub fn on_meta(model: Box<dyn Model>, options: StepOptions, comm: Box<dyn Communicator>, watch: Watch) -> Result<Self, TrainError> {
        options.needs_common_step()?;
        let device = Device::Meta(options.kind);
        Self::on_device(model, options, comm, device, Some(watch))
    }

    /// The same as one rank of as many as `options.mesh` has.
    /// # Errors
    /// As [`Trainer::new`]; when a rank does not answer.
    pub fn on_rank(model: Box<dyn Model>, options: StepOptions, comm: Box<dyn Communicator>) -> Result<Self, TrainError> {
        Self::on_device(model, options, comm, Device::Cpu, None)
    }

    fn on_device(
        model: Box<dyn Model>,
        options: StepOptions,
        mut comm: Box<dyn Communicator>,
        device: Device,
        watch: Option<Watch>,
    ) -> Result<Self, TrainError> {
        let mesh = options.mesh;
        let place = mesh.place(comm.rank());
        let held = Held::of(&*model, &options, place)?;
        let cost = held.cost(&*model, &options, place)?;
        let Held { runs, table } = held;
        let need_bytes = cost.total_bytes() * comm.ranks() as u64;
        let free_bytes = limits::available_bytes().unwrap_or(u64::MAX);
        if device.is_real() {
            // No rank allocates before all have looked, or the last would find what the first left.
            comm.all_reduce(&mut [0.0], Order::Any).map_err(EngineError::rank)?;
            if free_bytes < need_bytes {
                return Err(TrainError::Memory { need_bytes, free_bytes });
            }
        }
        let full = model.params();
        let mut value = |id: ParamId| {
            if table.spec(id).shape.elements() == 0 {
                return Vec::new();
            }
            full.slice(id, (place.tensor, mesh.tensor), &full.initial(id, options.seed))
        };
        let Groups { world, mut pipeline, data, cut: partition, .. } = Groups::new(mesh, comm).map_err(EngineError::rank)?;
        let (order, shards) = (options.order, options.shards);
        let mut build = |comm| {
            let build = Build { table: &table, device, order, comm, shards, value: &mut value };
            (options.strategy.build)(build).map_err(EngineError::rank)
        };
        let (store, optimiser, servers) = if let Some(staleness) = options.staleness {
            let store = build(Box::new(Solo))?;
            let (optimiser, servers) = asynchronous::begin(&table, data, staleness, &options)?;
            (store, optimiser, Some(servers))
        } else {
            let store = build(data)?;
            let optimiser = Optimiser::new(&options.optim, &table, options.precision, device, store.share());
            (store, Arc::new(Mutex::new(optimiser)), None)
        };
        let edges = Edges::new(&mut pipeline, options.chunks > 1).map_err(EngineError::rank)?;
        let is_tied = mesh.pipeline > 1 && !shared_blocks(full).is_empty();
        let tied = if is_tied {
            let is_end = |stage: usize| stage == 0 || stage + 1 == mesh.pipeline;
            let group = pipeline.split_by(|stage| usize::from(is_end(stage))).map_err(EngineError::rank)?;
            is_end(place.stage).then_some(group)
        } else {
            None
        };
        let pool = if device.is_real() { Pool::new(device, cost.pool_bytes) } else { Pool::planned(options.kind) };
        let store = Rc::new(RefCell::new(store));
        Ok(Self {
            model,
            table,
            runs,
            store,
            place,
            world,
            pipeline,
            partition,
            edges,
            tied,
            optimiser,
            servers,
            part: place.data,
            finished: Vec::new(),
            pool,
            cost,
            options,
            watch,
            recorder: None,
        })
    }

    #[must_use]
    pub fn options(&self) -> &StepOptions {
        &self.options
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
        let store = self.store.borrow().peak_bytes().total();
        let servers = if self.servers.is_some() { Servers::bytes(&self.table, self.options.mesh.data) } else { 0 };
        // These two nobody counts as they come and go.
        let StepCost { message_bytes, kernel_bytes, .. } = self.cost;
        self.pool.usage().high_water_bytes + store + lock(&self.optimiser).held_bytes() + servers + message_bytes + kernel_bytes
    }

    /// Run `look` on this rank's parts of values and gradients.
    pub fn with_store<T>(&mut self, look: impl FnOnce(&mut dyn Strategy) -> T) -> T {
        look(&mut **self.store.borrow_mut())
    }

    /// The sum over all ranks of the job, of something small.
    /// # Errors
    /// When a rank does not answer.
    pub fn sum(&mut self, data: &mut [f32]) -> Result<(), TrainError> {
        Ok(sum_over(&mut self.world, data)?)
    }

    /// What this rank has exchanged so far, by axis of the mesh. Waiting on `pipeline` is the bubble.
    #[must_use]
    pub fn traffic(&self) -> Vec<(&'static str, Traffic)> {
        let mut all: Vec<(&'static str, Traffic)> = Vec::new();
        all.extend(self.servers.as_ref().map(|servers| ("data", servers.traffic())));
        self.with_groups(&mut |axis, group| match all.last_mut() {
            Some((last, sum)) if *last == axis => *sum = *sum + group.traffic(),
            _ => all.push((axis, group.traffic())),
        });
        all
    }

    /// Run `look` on every group of this rank, axis after axis.
    fn with_groups(&self, look: &mut dyn FnMut(&'static str, &mut Group)) {
        self.store.borrow_mut().groups().into_iter().for_each(|group| look("data", group));
        self.partition.with_group(Axis::Tensor, |group| look("tensor", group));
        self.partition.with_group(Axis::Context, |group| look("context", group));
        self.edges.with_groups(&mut |group| look("pipeline", group));
    }

    /// Keep a timeline from now on.
    pub(crate) fn record(&mut self) {
        self.with_groups(&mut |_, group| group.record());
        let recorder = Recorder::start();
        self.recorder = Some(recorder.clone());
        self.watch = Some(Box::new(move |event| recorder.op(event)));
    }

    /// Keep no more of it.
    pub(crate) fn end_record(&mut self) {
        self.watch = None;
        if let Some(recorder) = &self.recorder {
            self.with_groups(&mut |axis, group| recorder.jobs(axis, group.spans()));
        }
    }

    /// The timeline kept, as every rank's text on the first; nothing on the others.
    pub(crate) fn recorded(&mut self) -> Result<Vec<String>, TrainError> {
        let text = self.recorder.take().map_or(String::new(), |recorder| recorder.text());
        Ok(gather_texts(&mut self.world, text)?)
    }

    /// What every rank came to in `steps` steps and `secs` seconds, on the first; nothing on the others.
    pub(crate) fn reports(&mut self, steps: u64, secs: f64) -> Result<Vec<RankReport>, TrainError> {
        let report = RankReport::new(self.world.rank(), self.place, steps, secs, self.used_bytes(), &self.traffic());
        let texts = gather_texts(&mut self.world, serde_json::to_string(&report).unwrap_or_default())?;
        Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    /// This rank, and their number.
    #[must_use]
    pub fn rank(&self) -> (usize, usize) {
        (self.world.rank(), self.world.ranks())
    }

    /// Whether all ranks make every step together.
    #[must_use]
    pub fn has_common_step(&self) -> bool {
        self.servers.is_none()
    }

    /// What this rank does next, `step` steps being done, on the way to the step `until`, where all meet. With a common step
    /// that is one step after another; without, a part of one, after which parameters are those of now, or to meet sooner
    /// because some rank says that it was asked to stop.
    /// # Errors
    /// When a rank does not answer.
    pub fn turn(&mut self, step: u64, until: u64, is_stopped: bool) -> Result<Turn, TrainError> {
        let Some(servers) = &mut self.servers else {
            return Ok(if step < until { Turn::Part { step: step + 1, part: self.part } } else { Turn::Meet(step) });
        };
        let turn = servers.turn(until, is_stopped).map_err(EngineError::rank)?;
        if let Turn::Part { part, .. } = turn {
            self.part = part;
        }
        asynchronous::pull(servers, &mut **self.store.borrow_mut())?;
        Ok(turn)
    }

    /// What [`Trainer::turn`] asked for is done.
    /// # Errors
    /// When a rank does not answer.
    pub fn done(&mut self, report: Report) -> Result<(), TrainError> {
        match &mut self.servers {
            Some(servers) => servers.done(report).map_err(EngineError::rank)?,
            None => self.finished.push(report),
        }
        Ok(())
    }

    /// The steps that were finished since this was last asked; without a common step, on the first rank alone.
    pub fn finished(&mut self) -> Vec<Report> {
        self.servers.as_ref().map_or_else(|| std::mem::take(&mut self.finished), Servers::finished)
    }

    /// The places among all lanes of those that this rank has now.
    #[must_use]
    pub fn lanes(&self) -> Vec<usize> {
        let lanes = self.options.lanes;
        if self.has_common_step() { self.seats() } else { (0..lanes).map(|index| self.part * lanes + index).collect() }
    }

    /// Their places among those of all ranks that sum gradients in one step.
    fn seats(&self) -> Vec<usize> {
        let store = self.store.borrow();
        (0..self.options.lanes).map(|index| store.lane(index, self.options.lanes, self.options.mesh.context)).collect()
    }

    /// The gradient of the mean loss over the batch: for each lane of this rank its micro-batches, in order. `weight` is what the whole
    /// batch weighs, its tokens or samples; each loss is divided by it, so cuts of one batch give one gradient.
    /// # Errors
    /// When shapes do not fit, or a rank does not answer.
    pub fn gradient(&mut self, step: u64, lanes: &[Vec<Inputs>], weight: u64) -> Result<Gradient, TrainError> {
        // Stores beat with every weight that an op asks for: a rank that stops doing so in here has hung.
        let _held = self.world.pulse().hold();
        let places = self.lanes();
        let own: Vec<Vec<Cow<'_, Inputs>>> = lanes.iter().map(|lane| lane.iter().map(|inputs| self.own_tokens(inputs)).collect()).collect();
        let mut micro_batches = Vec::new();
        for (index, (lane, place)) in own.iter().zip(&places).enumerate() {
            for (i, inputs) in lane.iter().enumerate() {
                let ends_lane = i + 1 == lane.len();
                let key = mix(key(self.options.seed, "dropout") ^ mix(step) ^ mix((*place as u64) << 32 | i as u64));
                micro_batches.push(MicroBatch { inputs, lane: index, key, ends_lane, ends_step: ends_lane && index + 1 == lanes.len() });
            }
        }
        let shared = self.shared_places(&micro_batches, &places, weight as usize);
        let ahead = self.shared_ahead(&micro_batches, &shared, weight as usize)?;
        micro_batches.iter_mut().zip(&ahead).for_each(|(pass, inputs)| pass.inputs = inputs);
        self.store.borrow_mut().begin_step();
        let actions = self.actions(micro_batches.len());
        let meet = micro_batches.first().filter(|_| shared.len() == 1).map(|pass| {
            let (this, own, inputs) = (&*self, &shared[0], pass.inputs);
            move |rows: &[f32]| Ok(shared::with_own(inputs, &this.meet(&[(own.clone(), rows)], weight as usize)?, own))
        });
        let mut stage = self.stage_of(&self.pool);
        stage.meet = meet.as_ref().map(|meet| meet as &dyn Fn(&[f32]) -> Result<Inputs, EngineError>);
        // Without a common step the rest of the batch is not waited for: the mean is that over its own part.
        let parts = self.servers.as_ref().map_or(1, |servers| servers.rank().1);
        let each = stage.run(&actions, &micro_batches, parts as f32 / weight as f32, &mut self.edges.clone(), &mut |_| {})?;
        self.store.borrow_mut().end_step()?;
        self.share_gradients()?;

        let siblings = self.options.mesh.context;
        let seats = self.seats();
        let mut sums = vec![0.0_f64; seats.len()];
        micro_batches.iter().zip(each).for_each(|(pass, loss)| sums[pass.lane] += f64::from(loss));
        let mut losses = vec![0.0; seats.len() * self.store.borrow().rank().1 / siblings];
        seats.iter().zip(sums).for_each(|(seat, loss)| losses[*seat] = loss as f32);
        // Each loss is one rank's own, and limbs add exactly: no order of adding them changes a bit.
        self.store.borrow_mut().sum(&mut losses)?;
        sum_over(&mut self.pipeline, &mut losses)?;
        let squares = self.squares()?;
        let mut tree = LaneSum::default();
        for loss in losses {
            tree.put(vec![loss].into());
            tree.end_lane(Device::Cpu, 1);
        }
        tree.finish();
        Ok(Gradient { loss: tree.total().map_or(0.0, |sum| sum.values()[0]), norm: squares.value().sqrt() as f32 })
    }

    /// Gradients of what several ranks hold and each has seen in part: whole parameters along the tensor axis, and those
    /// that the first and the last stage share.
    fn share_gradients(&mut self) -> Result<(), TrainError> {
        let (mut store, table) = (self.store.borrow_mut(), self.model.params());
        if self.options.mesh.tensor > 1 {
            exchange(&mut **store, |param| table.spec(param).cut.is_none(), |data| self.partition.sum(Axis::Tensor, data))?;
        }
        if let Some(group) = &mut self.tied {
            let shared = shared_blocks(table);
            let mut sum = |data: Vec<f32>| group.run(Job::AllReduce(data.into(), Order::Tree)).map(engine::Numbers::into_values);
            exchange(&mut **store, |param| shared.contains(&table.spec(param).block), |data| sum(data).map_err(EngineError::rank))?;
        }
        Ok(())
    }

    /// The sum of the squares of all gradients, each counted once.
    fn squares(&mut self) -> Result<Squares, EngineError> {
        let (mut store, table) = (self.store.borrow_mut(), self.model.params());
        let is_own = |block: BlockId| self.runs.iter().any(|run| run.contains(&block.0));
        let counts = |param: ParamId| {
            let spec = table.spec(param);
            is_own(spec.block) && (spec.cut.is_some() || self.place.tensor == 0)
        };
        let squares: Squares = store.parts().iter().filter(|part| counts(part.param)).map(|part| sum_squares(part.grad)).sum();
        let mut limbs = squares.limbs();
        store.sum_parts(&mut limbs)?;
        sum_over(&mut self.pipeline, &mut limbs)?;
        if self.options.mesh.tensor > 1 {
            limbs = self.partition.sum(Axis::Tensor, limbs.to_vec())?.try_into().unwrap_or(limbs);
        }
        Ok(Squares::from_limbs(limbs))
    }

    /// Move every parameter by the gradient, clipped; `step` counts from 1. Without a common step, the servers do.
    /// # Errors
    /// When a rank does not answer.
    pub fn update(&mut self, step: u64, lr_share: f32, norm: f32) -> Result<(), TrainError> {
        let clip = self.options.clip;
        let grad_scale = if norm > clip { clip / norm } else { 1.0 };
        let store = &mut **self.store.borrow_mut();
        match &mut self.servers {
            Some(servers) => {
                let number = (step - 1) * servers.rank().1 as u64 + self.part as u64 + 1;
                Ok(asynchronous::push(servers, Push { number, lr_share, grad_scale }, store)?)
            }
            None => Ok(lock(&self.optimiser).update(Update { step, lr_share, grad_scale }, store, &self.pool)?),
        }
    }

    /// What held-out samples are judged by.
    #[must_use]
    pub fn metric(&self) -> &'static MetricKind {
        self.options.objective.metric(&*self.model)
    }

    /// The summed figures of the objective over each of `batches` batches, which `inputs` gives; all ranks call it and get the same.
    /// Ranks that see other data take batches in turn.
    /// # Errors
    /// When shapes do not fit, a batch cannot be read, or a rank does not answer.
    pub fn figures(
        &mut self,
        pool: &Pool,
        batches: usize,
        inputs: &mut dyn FnMut(usize) -> Result<Inputs, TrainError>,
    ) -> Result<Vec<f64>, TrainError> {
        let siblings = self.options.mesh.context;
        let (rank, ranks) = self.servers.as_ref().map_or_else(|| self.store.borrow().rank(), Servers::rank);
        let (rank, ranks) = (rank / siblings, ranks / siblings);
        let mut sums = vec![[0.0; 3]; batches];
        let stage = self.stage_of(pool);
        for round in 0..batches.div_ceil(ranks) {
            // Where parameters are gathered, all ranks run as many passes; one that has no batch left repeats the last.
            let at = round * ranks + rank;
            let batch = inputs(at.min(batches - 1))?;
            let one = stage.figures(&self.own_tokens(&batch), &mut self.edges.clone())?;
            if let Some(sum) = sums.get_mut(at) {
                *sum = split(one);
            }
        }
        match &self.servers {
            Some(_) => sum_over(&mut self.world, sums.as_flattened_mut())?,
            None => self.store.borrow_mut().sum(sums.as_flattened_mut())?,
        }
        sum_over(&mut self.pipeline, sums.as_flattened_mut())?;
        Ok(sums.iter().map(|parts| parts.iter().map(|part| f64::from(*part)).sum()).collect())
    }

    fn actions(&self, micro_batches: usize) -> Vec<Action> {
        self.options.schedule.actions(self.place.stage, self.options.mesh.pipeline, micro_batches, self.options.chunks)
    }

    fn stage_of<'a>(&'a self, pool: &'a Pool) -> Stage<'a, dyn Strategy> {
        Stage {
            model: &*self.model,
            objective: &*self.options.objective,
            table: &self.table,
            pool,
            store: &self.store,
            partition: &self.partition,
            runs: &self.runs,
            options: Options { trace: self.watch.is_some(), ..tape_options(&self.options) },
            watch: self.watch.as_deref().unwrap_or(&|_| {}),
            meet: None,
        }
    }

    /// This rank's run of the tokens of each sequence.
    fn own_tokens<'a>(&self, inputs: &'a Inputs) -> Cow<'a, Inputs> {
        let (place, parts) = self.partition.place(Axis::Context);
        if parts == 1 {
            return Cow::Borrowed(inputs);
        }
        Cow::Owned(inputs.map(|array| match array {
            Array::U32(shape, data) if shape.dims().len() == 2 => {
                let (batch, seq) = (shape.dims()[0], shape.dims()[1]);
                let each = seq / parts;
                let rows = data.chunks(seq).flat_map(|row| &row[place * each..(place + 1) * each]).copied().collect();
                Array::U32(Shape::new(&[batch, each]), rows)
            }
            other => other.clone(),
        }))
    }
}

/// Send the gradients that `chosen` names through `sum`, as one array.
fn exchange(
    store: &mut dyn Strategy,
    chosen: impl Fn(ParamId) -> bool,
    sum: impl FnOnce(Vec<f32>) -> Result<Vec<f32>, EngineError>,
) -> Result<(), EngineError> {
    let mut parts: Vec<_> = store.parts().into_iter().filter(|part| chosen(part.param)).collect();
    let mut data = Vec::with_capacity(parts.iter().map(|part| part.grad.len()).sum());
    parts.iter().for_each(|part| data.extend_from_slice(part.grad));
    let sums = sum(data)?;
    let mut rest = &sums[..];
    for part in &mut parts {
        let (here, after) = rest.split_at(part.grad.len());
        part.grad.copy_from_slice(here);
        rest = after;
    }
    Ok(())
}

/// Three numbers whose sum is `x`, so that ranks can send it.
pub(crate) fn split(x: f64) -> [f32; 3] {
    let (first, rest) = (x as f32, x - f64::from(x as f32));
    [first, rest as f32, (rest - f64::from(rest as f32)) as f32]
}
