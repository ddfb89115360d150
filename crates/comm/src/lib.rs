//! Communicators: how ranks add and share arrays. A strategy asks for collectives and never knows what carries them.
//!
//! Here: [`Solo`], one rank, where every collective is the identity; [`Threads`], ranks that are threads of one process.

mod threads;

pub use threads::Threads;

/// What went wrong between ranks.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} failed during {operation}: {problem}")]
pub struct CommError {
    pub rank: usize,
    pub operation: &'static str,
    pub problem: String,
}

/// Collectives over a group of ranks; every rank of the group calls the same ones in the same order.
pub trait Communicator: Send {
    fn rank(&self) -> usize;

    fn ranks(&self) -> usize;

    /// Element by element, the sum over ranks, in the order of one fixed binary tree over rank numbers.
    /// # Errors
    /// When a rank does not answer.
    fn all_reduce_sum(&mut self, data: &mut [f32]) -> Result<(), CommError>;
}

impl<C: Communicator + ?Sized> Communicator for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }
    fn ranks(&self) -> usize {
        (**self).ranks()
    }
    fn all_reduce_sum(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        (**self).all_reduce_sum(data)
    }
}

/// A group of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }
    fn ranks(&self) -> usize {
        1
    }
    fn all_reduce_sum(&mut self, _data: &mut [f32]) -> Result<(), CommError> {
        Ok(())
    }
}
