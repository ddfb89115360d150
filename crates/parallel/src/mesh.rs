//! The mesh: ranks along named axes, and a group for each line through it.
//!
//! ```text
//! rank = (((pipeline * data + replica) * shard + part) * context + tokens) * tensor + heads
//! ```
//! Neighbours along `tensor` are neighbours among the ranks, for they talk most; stages of the pipeline are far apart. A
//! data-parallel strategy has the ranks of one stage and one place along `tensor`: those along `context` see other tokens
//! and count as ranks that see other data.

use std::cell::RefCell;

use comm::{CommError, Communicator, Group, Job, Order};
use engine::{Axis, EngineError, Move, Numbers, Partition};

/// How many ranks there are along each axis; `data` counts those that a strategy may cut further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mesh {
    pub pipeline: usize,
    pub data: usize,
    pub context: usize,
    pub tensor: usize,
}

/// One rank's place along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub stage: usize,
    pub data: usize,
    pub context: usize,
    pub tensor: usize,
}

impl Mesh {
    /// Ranks in data parallel alone.
    #[must_use]
    pub fn data(ranks: usize) -> Self {
        Self { pipeline: 1, data: ranks, context: 1, tensor: 1 }
    }

    #[must_use]
    pub fn ranks(self) -> usize {
        self.pipeline * self.data * self.context * self.tensor
    }

    #[must_use]
    pub fn place(self, rank: usize) -> Place {
        let (rest, tensor) = (rank / self.tensor, rank % self.tensor);
        let (rest, context) = (rest / self.context, rest % self.context);
        Place { stage: rest / self.data, data: rest % self.data, context, tensor }
    }
}

/// The groups of one rank.
pub struct Groups {
    pub place: Place,
    /// All ranks of the job.
    pub world: Group,
    /// The stages of one pipeline, in order.
    pub pipeline: Group,
    /// What a strategy is built over.
    pub data: Box<dyn Communicator>,
    pub cut: Cut,
}

impl Groups {
    /// Split `world` along the axes of `mesh`; all ranks call it.
    /// # Errors
    /// When a rank does not answer, or there are not as many as the mesh has.
    pub fn new(mesh: Mesh, mut world: Box<dyn Communicator>) -> Result<Self, CommError> {
        let rank = world.rank();
        if world.ranks() != mesh.ranks() {
            let problem = format!("there are {} ranks, and the mesh {mesh:?} has {}", world.ranks(), mesh.ranks());
            return Err(CommError { rank, operation: "split", problem });
        }
        let line = |rank: usize, along: &dyn Fn(&mut Place)| {
            let mut place = mesh.place(rank);
            along(&mut place);
            ((place.stage * mesh.data + place.data) * mesh.context + place.context) * mesh.tensor + place.tensor
        };
        let pipeline = world.split_by(&|rank| line(rank, &|p| p.stage = 0))?;
        let data = world.split_by(&|rank| line(rank, &|p| (p.data, p.context) = (0, 0)))?;
        let context = world.split_by(&|rank| line(rank, &|p| p.context = 0))?;
        let tensor = world.split_by(&|rank| line(rank, &|p| p.tensor = 0))?;
        let cut = Cut { tensor: RefCell::new(Group::new(tensor)), context: RefCell::new(Group::new(context)), failed: RefCell::new(None) };
        Ok(Self { place: mesh.place(rank), pipeline: Group::new(pipeline), data, cut, world: Group::new(world) })
    }
}

/// The [`Partition`] of one rank: its groups along `tensor` and `context`.
pub struct Cut {
    tensor: RefCell<Group>,
    context: RefCell<Group>,
    failed: RefCell<Option<CommError>>,
}

impl Cut {
    fn group(&self, axis: Axis) -> &RefCell<Group> {
        match axis {
            Axis::Tensor => &self.tensor,
            Axis::Context => &self.context,
        }
    }

    /// The sum over the ranks of an axis.
    /// # Errors
    /// When a rank does not answer.
    pub fn sum(&self, axis: Axis, data: Vec<f32>) -> Result<Vec<f32>, EngineError> {
        let sum = self.group(axis).borrow_mut().run(Job::AllReduce(data.into(), Order::Tree));
        sum.map(Numbers::into_values).map_err(EngineError::rank)
    }

    /// Run `look` on the group along an axis.
    pub fn with_group<T>(&self, axis: Axis, look: impl FnOnce(&mut Group) -> T) -> T {
        look(&mut self.group(axis).borrow_mut())
    }

    /// What each rank of the tensor axis has, in their order.
    /// # Errors
    /// When a rank does not answer.
    pub fn each(&self, mine: Vec<f32>) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut group = self.tensor.borrow_mut();
        let (len, ranks) = (mine.len(), group.ranks());
        let all = group.run(Job::AllGather(mine.into(), len * ranks)).map_err(EngineError::rank)?.into_values();
        Ok(if len == 0 { vec![Vec::new(); ranks] } else { all.chunks(len).map(<[f32]>::to_vec).collect() })
    }

    /// Run `jobs` and hand what came of the last one to `done`; the first error is kept.
    fn run(&self, axis: Axis, jobs: impl IntoIterator<Item = Job>, done: impl FnOnce(Vec<f32>)) {
        let mut last = Ok(Numbers::default());
        for job in jobs {
            if last.is_ok() {
                last = self.group(axis).borrow_mut().run(job);
            }
        }
        match last {
            Ok(array) => done(array.into_values()),
            Err(error) => drop(self.failed.borrow_mut().get_or_insert(error)),
        }
    }
}

impl Partition for Cut {
    fn place(&self, axis: Axis) -> (usize, usize) {
        let group = self.group(axis).borrow();
        (group.rank(), group.ranks())
    }

    fn gather(&self, axis: Axis, mine: &[f32], all: &mut [f32]) {
        self.run(axis, [Job::AllGather(mine.to_vec().into(), all.len())], |values| all.copy_from_slice(&values));
    }

    fn scatter(&self, axis: Axis, all: &[f32], mine: &mut [f32]) {
        self.run(axis, [Job::ReduceScatter(all.to_vec().into(), Order::Tree)], |values| mine.copy_from_slice(&values));
    }

    fn rotate(&self, axis: Axis, data: &mut [f32]) {
        let (place, ranks) = self.place(axis);
        let send = |data: &[f32]| Job::Send((place + 1) % ranks, data.to_vec().into());
        let recv = Job::Recv((place + ranks - 1) % ranks, data.len());
        // Every other rank listens first, so that no ring of senders waits for itself.
        if place.is_multiple_of(2) {
            self.run(axis, [send(data), recv], |values| data.copy_from_slice(&values));
        } else {
            let mut came = Vec::new();
            self.run(axis, [recv], |values| came = values);
            self.run(axis, [send(data)], |_| {});
            data.copy_from_slice(if came.len() == data.len() { &came } else { return });
        }
    }

    fn charge(&self, axis: Axis, what: Move, elements: usize) {
        let ranks = self.place(axis).1;
        let part = || Numbers::Counted(elements);
        let job = match what {
            Move::Gather => Job::AllGather(part(), elements * ranks),
            Move::Scatter => Job::ReduceScatter(Numbers::Counted(elements * ranks), Order::Any),
            Move::Rotate => Job::Send((self.place(axis).0 + 1) % ranks, part()),
        };
        self.run(axis, [job], |_| {});
    }

    fn check(&self) -> Result<(), EngineError> {
        self.failed.borrow_mut().take().map_or(Ok(()), |error| Err(EngineError::rank(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rank_has_a_place_of_its_own_and_tensor_neighbours_are_next_to_each_other() {
        let mesh = Mesh { pipeline: 2, data: 3, context: 2, tensor: 4 };
        let places: Vec<Place> = (0..mesh.ranks()).map(|rank| mesh.place(rank)).collect();
        let all: BTreeSet<_> = places.iter().map(|p| (p.stage, p.data, p.context, p.tensor)).collect();
        assert_eq!(all.len(), 48);
        assert_eq!((places[1].tensor, places[4].context, places[47].stage), (1, 1, 1));
    }
}
