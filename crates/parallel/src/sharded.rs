//! Every rank of a group holds an equal part of each block, its gradient and the optimiser's state: ZeRO,
//! *Memory Optimizations Toward Training Trillion Parameter Models*, arXiv:1910.02054.
//!
//! ```text
//! stage  weights   gradients of a lane    summed gradients, optimiser   sent a step, of M bytes of parameters
//!   1    whole     whole                  1/n                           M (n-1)/n, twice
//!   2    whole     a block at a time      1/n                           M (n-1)/n a lane, and once more
//!   3    1/n, the block at work whole     1/n                           3 M (n-1)/n a lane
//! ```
//! In stages 2 and 3 a block's gradient is scattered as soon as it is final, lane by lane; ranks therefore take lanes in
//! turn, so that those that meet first in the tree are those that meet first on the wire. It may take as long as the next
//! block is at work, in the next lane too. In stage 3 the next block is on its way while one is at work. `mics` is
//! stage 3 inside a group that is repeated: in the last lane each part goes on to be summed over the groups as soon as it
//! has come (arXiv:2205.00119, section 3.3).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use comm::{CommError, Group, Job, Order, Ticket};
use engine::{BlockId, Device, EngineError, Form, Numbers, Packed, ParamId, ParamStore, ParamTable, PassAt, Weight};

use crate::{
    Build, Kind, Part, StoreBytes, Strategy,
    flat::{Flat, Layout},
    lanes::LaneSum,
    split, sum_over,
};

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Optimiser = 1,
    Gradients = 2,
    Weights = 3,
}

pub(crate) const ZERO_1: Kind = Kind { name: "zero1", build: |b| build(b, Stage::Optimiser), shards: |ranks, _| ranks };
pub(crate) const ZERO_2: Kind = Kind { name: "zero2", build: |b| build(b, Stage::Gradients), shards: |ranks, _| ranks };
pub(crate) const ZERO_3: Kind = Kind { name: "zero3", build: |b| build(b, Stage::Weights), shards: |ranks, _| ranks };

/// All ranks hold one copy together.
fn build(b: Build<'_>, stage: Stage) -> Result<Box<dyn Strategy>, CommError> {
    let ranks = b.comm.ranks();
    let (shard, replicas) = split(b.comm, ranks)?;
    Ok(Box::new(Sharded::new(b.table, stage, b.device, b.order, shard, replicas, b.value)))
}

/// See the head of this file.
pub struct Sharded {
    table: ParamTable,
    layout: Layout,
    stage: Stage,
    device: Device,
    order: Order,
    pass: PassAt,
    /// Ranks that share one copy of the model, and ranks that hold the same part of other copies.
    shard: Group,
    replicas: Group,
    /// This rank's part of each block, in stage 3.
    values: Vec<Numbers>,
    /// Those that can be read now.
    weights: Vec<Option<Arc<Weight>>>,
    /// Of each parameter the gradient of the lane at work; in stage 1 of all this rank's lanes.
    lanes: Vec<LaneSum>,
    /// Of each block this rank's part of the summed gradient.
    sums: Vec<LaneSum>,
    /// Parameters of each block whose gradient is not final in this lane.
    waiting: Vec<usize>,
    scattering: VecDeque<Scattering>,
    reducing: Vec<(BlockId, Ticket)>,
    gathering: BTreeMap<BlockId, Ticket>,
    /// How many blocks at work read each block, those that were released last, and the one gathered last.
    readers: Vec<u32>,
    idle: Vec<BlockId>,
    last: Option<BlockId>,
    packed: Packed,
    /// Numbers that have just come and are being laid out, and the most that was held.
    coming: usize,
    peak: StoreBytes,
}

/// A block's gradient on its way to those who hold its parts.
struct Scattering {
    block: BlockId,
    ticket: Ticket,
    /// It is that of the last lane.
    ends_step: bool,
}

impl Sharded {
    /// The parts of this rank, cut from the whole parameters that `value` gives; alike on every rank. On `Meta` it is
    /// not asked.
    #[must_use]
    pub fn new(
        table: &ParamTable,
        stage: Stage,
        device: Device,
        order: Order,
        shard: Group,
        replicas: Group,
        mut value: impl FnMut(ParamId) -> Vec<f32>,
    ) -> Self {
        let layout = Layout::new(table, shard.ranks());
        let (blocks, params) = (table.blocks().len(), table.specs().len());
        let mut this = Self {
            table: table.clone(),
            stage,
            device,
            order,
            pass: PassAt::ONLY,
            values: vec![Numbers::default(); blocks],
            weights: vec![None; params],
            lanes: (0..params).map(|_| LaneSum::default()).collect(),
            sums: (0..blocks).map(|_| LaneSum::default()).collect(),
            waiting: vec![0; blocks],
            scattering: VecDeque::new(),
            reducing: Vec::new(),
            gathering: BTreeMap::new(),
            readers: vec![0; blocks],
            idle: Vec::new(),
            last: None,
            packed: Packed::of(table),
            coming: 0,
            peak: StoreBytes::default(),
            layout,
            shard,
            replicas,
        };
        for block in this.layout.blocks() {
            let part = this.layout.part(block, this.shard.rank());
            let mut mine = Numbers::zeros(device, if stage == Stage::Weights { part.len() } else { 0 });
            for id in this.params_of(block) {
                let shape = table.spec(id).shape;
                let whole = Numbers::of(device, shape.elements(), || value(id));
                if stage != Stage::Weights {
                    this.weights[id.0] = Some(Arc::new(Weight::new(whole, shape)));
                    continue;
                }
                for piece in this.layout.pieces(block, part.clone()).filter(|piece| piece.param == id) {
                    mine.put(piece.at, &whole.part(piece.of_param));
                }
            }
            this.values[block.0] = mine;
        }
        this
    }

    fn elements(&self, id: ParamId) -> usize {
        self.table.spec(id).shape.elements()
    }

    fn params_of(&self, block: BlockId) -> impl Iterator<Item = ParamId> + use<> {
        let range =
            self.table.specs().partition_point(|spec| spec.block < block)..self.table.specs().partition_point(|spec| spec.block <= block);
        range.map(ParamId)
    }

    /// What is held now counts towards the peak.
    fn count(&mut self) {
        let whole = |id: ParamId| self.table.spec(id).shape.elements() as u64;
        let part = |block: BlockId| self.layout.part(block, 0).len() as u64;
        let weights: u64 = match self.stage {
            Stage::Weights => {
                let here = self.layout.blocks().filter(|block| self.is_here(*block)).flat_map(|block| self.params_of(block));
                self.layout.blocks().map(part).sum::<u64>() + here.map(whole).sum::<u64>()
            }
            _ => self.table.elements(),
        };
        let lanes: u64 = self.table.ids().map(|id| self.lanes[id.0].arrays() * whole(id)).sum();
        let sums: u64 = self.layout.blocks().map(|block| self.sums[block.0].arrays() * part(block)).sum();
        let on_their_way = self.shard.held_bytes() + self.replicas.held_bytes();
        let grads = 4 * (lanes + sums + self.coming as u64) + on_their_way;
        self.peak = self.peak.max(StoreBytes { weights: 4 * weights, packed: self.packed.bytes(&self.table), grads });
    }

    /// The blocks whose parameters the pass at work reads.
    fn in_pass(&self) -> BTreeSet<BlockId> {
        let run = self.layout.blocks().filter(|block| (self.pass.first..self.pass.end).contains(&block.0));
        run.flat_map(|block| self.table.needs(block)).collect()
    }

    /// A block end to end, from one array for each parameter.
    fn flatten<'a>(&self, block: BlockId, of: impl Fn(ParamId) -> Option<&'a Numbers>) -> Numbers {
        let mut flat = Numbers::zeros(self.device, self.layout.len(block));
        for piece in self.layout.whole(block) {
            if let Some(numbers) = of(piece.param) {
                flat.put(piece.at, numbers);
            }
        }
        flat
    }

    /// All gradients of `block` are final in this lane, or in stage 1 in this step.
    fn scatter(&mut self, block: BlockId) -> Result<(), EngineError> {
        let len = self.layout.len(block);
        if len == 0 {
            return Ok(()); // it is another stage's
        }
        // In stage 1 each block is scattered once a step, and other stages of a pipeline wait for this pass: the end is soon enough.
        let is_soon = self.stage != Stage::Optimiser;
        if is_soon {
            // The one before had the time in which this one was computed, and is gone before this one is laid out.
            self.collect()?;
        }
        for id in self.params_of(block) {
            self.lanes[id.0].finish();
        }
        let flat = self.flatten(block, |id| self.lanes[id.0].total());
        // Those of the lane, and the same laid end to end: the first are needed no more.
        self.coming = len;
        self.count();
        self.coming = 0;
        for id in self.params_of(block) {
            self.lanes[id.0].free();
        }
        let ticket = self.shard.start(Job::ReduceScatter(flat, self.order));
        self.count();
        self.scattering.push_back(Scattering { block, ticket, ends_step: self.pass.ends_step });
        // Alone there is nothing to wait for.
        if is_soon && self.shard.ranks() == 1 { self.collect() } else { Ok(()) }
    }

    /// Take in the parts that are on their way. Those of the last lane go on to the other copies.
    fn collect(&mut self) -> Result<(), EngineError> {
        while let Some(Scattering { block, ticket, ends_step }) = self.scattering.pop_front() {
            let part = self.shard.wait(ticket).map_err(EngineError::rank)?;
            let len = part.len();
            self.sums[block.0].bring(part);
            self.count();
            self.sums[block.0].end_lane(self.device, len);
            if ends_step {
                self.sums[block.0].finish();
            }
            if ends_step
                && self.replicas.ranks() > 1
                && let Some(total) = self.sums[block.0].take_total()
            {
                self.reducing.push((block, self.replicas.start(Job::AllReduce(total, self.order))));
            }
        }
        Ok(())
    }

    fn start_gather(&mut self, block: BlockId) {
        if self.is_here(block) || self.layout.len(block) == 0 || self.gathering.contains_key(&block) {
            return;
        }
        let ticket = self.shard.start(Job::AllGather(self.values[block.0].clone(), self.layout.len(block)));
        self.gathering.insert(block, ticket);
    }

    /// Where weights are whole: this rank's part of `block` goes to the others.
    fn start_publish(&mut self, block: BlockId) -> Ticket {
        let part = self.layout.part(block, self.shard.rank());
        let mut mine = Numbers::zeros(self.device, part.len());
        for piece in self.layout.pieces(block, part) {
            if let Some(whole) = &self.weights[piece.param.0] {
                mine.put(piece.at, &whole.numbers().part(piece.of_param));
            }
        }
        let ticket = self.shard.start(Job::AllGather(mine, self.layout.len(block)));
        self.count();
        ticket
    }

    fn end_publish(&mut self, block: BlockId, ticket: Ticket) -> Result<(), EngineError> {
        let flat = self.shard.wait(ticket).map_err(EngineError::rank)?;
        let Numbers::Here(flat) = flat else { return Ok(()) };
        for piece in self.layout.whole(block) {
            if let Some(weight) = self.weights[piece.param.0].as_mut().and_then(Arc::get_mut) {
                weight.values_mut().copy_from_slice(&flat[piece.at..][..piece.of_param.len()]);
            }
        }
        Ok(())
    }

    fn is_here(&self, block: BlockId) -> bool {
        self.readers[block.0] > 0 || self.idle.contains(&block)
    }

    /// Let go of what nobody reads, but for `needs`.
    fn drop_idle(&mut self, needs: &[BlockId]) {
        for block in std::mem::take(&mut self.idle) {
            if needs.contains(&block) {
                self.idle.push(block);
                continue;
            }
            for id in self.params_of(block) {
                self.weights[id.0] = None;
                self.packed.forget(id);
            }
        }
    }

    /// The block that will be wanted after `block`: forward, back from the last one, and forward again in the next pass.
    fn next(&self, block: BlockId) -> Option<BlockId> {
        let is_last = block.0 + 1 == self.table.blocks().len();
        let is_forward = match self.last {
            Some(last) if last > block => block.0 == 0 && !self.pass.ends_step,
            Some(last) => last < block || block.0 == 0,
            None => true,
        };
        if is_forward && !is_last { Some(BlockId(block.0 + 1)) } else { block.0.checked_sub(1).map(BlockId) }
    }
}

impl Strategy for Sharded {
    fn begin_step(&mut self) {
        self.lanes.iter_mut().for_each(LaneSum::clear);
        self.sums.iter_mut().for_each(LaneSum::free);
    }

    fn end_step(&mut self) -> Result<(), EngineError> {
        self.collect()?;
        for (block, ticket) in std::mem::take(&mut self.reducing) {
            let sum = self.replicas.wait(ticket).map_err(EngineError::rank)?;
            self.sums[block.0].set_total(sum);
        }
        Ok(())
    }

    fn share(&self) -> Vec<(ParamId, Range<usize>)> {
        self.layout.share(self.shard.rank()).map(|piece| (piece.param, piece.of_param)).collect()
    }

    fn parts(&mut self) -> Vec<Part<'_>> {
        let rank = self.shard.rank();
        let mut weights: Vec<Option<&mut [f32]>> = (self.weights.iter_mut())
            .map(|weight| weight.as_mut().map(|weight| Arc::get_mut(weight).expect("no tape holds a weight between steps").values_mut()))
            .collect();
        let mut parts = Vec::new();
        for ((block, sum), values) in self.layout.blocks().zip(&mut self.sums).zip(&mut self.values) {
            let (mut grads, mut values, mut done) = (sum.total_mut(), values.values_mut(), 0);
            for piece in self.layout.pieces(block, self.layout.part(block, rank)) {
                let (skip, len) = (piece.at - done, piece.of_param.len());
                let grad = cut(&mut grads, skip, len);
                let values = match &mut weights[piece.param.0] {
                    Some(_) if self.stage != Stage::Weights => {
                        // A rank has one run of each parameter.
                        let whole = weights[piece.param.0].take().unwrap_or_default();
                        whole.get_mut(piece.of_param.clone()).unwrap_or_default()
                    }
                    _ => cut(&mut values, skip, len),
                };
                done = piece.at + len;
                parts.push(Part { param: piece.param, of_param: piece.of_param, values, grad });
            }
        }
        parts
    }

    fn publish(&mut self) -> Result<(), EngineError> {
        // What was gathered before is stale.
        self.drop_idle(&[]);
        for (_, ticket) in std::mem::take(&mut self.gathering) {
            self.shard.wait(ticket).map_err(EngineError::rank)?;
        }
        self.last = None;
        if self.stage == Stage::Weights {
            return Ok(());
        }
        // One block comes in while the next is on its way.
        let blocks = self.layout.blocks().filter(|block| self.layout.len(*block) > 0).collect::<Vec<_>>();
        let mut ahead: Option<(BlockId, Ticket)> = None;
        for block in blocks {
            let sent = (block, self.start_publish(block));
            if let Some((block, ticket)) = ahead.replace(sent) {
                self.end_publish(block, ticket)?;
            }
        }
        ahead.map_or(Ok(()), |(block, ticket)| self.end_publish(block, ticket))
    }

    fn is_cut(&self) -> bool {
        self.shard.ranks() > 1
    }

    fn restore(&mut self, param: ParamId, whole: &[f32]) {
        let block = self.table.spec(param).block;
        if let Some(weight) = self.weights[param.0].as_mut().and_then(Arc::get_mut) {
            weight.values_mut().copy_from_slice(whole);
        }
        let pieces: Vec<_> = self.layout.pieces(block, self.layout.part(block, self.shard.rank())).collect();
        for piece in pieces.into_iter().filter(|piece| self.stage == Stage::Weights && piece.param == param) {
            self.values[block.0].values_mut()[piece.at..][..piece.of_param.len()].copy_from_slice(&whole[piece.of_param]);
        }
    }

    fn gather_grads(&mut self, block: BlockId) -> Result<Flat, EngineError> {
        let len = self.layout.part(block, 0).len();
        let part = self.sums[block.0].take_total().unwrap_or_else(|| Numbers::zeros(self.device, len));
        let ticket = self.shard.start(Job::AllGather(part, self.layout.len(block)));
        self.count();
        Ok(self.layout.flat(block, self.shard.wait(ticket).map_err(EngineError::rank)?))
    }

    fn gather_parts(&mut self, block: BlockId, mine: Vec<Vec<f32>>) -> Result<Vec<(ParamId, Vec<f32>)>, EngineError> {
        self.layout.gather(block, &mut self.shard, self.device, mine)
    }

    fn lane(&self, index: usize, lanes: usize, siblings: usize) -> usize {
        let (rank, shards) = (self.rank().0 / siblings, (self.shard.ranks() / siblings).max(1));
        match self.stage {
            Stage::Optimiser => rank * lanes + index,
            _ => (rank / shards * lanes + index) * shards + rank % shards,
        }
    }

    fn sum(&mut self, data: &mut [f32]) -> Result<(), EngineError> {
        sum_over(&mut self.shard, data)?;
        sum_over(&mut self.replicas, data)
    }

    fn sum_parts(&mut self, data: &mut [f32]) -> Result<(), EngineError> {
        sum_over(&mut self.shard, data)
    }

    fn rank(&self) -> (usize, usize) {
        let shards = self.shard.ranks();
        (self.replicas.rank() * shards + self.shard.rank(), shards * self.replicas.ranks())
    }

    fn groups(&mut self) -> Vec<&mut Group> {
        vec![&mut self.shard, &mut self.replicas]
    }

    fn peak_bytes(&self) -> StoreBytes {
        // Copies of weights that are always here stay from one step to the next.
        let packed = if self.stage == Stage::Weights { self.peak.packed } else { self.packed.bytes(&self.table) };
        StoreBytes { packed, ..self.peak }
    }
}

/// The `len` numbers after the first `skip` of a run, of which what follows remains.
pub(crate) fn cut<'a>(run: &mut &'a mut [f32], skip: usize, len: usize) -> &'a mut [f32] {
    if run.is_empty() {
        return &mut []; // before the first step there are no gradients
    }
    let (_, after) = std::mem::take(run).split_at_mut(skip);
    let (here, after) = after.split_at_mut(len);
    *run = after;
    here
}

impl ParamStore for Sharded {
    fn begin_pass(&mut self, pass: PassAt) {
        self.pass = pass;
        for block in self.in_pass() {
            self.waiting[block.0] = self.params_of(block).count();
        }
    }

    fn end_pass(&mut self) -> Result<(), EngineError> {
        if self.pass.ends_step || self.pass.ends_lane && self.stage != Stage::Optimiser {
            for block in self.in_pass().into_iter().filter(|block| self.waiting[block.0] > 0).collect::<Vec<_>>() {
                // Some of its parameters are not used by the model, or not by this pass.
                for id in self.params_of(block) {
                    if self.lanes[id.0].is_empty() {
                        let elements = self.elements(id);
                        self.lanes[id.0].end_lane(self.device, elements);
                    }
                }
                self.scatter(block)?;
            }
        }
        Ok(())
    }

    fn gather(&mut self, block: BlockId) -> Result<(), EngineError> {
        if self.stage != Stage::Weights {
            return Ok(());
        }
        let needs = self.table.needs(block);
        self.drop_idle(&needs);
        for need in needs {
            self.start_gather(need);
            if let Some(ticket) = self.gathering.remove(&need) {
                self.coming = self.layout.len(need);
                let flat = self.shard.wait(ticket).map_err(EngineError::rank)?;
                for piece in self.layout.whole(need) {
                    let values = flat.part(piece.at..piece.at + piece.of_param.len());
                    self.weights[piece.param.0] = Some(Arc::new(Weight::new(values, self.table.spec(piece.param).shape)));
                }
            }
            self.idle.retain(|idle| *idle != need);
            self.readers[need.0] += 1;
            self.count();
            self.coming = 0;
        }
        if let Some(next) = self.next(block) {
            self.table.needs(next).into_iter().for_each(|need| self.start_gather(need));
        }
        self.last = Some(block);
        Ok(())
    }

    fn release(&mut self, block: BlockId) {
        if self.stage != Stage::Weights {
            return;
        }
        self.count();
        for need in self.table.needs(block) {
            self.readers[need.0] -= 1;
            if self.readers[need.0] == 0 {
                // The last block of the forward pass is the first of the backward one.
                self.idle.push(need);
            }
        }
    }

    fn pack(&mut self, param: ParamId, form: Form) {
        self.packed.add(param, form);
    }

    fn weight(&self, param: ParamId) -> Arc<Weight> {
        self.shard.pulse().beat();
        let weight = self.weights[param.0].as_ref();
        weight.unwrap_or_else(|| unreachable!("`{}` is read outside of its block", self.table.spec(param).name)).clone()
    }

    fn take_grad(&mut self, param: ParamId) -> Numbers {
        let elements = self.elements(param);
        self.lanes[param.0].take(self.device, elements)
    }

    fn put_grad(&mut self, param: ParamId, grad: Numbers) {
        self.lanes[param.0].put(grad);
    }

    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError> {
        if !self.pass.ends_lane {
            return Ok(());
        }
        let elements = self.elements(param);
        self.lanes[param.0].end_lane(self.device, elements);
        if self.stage == Stage::Optimiser && !self.pass.ends_step {
            return Ok(());
        }
        let block = self.table.spec(param).block;
        self.waiting[block.0] -= 1;
        if self.waiting[block.0] == 0 { self.scatter(block) } else { Ok(()) }
    }
}
