//! What accelerators and the links between them can do: seconds of an operation from a few figures of the catalogue and one
//! set of constants that holds for all of them.
//!
//! ```text
//! Accelerator, Instance (catalogue) -> Hardware, Cluster -> simulate
//! Event (shape, FLOPs, bytes) + Constants -> seconds
//! ```

use comm::sim::{Link, Topology};
use engine::{Event, Pass, ops::Class};
use serde::{Deserialize, Serialize};

use crate::{
    PlanError,
    catalogue::{Accelerator, Catalogue, Instance},
};

/// What one accelerator can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hardware {
    /// Dense products in 16 bits: as printed, and the best that was measured on a large product.
    pub peak_flops: f64,
    pub attainable_flops: f64,
    pub memory_bytes: f64,
    pub memory_bytes_per_sec: f64,
    /// Units among which the tiles of a product are shared out.
    pub units: f64,
    /// Of the peak, what instructions of the generation before reach, in which attention is written.
    pub mma_share: f64,
    /// Of the peak, what products of 32-bit numbers reach without tensor units.
    pub single_share: f64,
}

/// Accelerators and what joins them.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub hardware: Hardware,
    pub topology: Topology,
}

/// What the numbers of a step were, and how they were multiplied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numbers {
    /// 16 bits, sums in 32.
    #[default]
    Half,
    /// 32 bits; tensor units read 19 of them (TF32), at half the rate of 16: PyTorch unasked, up to 1.11.
    Tf32,
    /// 32 bits; so for convolutions alone, other products in all 32 bits: PyTorch unasked, since 1.12.
    Single,
}

impl Numbers {
    fn bytes(self) -> f64 {
        if self == Self::Half { 2.0 } else { 4.0 }
    }

    /// Bytes over the tape's own four.
    #[must_use]
    pub fn of_four(self) -> f64 {
        self.bytes() / 4.0
    }

    /// Share of the rate of 16-bit products that those of ops of `class` reach.
    fn product_share(self, class: Class, hardware: &Hardware) -> f64 {
        match (self, class) {
            (Self::Half, _) => 1.0,
            (Self::Tf32, _) | (Self::Single, Class::Convolution) => 0.5,
            (Self::Single, _) => hardware.single_share,
        }
    }

    /// The same of fused attention: three products of 19 bits make one of 32 (xformers, `DefaultGemmType` of
    /// gemm_kernel_utils.h: `OpMultiplyAddFastF32`).
    fn attention_share(self) -> f64 {
        if self == Self::Half { 1.0 } else { 0.5 / 3.0 }
    }
}

/// Numbers that hold for every accelerator: properties of today's libraries, set together on a third of the throughputs that
/// others measured ([`crate::evidence::throughput`]) but where another source is named.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Constants {
    /// Between the starts of two kernels that a host issues one by one.
    pub launch_secs: f64,
    /// Bytes that our fused ops move, over those that the memory could move while a library's ops ran: frameworks fuse less.
    pub stream_share: f64,
    /// Whether attention keeps its scores out of memory.
    pub flash: bool,
    /// Whether tensor ranks share out the tokens of norms and residual sums (arXiv:2205.05198), or each takes all.
    pub shares_tokens: bool,
    pub numbers: Numbers,
    /// Share of the attainable rate that fused attention reaches, forward and backward. Forward: FlashAttention 2 on A100, causal,
    /// heads of 128, 141 to 159 TFLOPS at 1,024 to 4,096 tokens (github.com/liangan1/GPU_travel, performance/flash-attn).
    pub attention_share: [f64; 2],
    /// Seconds that a tile of a product starts and ends in, over those of writing it at the unit's share of the memory: set on
    /// products that were measured alone ([`crate::evidence::products`]).
    pub tile_ends: f64,
    /// Share of compute that is lost while a collective runs beside it at the full rate inside a node: it holds units, memory and
    /// the order of kernels, in step with the bytes that pass.
    pub contention: f64,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            launch_secs: 4.5e-6,
            stream_share: 0.19,
            flash: true,
            shares_tokens: true,
            numbers: Numbers::Half,
            attention_share: [0.58, 0.296],
            tile_ends: 1.1,
            contention: 0.949,
        }
    }
}

impl Constants {
    /// Where kernels are compiled together or written by hand: streams at the usual 80% of the memory's rate, attention
    /// backward as fast as arXiv:2307.08691 shows in its figure 6. From those, not from any run.
    #[must_use]
    pub fn fused(self) -> Self {
        Self { stream_share: 0.8, attention_share: [self.attention_share[0], 0.55], ..self }
    }
}

/// Rows and columns of the tiles that libraries have kernels for.
const TILES: [[f64; 2]; 3] = [[128.0, 256.0], [128.0, 128.0], [64.0, 128.0]];

impl From<&Accelerator> for Hardware {
    fn from(a: &Accelerator) -> Self {
        Self {
            peak_flops: 1e12 * a.peak_tflops,
            attainable_flops: 1e12 * a.attainable_tflops.unwrap_or(UNKNOWN_ATTAINABLE_SHARE * a.peak_tflops),
            memory_bytes: a.memory_gib * (1_u64 << 30) as f64,
            memory_bytes_per_sec: 1e9 * a.memory_gb_per_sec,
            units: a.units,
            mma_share: a.mma_share.unwrap_or(1.0),
            single_share: a.single_tflops.map_or(UNKNOWN_SINGLE_SHARE, |single| single / a.peak_tflops),
        }
    }
}

/// CUDA's context takes about 0.5 GB, NCCL's channels of a few groups about 1 GB.
const RESERVED_BYTES: f64 = 1.5e9;

/// Of the peak, where no best product was measured: A100 87%, H100 80%, B200 78%.
const UNKNOWN_ATTAINABLE_SHARE: f64 = 0.8;

/// As of the A100.
const UNKNOWN_SINGLE_SHARE: f64 = 1.0 / 16.0;

impl Cluster {
    /// `accelerators` on as few of `instance` as have them: on one machine not all need be used.
    /// # Errors
    /// [`PlanError::Unknown`] when it has none; [`PlanError::Impossible`] when they are no whole number of machines.
    pub fn part(catalogue: &Catalogue, instance: &Instance, accelerators: usize) -> Result<Self, PlanError> {
        let accelerator = catalogue.accelerator_of(instance)?;
        let devices = (instance.count as usize).min(accelerators).max(1);
        let nodes = accelerators / devices;
        if nodes * devices != accelerators || accelerators == 0 {
            return Err(PlanError::Impossible {
                problem: format!("{accelerators} accelerators are no whole number of {}, each of {}", instance.name, instance.count),
                relax: format!("take {} or {}", (nodes * devices).max(devices), (nodes + 1) * devices),
            });
        }
        Ok(Self::joined(accelerator, nodes, devices, Link::efa(1e9 * instance.net_gbps)))
    }

    /// `nodes` of `instance`.
    /// # Errors
    /// [`PlanError::Unknown`] when it has no accelerators.
    pub fn of(catalogue: &Catalogue, instance: &Instance, nodes: usize) -> Result<Self, PlanError> {
        Self::part(catalogue, instance, nodes * instance.count.max(1) as usize)
    }

    /// `nodes` of `devices` accelerators, joined by `across`.
    #[must_use]
    pub fn joined(accelerator: &Accelerator, nodes: usize, devices: usize, across: Link) -> Self {
        let inside = match accelerator.link_gb_per_sec {
            Some(rate) => Link::nvlink(1e9 * rate),
            None => Link::pci(1e9 * accelerator.pci_gb_per_sec.unwrap_or_default()),
        };
        let switch_share = accelerator.switch_share.unwrap_or_default();
        Self { hardware: accelerator.into(), topology: Topology { nodes, devices, inside, across, switch_share } }
    }
}

impl Hardware {
    /// Bytes that a step can have: the driver's context and the buffers of collectives are there before it.
    #[must_use]
    pub fn usable_bytes(&self) -> f64 {
        self.memory_bytes - RESERVED_BYTES
    }

    /// Seconds of one op of a tape, whose numbers of four bytes travel in those of `constants.numbers`.
    #[must_use]
    pub fn op_secs(&self, event: &Event, constants: Constants) -> f64 {
        let numbers = constants.numbers;
        let stream_secs = event.moved_bytes as f64 * numbers.of_four() / (self.memory_bytes_per_sec * constants.stream_share);
        let flops = event.flops as f64;
        let is_backward = event.pass == Pass::Backward;
        let (secs, kernels) = match (event.gemm, event.class) {
            (Some(scores), Class::Attention) if !constants.flash => {
                (self.scores_secs(scores, is_backward, constants), if is_backward { 5 } else { 3 })
            }
            (_, Class::Attention) => {
                let rate = self.attainable_flops
                    * self.mma_share
                    * constants.attention_share[usize::from(is_backward)]
                    * numbers.attention_share();
                (stream_secs.max(flops / rate), if is_backward { 3 } else { 1 })
            }
            (Some([m, n, k]), _) => {
                // Backward: one product for the input, one for the weight, each of a third of the step's.
                let sizes: &[[usize; 3]] = if is_backward { &[[m, k, n], [n, k, m]] } else { &[[m, n, k]] };
                let share = numbers.product_share(event.class, self);
                (sizes.iter().map(|size| self.product_secs(*size, share, constants)).sum::<f64>(), sizes.len())
            }
            (None, _) => (stream_secs, if flops + stream_secs > 0.0 { 1 } else { 0 }),
        };
        secs + kernels as f64 * constants.launch_secs
    }

    /// Seconds of attention that writes its scores, masked ones too: the product writes them, the softmax reads and
    /// writes, the other product reads; backward, two products read the weights or write their gradient, the softmax reads both
    /// and writes, two products read. Kernels of one pass each stream at the usual 80% of the memory's rate.
    fn scores_secs(&self, [rows, keys, depth]: [usize; 3], is_backward: bool, constants: Constants) -> f64 {
        let numbers = constants.numbers;
        let pass_secs = numbers.bytes() * (rows * keys) as f64 / (0.8 * self.memory_bytes_per_sec);
        let rate = self.attainable_flops * numbers.product_share(Class::Attention, self);
        let product_secs = 2.0 * (rows * keys * depth) as f64 / rate;
        let (products, softmax_passes) = if is_backward { (4.0, 3.0) } else { (2.0, 2.0) };
        products * product_secs.max(pass_secs) + softmax_passes * pass_secs
    }

    /// Seconds of one product, by the kernel that is the fastest of a library's.
    pub(crate) fn product_secs(&self, size: [usize; 3], share: f64, constants: Constants) -> f64 {
        TILES.iter().map(|tile| self.tiled_secs(size, *tile, share, constants)).fold(f64::INFINITY, f64::min)
    }

    /// The same with tiles of one size over the units in whole rounds; each tile is written when it is summed.
    fn tiled_secs(&self, [m, n, k]: [usize; 3], [rows, columns]: [f64; 2], share: f64, constants: Constants) -> f64 {
        let tiles = (m as f64 / rows).ceil() * (n as f64 / columns).ceil();
        let rounds = (tiles / self.units).ceil();
        // A library splits tiles or sums where the last round would be nearly empty.
        let rounds = if tiles > self.units { rounds.min(tiles / self.units / 0.9) } else { rounds };
        let unit_flops = self.attainable_flops * share / self.units;
        let tile_secs = 2.0 * rows * columns * k as f64 / unit_flops;
        let write_secs = rows * columns * constants.numbers.bytes() / (self.memory_bytes_per_sec / self.units);
        rounds * (tile_secs + constants.tile_ends * write_secs)
    }
}
