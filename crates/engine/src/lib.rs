//! The engine: a tape of fused ops over one pool of memory, the same on two devices.
//!
//! ```text
//! Model -> Tape::{linear, attention, ...} -> Tensor -> Tape::backward -> ParamStore::{put_grad, reduce}
//!            on Cpu: numbers        on Meta: shapes, FLOPs, bytes, peak memory, no numbers
//! ```
//! Start at [`Tape`]. An op is one file under `ops/` and one line in `ops/mod.rs`.
//!
//! **Invariant:** what an op allocates follows from shapes, precision and the device's kind alone, so a device and `Meta` of its kind take
//! the same buffers in the same order.
//! **Absent on purpose:** ranks (a strategy stands behind [`ParamStore`]), knowledge of any model, time.

pub mod check;
mod inputs;
pub mod ops;
mod packed;
mod partition;
mod reals;
mod shape;
mod store;
mod table;
mod tape;
mod tensor;
mod trace;
mod weight;

pub use inputs::{Array, Inputs};
pub use kernels::{attention::Mask, gemm::Precision};
pub use memory::{Buffer, Device, Dtype, Kind, Numbers, Pool, PoolUse, Real, Reals, RealsMut};
pub use ops::Pass;
pub use packed::{Form, Packed};
pub use partition::{Axis, Move, Partition, Places, Whole};
pub use shape::{Shape, ShapeError};
pub use store::{NoParams, ParamStore, PassAt};
pub use table::{BlockId, Init, ParamId, ParamKind, ParamSpec, ParamTable};
pub use tape::Tape;
pub use tensor::Tensor;
pub use trace::{Event, Options};
pub use weight::Weight;

/// What can go wrong while a tape runs.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum EngineError {
    #[error(transparent)]
    #[diagnostic(code(engine::shape), help("check the model's sizes in the recipe: `hairpin plan RECIPE` runs the same shape rules"))]
    Shape(#[from] ShapeError),

    #[error(transparent)]
    #[diagnostic(code(engine::pool_full), help("use a smaller `batch.micro_batch`, or `train.recompute = true`"))]
    PoolFull(#[from] memory::PoolFull),

    #[error("the model asks for input `{name}`, and the batch has {have}")]
    #[diagnostic(code(engine::input), help("the model kind and the data kind of the recipe do not go together"))]
    Input { name: &'static str, have: String },

    #[error("{op}: {problem}")]
    #[diagnostic(code(engine::misuse))]
    Misuse { op: &'static str, problem: String },

    #[error("a rank did not answer: {0}")]
    #[diagnostic(code(engine::rank))]
    Rank(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl EngineError {
    /// From what a communicator says.
    pub fn rank(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Rank(Box::new(source))
    }
}

/// A key for counter-based randomness, from a seed and the name of what is drawn.
#[must_use]
pub fn key(seed: u64, name: &str) -> u64 {
    // FNV-1a over the name, then two rounds of a finaliser, so that close seeds give far keys.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(mix(hash))
}

/// The finaliser of SplitMix64: every bit of the input moves half the bits of the output.
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
