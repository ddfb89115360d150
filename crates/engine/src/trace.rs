//! How a tape is to run, and what it writes down of each op.

use crate::{
    BlockId, Precision,
    ops::{Class, Pass},
};

/// How a tape runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub precision: Precision,
    /// Keep only the inputs of each block and run it again in the backward pass.
    pub recompute: bool,
    /// False: nothing is kept, `backward` has nothing to do.
    pub train: bool,
    /// Key of this pass's randomness (dropout): from seed, step and lane.
    pub key: u64,
    /// Write down an [`Event`] for each op.
    pub trace: bool,
}

/// One op as it ran: what it cost and what was in use when it was done.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub block: Option<BlockId>,
    pub op: &'static str,
    pub class: Class,
    pub pass: Pass,
    /// Rows, columns and summed length of the forward product, where the op is one, or of attention's scores.
    pub gemm: Option<[usize; 3]>,
    pub flops: u64,
    pub moved_bytes: u64,
    /// Bytes that only this op's backward pass keeps alive.
    pub saved_bytes: u64,
    pub live_bytes: u64,
    /// See `Op::packs`.
    pub packs_bytes: u64,
}
