//! Every rank holds every parameter; gradients are summed over lanes, then over ranks, as Horovod and PyTorch's DDP do.
//!
//! A gradient that is final goes to the group at once, while the backward pass goes on: a large one by itself, without a
//! copy; small ones together, a block at a time. `herring` packs them in another way ([`Packing`]). Per rank: 4 bytes a
//! parameter for weights, 4 for each gradient that the lane tree holds, and in bf16 two packed copies of each matrix; per
//! step, `2 (n - 1) / n * grad_bytes` sent.

use std::{ops::Range, sync::Arc};

use comm::{Communicator, Group, Job, Order, Solo, Ticket};
use engine::{BlockId, Device, EngineError, Form, Numbers, Packed, ParamId, ParamStore, ParamTable, PassAt, Weight};

use crate::{
    Kind, Part, StoreBytes, Strategy,
    flat::{Flat, Piece},
    lanes::LaneSum,
    sum_over,
};

pub const KIND: Kind = Kind {
    name: "replicated",
    build: |b| {
        // Where the order is open, a communicator has ways of its own.
        let comm = if b.order == Order::Tree { comm::by_machine(b.comm)? } else { b.comm };
        Ok(Box::new(Replicated::new(b.table, b.device, comm, b.order, b.value)))
    },
    shards: |_, _| 1,
};

/// Gradients below this go together.
const SMALL: usize = 1 << 14;

/// Which gradients travel together.
pub(crate) trait Packing {
    /// A step begins.
    fn clear(&mut self);

    /// The gradient of `param` is final, which is not empty: what is now ready to go.
    fn add(&mut self, param: ParamId, grad: &mut LaneSum) -> Vec<Load>;

    /// There are no more in this step: what is left.
    fn rest(&mut self) -> Option<Load>;
}

/// Numbers on their way to be summed, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) numbers: Numbers,
    pub(crate) pieces: Vec<Piece>,
}

/// See the head of this file.
pub struct Replicated {
    table: ParamTable,
    device: Device,
    weights: Vec<Arc<Weight>>,
    grads: Vec<LaneSum>,
    pass: PassAt,
    group: Group,
    order: Order,
    packing: Box<dyn Packing + Send>,
    sent: Vec<(Ticket, Vec<Piece>)>,
    /// Gradients that are final in this step.
    is_final: Vec<bool>,
    packed: Packed,
    /// The most that was held.
    peak: StoreBytes,
}

impl Replicated {
    /// All parameters of `table` at the values that `value` gives, on one rank.
    #[must_use]
    pub fn solo(table: &ParamTable, value: impl FnMut(ParamId) -> Vec<f32>) -> Self {
        Self::new(table, Device::Cpu, Box::new(Solo), Order::Tree, value)
    }

    /// The same on each rank of `comm`; on `Meta` nobody asks for values.
    #[must_use]
    pub fn new(
        table: &ParamTable,
        device: Device,
        comm: Box<dyn Communicator>,
        order: Order,
        value: impl FnMut(ParamId) -> Vec<f32>,
    ) -> Self {
        Self::packed(table, device, comm, order, Box::new(Blocks::new(table)), value)
    }

    pub(crate) fn packed(
        table: &ParamTable,
        device: Device,
        comm: Box<dyn Communicator>,
        order: Order,
        packing: Box<dyn Packing + Send>,
        mut value: impl FnMut(ParamId) -> Vec<f32>,
    ) -> Self {
        let mut weight = |id| {
            let shape = table.spec(id).shape;
            Weight::new(Numbers::of(device, shape.elements(), || value(id)), shape)
        };
        let weights = table.ids().map(|id| Arc::new(weight(id))).collect();
        let grads = table.ids().map(|_| LaneSum::default()).collect();
        let pass = PassAt::ONLY;
        let is_final = vec![false; table.specs().len()];
        let group = Group::new(comm);
        Self {
            table: table.clone(),
            device,
            weights,
            grads,
            pass,
            group,
            order,
            packing,
            sent: Vec::new(),
            is_final,
            packed: Packed::of(table),
            peak: StoreBytes::default(),
        }
    }

    #[must_use]
    pub fn value(&self, id: ParamId) -> &[f32] {
        self.weights[id.0].values()
    }

    /// The gradient over the global batch, after [`Strategy::end_step`].
    #[must_use]
    pub fn grad(&self, id: ParamId) -> &[f32] {
        self.grads[id.0].total().map_or(&[], Numbers::values)
    }

    fn elements(&self, id: ParamId) -> usize {
        self.table.spec(id).shape.elements()
    }

    /// The gradient of `id` is final on this rank.
    fn send(&mut self, id: ParamId) {
        self.is_final[id.0] = true;
        for load in self.packing.add(id, &mut self.grads[id.0]) {
            self.start(load);
        }
    }

    fn start(&mut self, load: Load) {
        let ticket = self.group.start(Job::AllReduce(load.numbers, self.order));
        self.sent.push((ticket, load.pieces));
    }
}

/// A large gradient goes by itself; small ones go together, a block at a time.
struct Blocks {
    table: ParamTable,
    /// Of each block: gradients that are not final yet, and small ones that wait for the others.
    waiting: Vec<(usize, Load)>,
}

impl Blocks {
    fn new(table: &ParamTable) -> Self {
        let waiting = table.blocks().iter().map(|_| (0, Load::default())).collect();
        Self { table: table.clone(), waiting }
    }
}

impl Packing for Blocks {
    fn clear(&mut self) {
        for (block, (count, _)) in self.waiting.iter_mut().enumerate() {
            // Those of other stages of a pipeline are empty.
            let is_here = |spec: &&engine::ParamSpec| spec.block.0 == block && spec.shape.elements() > 0;
            *count = self.table.specs().iter().filter(is_here).count();
        }
    }

    fn add(&mut self, param: ParamId, grad: &mut LaneSum) -> Vec<Load> {
        let of_param = 0..grad.total().map_or(0, Numbers::len);
        let (count, small) = &mut self.waiting[self.table.spec(param).block.0];
        let mut ready = Vec::new();
        if of_param.len() >= SMALL {
            ready.extend(grad.take_total().map(|numbers| Load { numbers, pieces: vec![Piece { param, of_param, at: 0 }] }));
        } else if let Some(total) = grad.total() {
            small.pieces.push(Piece { param, of_param: of_param.clone(), at: small.numbers.len() });
            small.numbers.extend(total, of_param);
        }
        *count -= 1;
        if *count == 0 && !small.pieces.is_empty() {
            ready.push(std::mem::take(small));
        }
        ready
    }

    fn rest(&mut self) -> Option<Load> {
        None // the last gradient of a block takes all along
    }
}

impl Strategy for Replicated {
    fn begin_step(&mut self) {
        self.grads.iter_mut().for_each(LaneSum::clear);
        self.is_final.fill(false);
        self.packing.clear();
    }

    fn end_step(&mut self) -> Result<(), EngineError> {
        for id in self.table.ids() {
            if !self.is_final[id.0] && self.grads[id.0].is_empty() && self.elements(id) > 0 {
                // No op of the model used this parameter.
                let len = self.elements(id);
                self.grads[id.0].end_lane(self.device, len);
                if self.group.ranks() > 1 {
                    self.send(id);
                }
            }
        }
        if let Some(load) = self.packing.rest() {
            self.start(load);
        }
        let grads: u64 = self.table.ids().map(|id| self.grads[id.0].arrays() * self.elements(id) as u64).sum();
        let grads = 4 * grads + self.group.held_bytes();
        self.peak = self.peak.max(StoreBytes { weights: 4 * self.table.elements(), packed: self.packed.bytes(&self.table), grads });
        for (ticket, pieces) in std::mem::take(&mut self.sent) {
            let sums = self.group.wait(ticket).map_err(EngineError::rank)?;
            if let [piece] = &pieces[..]
                && self.grads[piece.param.0].is_empty()
            {
                // It went without a copy, and comes back so.
                self.grads[piece.param.0].set_total(sums);
                continue;
            }
            let Numbers::Here(sums) = sums else { continue };
            for Piece { param, of_param, at } in pieces {
                let len = of_param.len();
                self.grads[param.0].total_mut()[of_param].copy_from_slice(&sums[at..][..len]);
            }
        }
        Ok(())
    }

    fn share(&self) -> Vec<(ParamId, Range<usize>)> {
        self.table.ids().map(|id| (id, 0..self.elements(id))).collect()
    }

    fn parts(&mut self) -> Vec<Part<'_>> {
        let all = self.weights.iter_mut().zip(&mut self.grads).enumerate();
        all.map(|(i, (weight, grad))| {
            let values = Arc::get_mut(weight).expect("no tape holds a weight between steps").values_mut();
            Part { param: ParamId(i), of_param: 0..values.len(), values, grad: grad.total_mut() }
        })
        .collect()
    }

    fn publish(&mut self) -> Result<(), EngineError> {
        Ok(()) // every rank moved every parameter
    }

    fn is_cut(&self) -> bool {
        false
    }

    fn restore(&mut self, param: ParamId, whole: &[f32]) {
        let weight = Arc::get_mut(&mut self.weights[param.0]).expect("no tape holds a weight between steps");
        weight.values_mut().copy_from_slice(whole);
    }

    fn gather_grads(&mut self, _block: BlockId) -> Result<Flat, EngineError> {
        Ok(Flat::default()) // parts are whole
    }

    fn gather_parts(&mut self, block: BlockId, mine: Vec<Vec<f32>>) -> Result<Vec<(ParamId, Vec<f32>)>, EngineError> {
        Ok(self.table.ids().filter(|id| self.table.spec(*id).block == block).zip(mine).collect())
    }

    fn lane(&self, index: usize, lanes: usize, siblings: usize) -> usize {
        // A rank's lanes meet among themselves before they meet those of others.
        self.group.rank() / siblings * lanes + index
    }

    fn sum(&mut self, data: &mut [f32]) -> Result<(), EngineError> {
        sum_over(&mut self.group, data)
    }

    fn sum_parts(&mut self, _data: &mut [f32]) -> Result<(), EngineError> {
        Ok(())
    }

    fn rank(&self) -> (usize, usize) {
        (self.group.rank(), self.group.ranks())
    }

    fn groups(&mut self) -> Vec<&mut Group> {
        vec![&mut self.group]
    }

    fn peak_bytes(&self) -> StoreBytes {
        self.peak
    }
}

impl ParamStore for Replicated {
    fn begin_pass(&mut self, pass: PassAt) {
        self.pass = pass;
    }
    fn gather(&mut self, _block: BlockId) -> Result<(), EngineError> {
        Ok(()) // always here
    }
    fn release(&mut self, _block: BlockId) {}
    fn pack(&mut self, param: ParamId, form: Form) {
        self.packed.add(param, form);
    }
    fn weight(&self, param: ParamId) -> Arc<Weight> {
        self.group.pulse().beat();
        self.weights[param.0].clone()
    }
    fn take_grad(&mut self, param: ParamId) -> Numbers {
        let len = self.elements(param);
        self.grads[param.0].take(self.device, len)
    }
    fn put_grad(&mut self, param: ParamId, grad: Numbers) {
        self.grads[param.0].put(grad);
    }
    fn reduce(&mut self, param: ParamId) -> Result<(), EngineError> {
        if self.pass.ends_lane {
            let len = self.elements(param);
            self.grads[param.0].end_lane(self.device, len);
            if self.pass.ends_step {
                self.grads[param.0].finish();
            }
            if self.pass.ends_step && self.group.ranks() > 1 {
                self.send(param);
            }
        }
        Ok(())
    }
}
