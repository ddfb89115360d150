//! Where numbers are: a device, an element type, the pool of a step, and [`Numbers`] for what lives outside of it.
//!
//! ```text
//! a step's activations, gradients, working space   Pool -> Buffer
//! weights, their gradients, moments, messages      Numbers: here, or only how many
//! ```
//! On [`Device::Meta`] everything is counted and nothing is there, so that a step tells its memory before it has any.
//!
//! **Invariant:** what is allocated follows from sizes and [`Kind`] alone; on `Meta` it is the same, in the same order, as on the device
//! of that kind.

mod huge;
mod numbers;
mod pool;
mod reals;

pub use huge::HugePages;
pub use numbers::Numbers;
pub use pool::{Buffer, Pool, PoolFull, PoolUse};
pub use reals::{Real, Reals, RealsMut};

/// Where the numbers are: in memory, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// Shapes, costs and memory without numbers, as a device of that kind would have them.
    Meta(Kind),
}

/// What sort of device it is: what a buffer takes there follows from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Cpu,
    /// 16-bit products read and write activations of 16 bits; buffers begin at multiples of 256 bytes, as cuBLASLt takes them to.
    Gpu,
}

/// What one element of a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    Bf16,
    U32,
}

impl Device {
    /// As the CPU would have it.
    pub const META: Self = Self::Meta(Kind::Cpu);

    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Cpu => Kind::Cpu,
            Self::Meta(kind) => kind,
        }
    }

    /// Whether there are any numbers.
    #[must_use]
    pub fn is_real(self) -> bool {
        self == Self::Cpu
    }
}

impl Kind {
    /// Buffers of a pool begin at multiples of so many bytes.
    #[must_use]
    pub fn line_bytes(self) -> usize {
        match self {
            Self::Cpu => 64,
            Self::Gpu => 256,
        }
    }
}

impl Dtype {
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
        }
    }
}
