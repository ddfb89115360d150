//! Optimisers: AdamW for all parameters, or Muon for matrices and AdamW for the rest, and beside either a running average of the weights.
//! State is kept for the parts that a rank moves, and named for checkpoints: `optim/m/...`, `optim/v/...`, `optim/momentum/...`,
//! `optim/average/...`.

mod muon;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use engine::{BlockId, Buffer, Device, Dtype, EngineError, Numbers, ParamId, ParamKind, ParamTable, Pool, Precision, Shape};
use parallel::{Part, Strategy};
use rayon::prelude::*;

use crate::recipe::{Optim, OptimKind};

/// What the names of its arrays begin with; those of a model's own begin with none such.
pub(crate) const STATE: &str = "optim/";

/// The running average of weights.
const AVERAGE: &str = "average";

/// The name under which a checkpoint keeps the average of a parameter.
#[must_use]
pub fn average_name(param: &str) -> String {
    format!("{STATE}{AVERAGE}/{param}")
}

/// One step's constants.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// From 1.
    pub step: u64,
    /// Share of the peak learning rate.
    pub lr_share: f32,
    /// What gradients are multiplied by: the clip factor.
    pub grad_scale: f32,
}

/// The state of every part that this rank moves.
pub struct Optimiser {
    options: Optim,
    precision: Precision,
    states: Vec<State>,
    /// Updates that its averages saw in another run.
    updates_before: u64,
    /// Blocks that have matrices for Muon, whoever holds them.
    muon_blocks: Vec<BlockId>,
}

/// Of the numbers `of_param` of one parameter.
struct State {
    param: ParamId,
    block: BlockId,
    shape: Shape,
    of_param: Range<usize>,
    moments: Moments,
    /// Of the values, where one is kept.
    average: Option<Numbers>,
    /// What no value may pass.
    most: Option<f32>,
}

enum Moments {
    AdamW { m: Numbers, v: Numbers, decays: bool },
    Muon { momentum: Numbers },
}

impl State {
    /// By the names that checkpoints use.
    fn arrays(&self) -> Vec<(&'static str, &Numbers)> {
        let mut all = match &self.moments {
            Moments::AdamW { m, v, .. } => vec![("m", m), ("v", v)],
            Moments::Muon { momentum } => vec![("momentum", momentum)],
        };
        all.extend(self.average.as_ref().map(|average| (AVERAGE, average)));
        all
    }

    fn arrays_mut(&mut self) -> Vec<(&'static str, &mut Numbers)> {
        let mut all = match &mut self.moments {
            Moments::AdamW { m, v, .. } => vec![("m", m), ("v", v)],
            Moments::Muon { momentum } => vec![("momentum", momentum)],
        };
        all.extend(self.average.as_mut().map(|average| (AVERAGE, average)));
        all
    }

    /// The values have moved.
    fn settle(&mut self, values: &mut [f32], keeps: f32) {
        if let Some(most) = self.most {
            values.iter_mut().for_each(|value| *value = value.min(most));
        }
        if let Some(average) = &mut self.average {
            average.values_mut().iter_mut().zip(values).for_each(|(average, value)| *average = *value + keeps * (*average - *value));
        }
    }
}

impl Optimiser {
    /// State for a share of the numbers of parameters, none of it on `Meta`. `precision` is that of the step's products, and
    /// of Muon's.
    #[must_use]
    pub fn new(options: &Optim, table: &ParamTable, precision: Precision, device: Device, share: Vec<(ParamId, Range<usize>)>) -> Self {
        let state = |(param, of_param): (ParamId, Range<usize>)| {
            let spec = table.spec(param);
            let zeros = || Numbers::zeros(device, of_param.len());
            let moments = if is_muon(options, spec.kind) {
                Moments::Muon { momentum: zeros() }
            } else {
                Moments::AdamW { m: zeros(), v: zeros(), decays: spec.kind != ParamKind::Vector }
            };
            let average = (options.average > 0.0).then(zeros);
            State { param, block: spec.block, shape: spec.shape, of_param, moments, average, most: spec.most }
        };
        let states = share.into_iter().map(state).collect();
        let mut muon_blocks: Vec<BlockId> =
            table.specs().iter().filter(|spec| is_muon(options, spec.kind) && spec.shape.elements() > 0).map(|spec| spec.block).collect();
        muon_blocks.dedup();
        Self { options: options.clone(), precision, states, updates_before: 0, muon_blocks }
    }

    /// Its averages, once restored, come from so many updates of another run.
    pub fn go_on_after(&mut self, updates: u64) {
        self.updates_before = updates;
    }

    /// Bytes of state for so many numbers of each parameter.
    #[must_use]
    pub fn bytes(options: &Optim, table: &ParamTable, share: impl Iterator<Item = (ParamId, usize)>) -> u64 {
        let copies = |kind| if is_muon(options, kind) { 1 } else { 2 } + u64::from(options.average > 0.0);
        share.map(|(param, elements)| 4 * copies(table.spec(param).kind) * elements as u64).sum()
    }

    /// Operations of one step's products: Muon's rounds. What AdamW does to each number is not counted, as is usual.
    #[must_use]
    pub fn flops(options: &Optim, table: &ParamTable) -> u64 {
        table.specs().iter().filter(|spec| is_muon(options, spec.kind)).map(|spec| muon::flops(spec.shape)).sum()
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.states.iter().flat_map(State::arrays).map(|(_, array)| array.bytes()).sum()
    }

    /// Move `parts`, which are those of the share that this was made for, by their gradients: AdamW, which needs no more of a
    /// parameter than a part.
    pub fn apply(&mut self, update: Update, parts: Vec<Part<'_>>) {
        let update = self.counted(update);
        let (adamw, keeps) = (self.adamw(update), self.keeps(update.step));
        self.states.iter_mut().zip(parts).for_each(|(state, part)| {
            if let Moments::AdamW { m, v, decays } = &mut state.moments {
                adamw(*decays).update(part.values, part.grad, m.values_mut(), v.values_mut());
            }
            state.settle(part.values, keeps);
        });
    }

    fn counted(&self, update: Update) -> Update {
        Update { step: update.step + self.updates_before, ..update }
    }

    /// How much of the average stays at this step: little at first, or it would be that of the start (as TensorFlow's
    /// `ExponentialMovingAverage` with a number of updates).
    fn keeps(&self, step: u64) -> f32 {
        if step <= 1 { 0.0 } else { self.options.average.min((1.0 + step as f32) / (10.0 + step as f32)) }
    }

    /// One step of AdamW, for what decays and what does not.
    fn adamw(&self, update: Update) -> impl Fn(bool) -> kernels::adamw::AdamW + use<> {
        let o = self.options.clone();
        move |decays| kernels::adamw::AdamW {
            lr: o.lr * update.lr_share,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: if decays { o.weight_decay } else { 0.0 },
            step: update.step,
            grad_scale: update.grad_scale,
        }
    }

    /// Move this rank's parts by their gradients. Where matrices are cut, Muon's directions are gathered, block by block. `pool`,
    /// of which a step uses nothing by now, lends it working space.
    /// # Errors
    /// When a rank does not answer, or the pool is too small for one matrix.
    pub fn update(&mut self, update: Update, store: &mut dyn Strategy, pool: &Pool) -> Result<(), EngineError> {
        let update = self.counted(update);
        let (adamw, keeps) = (self.adamw(update), self.keeps(update.step));
        let (o, precision, is_cut) = (&self.options, self.precision, store.is_cut());
        let muon = muon::Muon {
            lr: o.muon_lr * update.lr_share,
            momentum: o.momentum,
            weight_decay: o.weight_decay,
            grad_scale: update.grad_scale,
            // A gradient from bf16 products knows no more digits than they do.
            precision,
        };
        self.states.par_iter_mut().zip(store.parts()).with_max_len(1).for_each(|(state, part)| match &mut state.moments {
            Moments::AdamW { m, v, decays } => adamw(*decays).update(part.values, part.grad, m.values_mut(), v.values_mut()),
            Moments::Muon { momentum } => muon.direct(part.grad, momentum.values_mut()),
        });
        let matrices = || self.states.iter().filter(|state| matches!(state.moments, Moments::Muon { .. }));
        let each = matrices().map(|state| muon::scratch_len(state.shape)).max().unwrap_or(0);
        let mut scratch = Scratch::of(pool, each)?;
        // On `Meta` nothing is here to be moved.
        let is_here = |state: &State, part: &Part<'_>| matches!(state.moments, Moments::Muon { .. }) && !part.values.is_empty();
        let step = |task: muon::Task<'_>, scratch: &mut [f32]| muon.step(task, scratch);
        if is_cut {
            for block in &self.muon_blocks {
                let whole = store.gather_grads(*block)?;
                let parts = self.states.iter().zip(store.parts()).filter(|(state, part)| state.block == *block && is_here(state, part));
                let tasks = parts.flat_map(|(state, part)| muon::tasks(part.values, part.of_param, whole.of(state.param), state.shape));
                scratch.share(tasks, step);
            }
        } else {
            let parts = self.states.iter().zip(store.parts()).filter(|(state, part)| is_here(state, part));
            let tasks = parts.flat_map(|(state, part)| muon::tasks(part.values, part.of_param, part.grad, state.shape));
            scratch.share(tasks, step);
        }
        drop(scratch);
        self.states.par_iter_mut().zip(store.parts()).with_max_len(1).for_each(|(state, part)| state.settle(part.values, keeps));
        store.publish()
    }

    /// The state of a block's parameters as arrays with their names. `gather` makes whole ones of what each rank has, as
    /// [`Strategy::gather_parts`] does.
    /// # Errors
    /// When a rank does not answer.
    pub fn tensors(
        &self,
        table: &ParamTable,
        block: BlockId,
        mut gather: impl FnMut(Vec<Vec<f32>>) -> Result<Vec<(ParamId, Vec<f32>)>, EngineError>,
    ) -> Result<Vec<(String, ParamId, Vec<f32>)>, EngineError> {
        let of_block = || self.states.iter().filter(|state| state.block == block);
        let mut all = Vec::new();
        for kind in ["m", "v", "momentum", AVERAGE] {
            // A part whose optimiser has no such state goes along as zeros, so that a block is gathered as one.
            let zeros = |state: &State| vec![0.0; state.of_param.len()];
            let find = |state: &State| state.arrays().into_iter().find(|(name, _)| *name == kind).map(|(_, array)| array.values().to_vec());
            let mine = of_block().map(|state| find(state).unwrap_or_else(|| zeros(state))).collect();
            let has_kind = |param: ParamId| match kind {
                AVERAGE => self.options.average > 0.0,
                _ => is_muon(&self.options, table.spec(param).kind) == (kind == "momentum"),
            };
            if !table.ids().any(|id| table.spec(id).block == block && has_kind(id)) {
                continue;
            }
            for (param, values) in gather(mine)?.into_iter().filter(|(param, _)| has_kind(*param)) {
                all.push((format!("{STATE}{kind}/{}", table.spec(param).name), param, values));
            }
        }
        Ok(all)
    }

    /// Take state from the array of that name and parameter that `find` gives.
    /// # Errors
    /// That of `find`.
    pub fn restore(&mut self, table: &ParamTable, mut find: impl FnMut(&str, ParamId) -> Result<Vec<f32>, String>) -> Result<(), String> {
        for state in &mut self.states {
            let (name, param, of_param) = (&table.spec(state.param).name, state.param, state.of_param.clone());
            for (kind, into) in state.arrays_mut() {
                let name = format!("{STATE}{kind}/{name}");
                into.values_mut().copy_from_slice(&find(&name, param)?[of_param.clone()]);
            }
        }
        Ok(())
    }
}

/// Working space for as many matrices at a time as there are threads and the pool has room for; on `Meta`, where there is no end
/// of it, for one, so that a pool is never the larger for it.
struct Scratch {
    buffer: Buffer,
    each: usize,
}

impl Scratch {
    fn of(pool: &Pool, each: usize) -> Result<Self, EngineError> {
        let room = pool.capacity_bytes() as usize / (4 * each).max(1);
        let count = if pool.device().is_real() { room.clamp(1, rayon::current_num_threads()) } else { 1 };
        Ok(Self { buffer: pool.take(Dtype::F32, count * each)?, each })
    }

    /// `work` is shared out among threads, each with space of its own; a small product alone would keep few of them busy.
    fn share<T: Send>(&mut self, work: impl Iterator<Item = T>, run: impl Fn(T, &mut [f32]) + Sync) {
        let queue = Mutex::new(work.collect::<Vec<T>>().into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.buffer.f32s_mut().par_chunks_exact_mut(self.each.max(1)).for_each(|scratch| {
            while let Some(work) = next() {
                run(work, scratch);
            }
        });
    }
}

fn is_muon(options: &Optim, kind: ParamKind) -> bool {
    options.kind == OptimKind::Muon && kind == ParamKind::Matrix
}
