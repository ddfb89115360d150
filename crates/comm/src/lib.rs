//! Communicators: how ranks add and share arrays. A strategy asks for collectives and never knows what carries them.
//!
//! Here: [`Solo`], one rank, where every collective is the identity.

/// What went wrong between ranks.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} failed during {operation}: {problem}")]
pub struct CommError {
    pub rank: usize,
    pub operation: &'static str,
    pub problem: String,
}

/// Collectives over a group of ranks; every rank of the group calls the same ones in the same order.
pub trait Communicator {
    fn rank(&self) -> usize;

    fn ranks(&self) -> usize;

    /// Element by element, the sum over ranks, in the order of one fixed binary tree over rank numbers.
    /// # Errors
    /// When a rank does not answer.
    fn all_reduce_sum(&mut self, data: &mut [f32]) -> Result<(), CommError>;
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
