//! Communicators: how ranks add and share arrays. A strategy asks for collectives and never knows what carries them.
//!
//! ```text
//! strategy -> Group::start(Job) -> Ticket ... Group::wait(Ticket) -> Numbers
//!              |  a thread beside the work runs jobs in the order in which they were started
//!               +-> Communicator: Solo | Threads | Mpi | sim::Simulated
//! ```
//! Start at [`Group`]. A backend implements [`Communicator`], which blocks and knows nothing of overlap.
//!
//! **Invariant:** with [`Order::Tree`] a sum has the same bits on every backend and every layout of the ranks.
//! **Absent on purpose:** parameters, models, strategies; any transport of our own between machines.

mod group;
mod hierarchical;
mod launched;
#[cfg(feature = "mpi")]
mod mpi;
mod pulse;
pub mod sim;
mod threads;
mod tree;

use std::ops::Range;

use memory::Numbers;

pub use group::{Group, Span, Ticket, Traffic};
pub use hierarchical::by_machine;
pub use launched::{Launched, launched};
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, farewell};
pub use pulse::{Held, Patience, Pulse};
pub use threads::Threads;

/// What went wrong between ranks.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rank {rank} failed during {operation}: {problem}")]
pub struct CommError {
    /// The rank that is at fault, among all ranks of the job.
    pub rank: usize,
    pub operation: &'static str,
    pub problem: String,
}

/// In which order a sum over ranks is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of one fixed binary tree over rank numbers, split at the largest power of two below their number: the same
    /// bits everywhere.
    Tree,
    /// Whatever is fastest.
    Any,
}

/// Collectives over a group of ranks, and messages between two; every rank of a group calls the same collectives in the
/// same order. Each call returns when this rank's part is done and its data may be used again.
///
/// A backend implements [`Communicator::carry`], which takes arrays and gives them back; calls over slices copy.
///
/// # Errors
/// Of every method: [`CommError`], naming the rank that ended, stopped answering or called something else.
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Communicator: Send {
    fn rank(&self) -> usize;

    fn ranks(&self) -> usize;

    /// How many of them, numbered one after another, share a machine: as many on every one, or 1.
    fn ranks_on_machine(&self) -> usize;

    /// This rank's signs of life, to be given to whatever works for long between two calls.
    fn pulse(&self) -> Pulse;

    /// Do a job, from its beginning to its end.
    fn carry(&mut self, job: Job) -> Result<Numbers, CommError>;

    /// The next message of this length from whichever rank sends one first; its number. `None` when all others have left or
    /// one has failed, or once `until` says so, which is asked a few times a second. A service waits here, beside the work of
    /// its rank: that it waits says nothing about the rank, and it blames nobody.
    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError>;

    /// The group of those ranks that give the same `color`, in the order of their numbers here.
    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError>;

    /// The same, where every rank knows the color of every other, as in a mesh; `color` is asked with ranks of this group.
    /// The only way to split a simulated group of which a single rank runs.
    fn split_by(&mut self, color: &dyn Fn(usize) -> usize) -> Result<Box<dyn Communicator>, CommError> {
        self.split(color(self.rank()))
    }

    /// The clock of a simulated group, taken by the [`Group`] that knows when its jobs are started.
    #[doc(hidden)]
    fn take_clock(&mut self) -> Option<sim::GroupClock> {
        None
    }

    /// From here on a simulated group counts its collectives in two levels; see [`by_machine`]. False where jobs are real.
    #[doc(hidden)]
    fn count_by_machine(&mut self) -> bool {
        false
    }

    /// Element by element, the sum over ranks, for all of them.
    fn all_reduce(&mut self, data: &mut [f32], order: Order) -> Result<(), CommError> {
        if self.ranks() == 1 {
            return Ok(());
        }
        give(self.carry(Job::AllReduce(data.to_vec().into(), order)), data)
    }

    /// Rank `r` gets the sum over ranks of the elements [`part`]`(data.len(), ranks, r)`.
    fn reduce_scatter(&mut self, data: &[f32], mine: &mut [f32], order: Order) -> Result<(), CommError> {
        give(self.carry(Job::ReduceScatter(data.to_vec().into(), order)), mine)
    }

    /// The reverse: every rank brings its [`part`] of `all`.
    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        give(self.carry(Job::AllGather(mine.to_vec().into(), all.len())), all)
    }

    /// What `root` has, for all.
    fn broadcast(&mut self, root: usize, data: &mut [f32]) -> Result<(), CommError> {
        give(self.carry(Job::Broadcast(root, data.to_vec().into())), data)
    }

    /// Messages from one rank to another arrive in the order in which they were sent.
    fn send(&mut self, to: usize, data: &[f32]) -> Result<(), CommError> {
        self.carry(Job::Send(to, data.to_vec().into())).map(drop)
    }

    fn recv(&mut self, from: usize, data: &mut [f32]) -> Result<(), CommError> {
        give(self.carry(Job::Recv(from, data.len())), data)
    }
}

fn give(result: Result<Numbers, CommError>, data: &mut [f32]) -> Result<(), CommError> {
    if let Numbers::Here(values) = result? {
        data.copy_from_slice(&values);
    }
    Ok(())
}

/// Numbers of an all-reduce that go from level to level together: a few milliseconds of a slow link.
pub(crate) const PIECE: usize = 1 << 16;

/// The elements of an array of `len` that fall to `rank`: equal parts, the last ones shorter or empty.
#[must_use]
pub fn part(len: usize, ranks: usize, rank: usize) -> Range<usize> {
    let each = len.div_ceil(ranks.max(1));
    (rank * each).min(len)..((rank + 1) * each).min(len)
}

/// One thing for a [`Group`] to do; [`Group::wait`] gives what came of it.
#[derive(Debug)]
pub enum Job {
    /// Gives the sum.
    AllReduce(Numbers, Order),
    /// Gives this rank's part of the sum.
    ReduceScatter(Numbers, Order),
    /// This rank's part, and the length of the whole, which it gives.
    AllGather(Numbers, usize),
    /// Gives what the rank of that number brought.
    Broadcast(usize, Numbers),
    /// To that rank; gives nothing.
    Send(usize, Numbers),
    /// From that rank, of that length.
    Recv(usize, usize),
}

impl Job {
    /// As errors call it.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Self::AllReduce(..) => "all_reduce",
            Self::ReduceScatter(..) => "reduce_scatter",
            Self::AllGather(..) => "all_gather",
            Self::Broadcast(..) => "broadcast",
            Self::Send(..) => "send",
            Self::Recv(..) => "recv",
        }
    }

    /// Numbers that it holds on its way: the longer of what was brought and what comes of it; and while it runs, the other beside.
    /// A message is its sender's until the receiver has read it.
    fn held(&self, ranks: usize, rank: usize) -> (usize, usize) {
        let beside = |numbers: usize| if ranks > 1 { numbers } else { 0 };
        match self {
            Self::AllReduce(array, _) | Self::ReduceScatter(array, _) => (array.len(), beside(part(array.len(), ranks, rank).len())),
            Self::AllGather(mine, len) => (*len, beside(mine.len())),
            Self::Broadcast(_, array) | Self::Send(_, array) => (array.len(), 0),
            Self::Recv(..) => (0, 0),
        }
    }
}

/// A group of one, where every collective is the identity.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }
    fn ranks(&self) -> usize {
        1
    }
    fn ranks_on_machine(&self) -> usize {
        1
    }
    fn pulse(&self) -> Pulse {
        Pulse::alone()
    }
    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        match job {
            Job::AllReduce(array, _) | Job::ReduceScatter(array, _) | Job::AllGather(array, _) | Job::Broadcast(_, array) => Ok(array),
            Job::Send(to, _) => Err(alone(to, "send")),
            Job::Recv(from, _) => Err(alone(from, "recv")),
        }
    }
    fn recv_any(&mut self, _data: &mut [f32], _until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        Ok(None)
    }
    fn split(&mut self, _color: usize) -> Result<Box<dyn Communicator>, CommError> {
        Ok(Box::new(Self))
    }
}

fn alone(rank: usize, operation: &'static str) -> CommError {
    CommError { rank, operation, problem: "there is no other rank in a group of one".into() }
}
