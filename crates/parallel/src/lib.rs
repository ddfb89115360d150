//! Strategies: who holds a parameter, when it is gathered, where its gradient goes. Each is one file that implements
//! [`Strategy`]; a model never knows which.
//!
//! ```text
//! Trainer -> Strategy::begin_pass -> tape (gather, release, reduce) -> end_step -> parts -> optimiser -> publish
//! ```
//! [`Kind`] makes one by the name in a recipe, from the groups that the [`mesh::Mesh`] gives. [`lanes`] holds the tree over
//! lanes that all data-parallel strategies share, [`flat`] the cut of a block into equal parts.
//!
//! **Invariant:** the data-parallel strategies give the bits of one rank, at any number of ranks that divides the lanes.

pub mod flat;
mod herring;
pub mod lanes;
pub mod mesh;
mod mics;
pub mod param_server;
pub mod pipeline;
pub mod replicated;
mod sharded;

use std::ops::Range;

use comm::{CommError, Communicator, Group, Order};
use engine::{BlockId, Device, EngineError, ParamId, ParamStore, ParamTable};
use flat::Flat;
use registry::{Named, Registry};
pub use replicated::Replicated;
pub use sharded::{Sharded, Stage};

/// A [`ParamStore`] that a training step runs over.
pub trait Strategy: ParamStore {
    /// Forget the last step's gradients.
    fn begin_step(&mut self);

    /// All passes are done: afterwards the gradients of [`Strategy::parts`] are those of the global batch.
    /// # Errors
    /// When a rank does not answer.
    fn end_step(&mut self) -> Result<(), EngineError>;

    /// The numbers of parameters that [`Strategy::parts`] will give.
    fn share(&self) -> Vec<(ParamId, Range<usize>)>;

    /// What this rank's optimiser moves, once there are gradients, by block and in the order of the table.
    fn parts(&mut self) -> Vec<Part<'_>>;

    /// The optimiser is done: whoever reads what was moved may see it.
    /// # Errors
    /// When a rank does not answer.
    fn publish(&mut self) -> Result<(), EngineError>;

    /// Whether [`Strategy::parts`] may be pieces of parameters.
    fn is_cut(&self) -> bool;

    /// Put in place the whole values of a parameter, alike on every rank.
    fn restore(&mut self, param: ParamId, whole: &[f32]);

    /// The whole gradients of a block, where parts are cut: this rank's go to the others and are here no more. All ranks of the group
    /// call it.
    /// # Errors
    /// When a rank does not answer.
    fn gather_grads(&mut self, block: BlockId) -> Result<Flat, EngineError>;

    /// The whole parameters of a block from arrays as long as this rank's [`Strategy::parts`] of it: values, gradients or
    /// an optimiser's state. All ranks of the group call it.
    /// # Errors
    /// When a rank does not answer.
    fn gather_parts(&mut self, block: BlockId, mine: Vec<Vec<f32>>) -> Result<Vec<(ParamId, Vec<f32>)>, EngineError>;

    /// The place among all lanes of the `index`th of the `lanes` that a rank has: it decides which ranks meet first in the
    /// tree. `siblings` consecutive ranks have the same lanes, and other tokens of them.
    fn lane(&self, index: usize, lanes: usize, siblings: usize) -> usize;

    /// Element by element, the sum of something small over all ranks that see other data.
    /// # Errors
    /// When a rank does not answer.
    fn sum(&mut self, data: &mut [f32]) -> Result<(), EngineError>;

    /// The same over the ranks that hold one copy of the model together: of something that each has for its parts.
    /// # Errors
    /// When a rank does not answer.
    fn sum_parts(&mut self, data: &mut [f32]) -> Result<(), EngineError>;

    /// This rank among those that see other data, and their number.
    fn rank(&self) -> (usize, usize);

    /// The groups over which it shares the work.
    fn groups(&mut self) -> Vec<&mut Group>;

    /// The most that it has held so far, on `Meta` as on `Cpu`.
    fn peak_bytes(&self) -> StoreBytes;
}

/// Numbers `of_param` of one parameter, and their gradient.
pub struct Part<'a> {
    pub param: ParamId,
    pub of_param: Range<usize>,
    pub values: &'a mut [f32],
    pub grad: &'a mut [f32],
}

/// `data`, something small, summed over `group`.
/// # Errors
/// When a rank does not answer.
pub fn sum_over(group: &mut Group, data: &mut [f32]) -> Result<(), EngineError> {
    let sum = group.run(comm::Job::AllReduce(data.to_vec().into(), Order::Tree)).map_err(EngineError::rank)?;
    data.copy_from_slice(sum.values());
    Ok(())
}

/// What a strategy is built from.
pub struct Build<'a> {
    pub table: &'a ParamTable,
    pub device: Device,
    pub order: Order,
    /// The ranks that see other data.
    pub comm: Box<dyn Communicator>,
    /// How many of them hold one copy of the model together, where the strategy leaves that open.
    pub shards: usize,
    /// Whole parameters at their values; not asked on `Meta`.
    pub value: &'a mut dyn FnMut(ParamId) -> Vec<f32>,
}

/// One line of [`STRATEGIES`].
#[derive(Debug)]
pub struct Kind {
    /// As recipes call it.
    pub name: &'static str,
    pub build: fn(Build<'_>) -> Result<Box<dyn Strategy>, CommError>,
    /// Of `ranks`, how many hold one copy of the model together, when `asked` is what the mesh says.
    pub shards: fn(ranks: usize, asked: usize) -> usize,
}

impl Named for Kind {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every strategy of the data-parallel family.
pub static STRATEGIES: Registry<Kind> =
    Registry::new(&[replicated::KIND, param_server::KIND, herring::KIND, sharded::ZERO_1, sharded::ZERO_2, sharded::ZERO_3, mics::KIND]);

/// Consecutive ranks of `comm` in groups of `shards`, and those with the same place in each; in two levels where they span
/// machines.
pub(crate) fn split(mut comm: Box<dyn Communicator>, shards: usize) -> Result<(Group, Group), CommError> {
    let (shard, replicas) = (comm.split_by(&|rank| rank / shards)?, comm.split_by(&|rank| rank % shards)?);
    Ok((Group::new(comm::by_machine(shard)?), Group::new(comm::by_machine(replicas)?)))
}

/// What a rank holds, in bytes: weights, their packed copies, and gradients with what of either is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreBytes {
    pub weights: u64,
    pub packed: u64,
    pub grads: u64,
}

impl StoreBytes {
    #[must_use]
    pub fn total(self) -> u64 {
        self.weights + self.packed + self.grads
    }

    /// The one of the two that is more in all.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if other.total() > self.total() { other } else { self }
    }
}
