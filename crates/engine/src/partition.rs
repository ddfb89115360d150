//! The other seam: how matrices and sequences are cut among ranks. Ops ask for their place along an axis and exchange
//! what the cut makes them exchange; a model only says where tokens are shared out and brought together.
//!
//! ```text
//! Axis::Tensor    heads, ffn and vocab of the matrices; tokens between them    arXiv:1909.08053, arXiv:2205.05198
//! Axis::Context   tokens of a sequence everywhere; attention goes round a ring arXiv:2310.01889
//! ```
//! Ops return no errors, so a partition keeps the first one and the tape asks for it after each op.

use std::cell::Cell;

use crate::EngineError;

/// What a cut runs along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axis {
    Tensor,
    Context,
}

/// What the ranks along an axis do together. Lengths are those of one rank's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Gather,
    Scatter,
    /// To the next rank, from the one before.
    Rotate,
}

/// See the head of this file. Without any cut, [`Whole`].
pub trait Partition {
    /// This rank's place along `axis`, and how many share it.
    fn place(&self, axis: Axis) -> (usize, usize);

    /// Every rank's `mine`, in their order.
    fn gather(&self, axis: Axis, mine: &[f32], all: &mut [f32]);

    /// This rank's part of the sum of every rank's `all`.
    fn scatter(&self, axis: Axis, all: &[f32], mine: &mut [f32]);

    /// `data` goes to the next rank and becomes that of the one before.
    fn rotate(&self, axis: Axis, data: &mut [f32]);

    /// The same on `Meta`: so many numbers would have moved.
    fn charge(&self, axis: Axis, what: Move, elements: usize);

    /// The first error since the last call.
    /// # Errors
    /// When a rank did not answer.
    fn check(&self) -> Result<(), EngineError>;
}

/// Nothing is cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole;

impl Partition for Whole {
    fn place(&self, _axis: Axis) -> (usize, usize) {
        (0, 1)
    }
    fn gather(&self, _axis: Axis, mine: &[f32], all: &mut [f32]) {
        all.copy_from_slice(mine);
    }
    fn scatter(&self, _axis: Axis, all: &[f32], mine: &mut [f32]) {
        mine.copy_from_slice(all);
    }
    fn rotate(&self, _axis: Axis, _data: &mut [f32]) {}
    fn charge(&self, _axis: Axis, _what: Move, _elements: usize) {}
    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Places without ranks behind them: what a rank's shapes follow from on `Meta`, and what its exchanges hold.
#[derive(Debug)]
pub struct Places {
    tensor: (usize, usize),
    context: (usize, usize),
    most: Cell<usize>,
}

impl Places {
    /// A place, and how many share the axis.
    #[must_use]
    pub fn new(tensor: (usize, usize), context: (usize, usize)) -> Self {
        Self { tensor, context, most: Cell::new(0) }
    }

    /// The most bytes that were on their way at one time: what was sent, and beside it what came.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        4 * self.most.get() as u64
    }
}

impl Partition for Places {
    fn place(&self, axis: Axis) -> (usize, usize) {
        match axis {
            Axis::Tensor => self.tensor,
            Axis::Context => self.context,
        }
    }
    fn gather(&self, _axis: Axis, _mine: &[f32], _all: &mut [f32]) {}
    fn scatter(&self, _axis: Axis, _all: &[f32], _mine: &mut [f32]) {}
    fn rotate(&self, _axis: Axis, _data: &mut [f32]) {}
    fn charge(&self, axis: Axis, what: Move, elements: usize) {
        let ranks = self.place(axis).1;
        let held = match what {
            Move::Gather | Move::Scatter => elements * (ranks + 1),
            // All turns of the ring are charged as one.
            Move::Rotate => elements.div_ceil(ranks),
        };
        self.most.set(held.max(self.most.get()));
    }
    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
