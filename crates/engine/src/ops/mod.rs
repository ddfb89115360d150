//! Ops: one file each, with its shape rule, cost, forward and backward pass, and tests against its naive twin.
//!
//! To add one: write `ops/name.rs` with a type that implements [`Op`] and a method on [`crate::Tape`] that applies it,
//! and add `name` to the line below.

use crate::{Axis, Buffer, Dtype, Move, Partition, Precision, Real, Reals, RealsMut, Shape, ShapeError, Weight};

/// Call a method that is generic over the type in which activations are stored with that of the pass at hand.
macro_rules! by_dtype {
    ($this:ident.$method:ident($pass:ident)) => {
        if $pass.is_bf16() { $this.$method::<half::bf16>($pass) } else { $this.$method::<f32>($pass) }
    };
}

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// The names of all ops, as their files are called.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

ops! {
    activation, add, attention, balance, combine, concat, contrastive, conv2d, cross_entropy, dispatch, divergence, dropout,
    embedding, expert_linear, gated, gates, gaussian, group_norm, heads, kv_cache, layer_norm, linear, modulate, mse, mul, patches, rms_norm, rope, route, scale, score, sinusoid, softcap, tokens
}

pub use activation::Activation;
pub use attention::AttentionOptions;
pub use contrastive::{Everyone, Telling, log_sums};
pub use conv2d::ConvOptions;
pub use cross_entropy::IGNORE;
pub use gaussian::LOG_VARIANCES;
pub use kernels::experts::{Gating, Limit, Scores};
pub use kv_cache::{Advance, KvCache, PAGE_TOKENS, SequenceId};
pub use rope::{Places, Rotary};
pub use route::Routes;

/// One fused operation. Everything that a plan needs follows from shapes; only the last two methods touch numbers.
pub trait Op: 'static {
    fn name(&self) -> &'static str;

    /// What kind of work it is, which is what a price of it on another machine goes by.
    fn class(&self) -> Class;

    /// The shape rule: of inputs, to that of the one output.
    /// # Errors
    /// Names the axis that does not fit.
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError>;

    /// Floating-point operations and bytes to and from memory.
    fn cost(&self, x: &[Shape]) -> Cost;

    /// Rows, columns and summed length of the forward product, if most of it is one.
    fn gemm(&self, _x: &[Shape]) -> Option<[usize; 3]> {
        None
    }

    /// What the backward pass reads.
    fn saves(&self, x: &[Shape]) -> Saves;

    /// Numbers of working space during one pass.
    fn scratch(&self, _x: &[Shape], _pass: Pass) -> usize {
        0
    }

    /// How the gradient of one input comes about.
    fn gradient(&self, _input: usize) -> Gradient {
        Gradient::Computed
    }

    /// The inputs that its kernels read in 16 bits where activations are stored so, and whose gradients they write so; the output and its
    /// gradient are then in 16 bits too. Where there are none, the tape gives the op f32 copies of what it reads, and rounds what it writes.
    fn reads_bf16(&self) -> &'static [usize] {
        &[]
    }

    /// What the output is stored as, where that is not what activations are stored as.
    fn writes(&self) -> Option<Dtype> {
        (self.class() == Class::Loss).then_some(Dtype::F32)
    }

    /// The input that a GEMM reads as its right side: a parameter there has packed copies in bf16.
    fn packed_input(&self) -> Option<usize> {
        None
    }

    /// Bytes into which its kernels pack what they read, besides packed parameters: space of the thread that asks, which keeps it.
    fn packs(&self, _x: &[Shape], _pass: Pass, _precision: Precision) -> usize {
        0
    }

    /// What it exchanges with the ranks along an axis: how, and how many numbers of each rank.
    fn moves(&self, _x: &[Shape], _pass: Pass) -> Option<(Axis, Move, usize)> {
        None
    }

    fn forward(&self, f: &mut Forward<'_>);

    fn backward(&self, b: &mut Backward<'_>);
}

/// Which pass an op runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    Forward,
    Recompute,
    Backward,
}

/// See [`Op::class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Products of matrices.
    Product,
    Convolution,
    Attention,
    /// What it gives is a loss.
    Loss,
    /// Of each token by itself, between products that ranks share: ranks of the tensor axis hold a run of the tokens each.
    TokenWise,
    /// Elementwise on what products gave, or numbers moved about.
    Other,
}

/// See [`Op::cost`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub forward_flops: u64,
    pub backward_flops: u64,
    pub forward_bytes: u64,
    pub backward_bytes: u64,
}

impl Cost {
    /// Of an op that does `flops` per element and streams `reads` and `writes` arrays of that length.
    #[must_use]
    pub fn elementwise(elements: usize, flops: u64, arrays: u64) -> Self {
        let n = elements as u64;
        Self {
            forward_flops: flops * n,
            backward_flops: 2 * flops * n,
            forward_bytes: 4 * arrays * n,
            backward_bytes: 4 * (arrays + 1) * n,
        }
    }
}

/// See [`Op::saves`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saves {
    /// Inputs that the backward pass reads.
    pub inputs: &'static [usize],
    /// Whether it reads the output.
    pub output: bool,
    /// Lengths of further arrays that the forward pass leaves for it.
    pub extras: Vec<usize>,
}

/// See [`Op::gradient`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// The input takes none (tokens).
    None,
    /// `backward` computes it.
    Computed,
    /// It is the output's, unchanged: the buffer is passed on.
    Same,
    /// `forward` computes it, on the promise that the output's gradient is one.
    Early,
}

/// An input's shape and numbers.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub shape: Shape,
    buffer: Option<&'a Buffer>,
    weight: Option<&'a Weight>,
}

impl<'a> Input<'a> {
    pub(crate) fn new(shape: Shape, buffer: Option<&'a Buffer>, weight: Option<&'a Weight>) -> Self {
        Self { shape, buffer, weight }
    }

    /// The numbers; empty if the op did not ask for them in [`Op::saves`].
    #[must_use]
    pub fn f32s(&self) -> &'a [f32] {
        self.of()
    }

    /// As [`Input::f32s`], in the type in which the op's activations are stored.
    #[must_use]
    pub fn of<T: Real>(&self) -> &'a [T] {
        match (self.weight, self.buffer) {
            (Some(weight), _) => Reals::F32(weight.values()).of(),
            (None, Some(buffer)) => buffer.reals().of(),
            (None, None) => &[],
        }
    }

    #[must_use]
    pub fn u32s(&self) -> &'a [u32] {
        self.buffer.map_or(&[], Buffer::u32s)
    }

    /// The parameter behind this input, with its packed copies.
    #[must_use]
    pub fn weight(&self) -> Option<&'a Weight> {
        self.weight
    }
}

/// A gradient to write, or to add to.
pub struct GradOut<'a> {
    pub data: RealsMut<'a>,
    pub accumulate: bool,
}

/// What a forward pass reads and writes. All numbers are f32 but those of [`Op::reads_bf16`] and the output, which have one type.
pub struct Forward<'a> {
    pub inputs: &'a [Input<'a>],
    pub output: RealsMut<'a>,
    pub extras: &'a mut [Buffer],
    pub scratch: &'a mut [f32],
    /// Targets of [`Gradient::Early`]; `None` where no gradient is wanted.
    pub early: Vec<Option<GradOut<'a>>>,
    pub precision: Precision,
    pub partition: &'a dyn Partition,
}

/// What a backward pass reads and writes.
pub struct Backward<'a> {
    pub inputs: &'a [Input<'a>],
    pub output: Reals<'a>,
    pub extras: &'a [Buffer],
    pub dy: Reals<'a>,
    pub scratch: &'a mut [f32],
    /// One per input; `None` where no gradient is wanted.
    pub grads: Vec<Option<GradOut<'a>>>,
    pub precision: Precision,
    pub partition: &'a dyn Partition,
}

impl Forward<'_> {
    /// Whether the output and what [`Op::reads_bf16`] names are stored in 16 bits.
    #[must_use]
    pub fn is_bf16(&self) -> bool {
        matches!(self.output, RealsMut::Bf16(_))
    }
}

impl<'a> Backward<'a> {
    /// As [`Forward::is_bf16`].
    #[must_use]
    pub fn is_bf16(&self) -> bool {
        self.dy.dtype() == Dtype::Bf16
    }

    /// The gradient targets of the first `N` inputs.
    pub fn take_grads<const N: usize>(&mut self) -> [Option<GradOut<'a>>; N] {
        std::array::from_fn(|i| self.grads[i].take())
    }
}
