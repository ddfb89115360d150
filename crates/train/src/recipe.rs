//! A recipe: everything that decides a run, as TOML. Unknown keys are errors; every default is written out next to the
//! checkpoints ([`Recipe::to_toml`]), so that a run can be read later without knowing that day's defaults.

mod choices;
mod read;

use std::path::PathBuf;

pub use choices::{GuardAction, OptimKind, PrecisionChoice, ScheduleKind};
use comm::Order;
use parallel::{Kind, mesh::Mesh, param_server, pipeline};
pub(crate) use read::MOST_THREADS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See the head of this file. Every table may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the run is called in tables and reports; it decides nothing.
    #[serde(default = "default_name")]
    pub name: String,
    /// Of starting weights, the order of the data and dropout: the same seed gives the same bits.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The model's own options: `depth = 4`, from which all else follows unless it is written, or `preset = "gpt2-124m"`. With `from`, what
    /// is not written is as in the weights' model.
    #[schemars(schema_with = "models::reference::options")]
    pub model: toml::Table,
    /// What is learnt: `kind = "next_token"` and what that kind asks for. Absent: what its kind of model is made for.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    #[schemars(schema_with = "read::objective_schema")]
    pub objective: toml::Table,
    /// The trained weights that it begins with; absent: random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Beginning>,
    /// Which data.
    #[serde(default)]
    pub data: DataTable,
    /// How many tokens make a step, and how they are cut.
    #[serde(default)]
    pub batch: Batch,
    /// How long and how exactly.
    #[serde(default)]
    pub train: Train,
    /// On how many ranks, and how they share the work.
    #[serde(default)]
    pub parallel: Parallel,
    /// Which optimiser.
    #[serde(default)]
    pub optim: Optim,
    /// How the learning rate goes.
    #[serde(default)]
    pub schedule: Schedule,
    /// When checkpoints are written and which are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// When held-out loss is measured.
    #[serde(default)]
    pub eval: Eval,
    /// What to do when the loss jumps.
    #[serde(default)]
    pub guard: Guard,
}

fn default_name() -> String {
    "run".into()
}

fn default_seed() -> u64 {
    1
}

macro_rules! table {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

/// Whose weights a run begins with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// A run's folder, whose newest checkpoint is taken, one checkpoint, or an imported model; like `data.path` seen from where the
    /// command runs.
    pub path: PathBuf,
    /// Whether the data may have another tokenizer: rows of the embedding and of the output layer go to the tokens of the same name, and the
    /// others begin anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rows_by_name: bool,
    /// Whether the optimiser goes on with the averages that the checkpoint holds, as if its updates had been this run's; otherwise it begins anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optimiser: bool,
}

table! {
    /// Which data.
    DataTable {
        /// A folder that `hairpin data` made.
        path: PathBuf = "data".into(),
        /// The share of its training windows that is read, the first ones; above 0, at most 1.
        fraction: f64 = 1.0,
    }
}
table! {
    /// How many tokens make a step, and how they are cut.
    Batch {
        /// Sequences in a step, over all ranks; a multiple of `lanes`.
        sequences: usize = 16,
        /// Sequences in one forward and backward pass: fewer take less memory, and change the last bits.
        micro_batch: usize = 16,
        /// Virtual shards of the batch, a power of two: the bits are the same at any number of ranks that divides it.
        lanes: usize = 1,
        /// Tokens in a sequence; at most the model's `context`.
        context: usize = 256,
    }
}
table! {
    /// How long and how exactly.
    Train {
        /// Updates of the weights, 1 to 2^40.
        steps: u64 = 500,
        /// Of activations and of what products multiply; sums, norms, losses and the weights themselves are f32.
        precision: PrecisionChoice = PrecisionChoice::Auto,
        /// Largest norm of the whole gradient; a larger one is scaled down to it. Above 0.
        clip: f32 = 1.0,
        /// Run blocks again in the backward pass instead of keeping them.
        recompute: bool = false,
        /// Threads of this process, 1 to 1024; absent: all of the machine. They change no bit.
        #[serde(skip_serializing_if = "Option::is_none")]
        threads: Option<usize> = None,
    }
}
table! {
    /// On how many ranks, and how they share the work. Of the data-parallel strategies none changes a bit of the result,
    /// unless `reduce` is `fast`: a run may be resumed on another number under another.
    Parallel {
        /// A power of two that divides `batch.lanes`. Threads of this process, or as many processes as MPI started.
        ranks: usize = 1,
        /// One of those that `hairpin train --help` names.
        strategy: String = "replicated".into(),
        /// How the ranks are laid out.
        mesh: MeshTable = MeshTable::default(),
        /// In which order the stages of a pipeline run their micro-batches.
        schedule: pipeline::Schedule = pipeline::Schedule::OneFOneB,
        /// Runs of blocks on each stage, for `interleaved`.
        chunks: usize = 2,
        /// How sums over ranks are ordered.
        reduce: Reduce = Reduce::Exact,
        /// Of `param_server`: absent, all ranks make every step together; a number, none waits for another until it is so many
        /// steps ahead of the slowest.
        #[serde(skip_serializing_if = "Option::is_none")]
        staleness: Option<u64> = None,
    }
}
table! {
    /// How many ranks there are along each axis. What is left of `ranks` is data parallel.
    MeshTable {
        /// Stages, each with a run of the model's blocks.
        pipeline: usize = 1,
        /// Ranks that share the heads, the width of feed-forward layers and the vocabulary.
        tensor: usize = 1,
        /// Ranks that share the tokens of a sequence.
        context: usize = 1,
        /// Ranks that hold one copy of the model together, for `mics`.
        shard: usize = 2,
    }
}

/// How sums over ranks are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// In one fixed tree: the same bits on any number of ranks.
    Exact,
    /// As the communicator likes.
    Fast,
}

impl Reduce {
    pub(crate) fn order(self) -> Order {
        match self {
            Self::Exact => Order::Tree,
            Self::Fast => Order::Any,
        }
    }
}

impl Parallel {
    /// The strategy, which [`Recipe::check`] has looked up.
    pub(crate) fn kind(&self) -> &'static Kind {
        match self.staleness {
            Some(_) => &param_server::WORKER,
            None => parallel::STRATEGIES.find(&self.strategy).unwrap_or(&parallel::replicated::KIND),
        }
    }

    /// Ranks that hold one copy of the model together.
    pub(crate) fn shards(&self) -> usize {
        let mesh = self.mesh();
        (self.kind().shards)(mesh.data * mesh.context, self.mesh.shard)
    }

    /// All axes, that of the data too.
    pub(crate) fn mesh(&self) -> Mesh {
        let MeshTable { pipeline, tensor, context, .. } = self.mesh;
        Mesh { pipeline, tensor, context, data: (self.ranks / pipeline.saturating_mul(tensor).saturating_mul(context).max(1)).max(1) }
    }

    pub(crate) fn chunks(&self) -> usize {
        if self.schedule == pipeline::Schedule::Interleaved { self.chunks } else { 1 }
    }
}

table! {
    /// Which optimiser.
    Optim {
        /// Which rule turns gradients into updates.
        kind: OptimKind = OptimKind::Adamw,
        /// Peak learning rate of AdamW; above 0.
        lr: f32 = 3e-3,
        /// Peak learning rate of Muon's matrices.
        muon_lr: f32 = 0.02,
        /// Of Muon's matrices: how much of the last direction stays; 0 to below 1.
        momentum: f32 = 0.95,
        /// AdamW's memory of gradients, 0 to below 1 (arXiv:1711.05101).
        beta1: f32 = 0.9,
        /// AdamW's memory of squared gradients, 0 to below 1.
        beta2: f32 = 0.95,
        /// What AdamW adds to the root of squared gradients.
        eps: f32 = 1e-8,
        /// Share of a matrix that each step takes away, times the learning rate; norms and biases are spared.
        weight_decay: f32 = 0.1,
        /// How much of a running average of the weights stays at a step, 0 to below 1; 0 keeps none. It is a third array beside AdamW's
        /// two. Samples of diffusion are drawn with it.
        average: f32 = 0.0,
    }
}
table! {
    /// How the learning rate goes: up over `warmup_steps`, then down to `floor_ratio` of its peak.
    Schedule {
        /// The way down.
        kind: ScheduleKind = ScheduleKind::Cosine,
        /// Steps over which it rises from nothing to its peak.
        warmup_steps: u64 = 50,
        /// Of the peak, where it ends; 0 to 1.
        floor_ratio: f32 = 0.1,
        /// Share of the steps over which `wsd` comes down; 0 to 1.
        decay_ratio: f32 = 0.3,
    }
}
table! {
    /// When checkpoints are written and which are kept; the best is always kept.
    Checkpoint {
        /// Steps between two checkpoints, at least 1.
        every_steps: u64 = 250,
        /// How many of the newest stay, at least 1.
        keep_last: usize = 2,
    }
}
table! {
    /// When held-out loss is measured, and on how many windows.
    Eval {
        /// Steps between two measurements, at least 1; the last step is always measured.
        every_steps: u64 = 100,
        /// Windows of `batch.context` tokens, spread over the held-out data; all of them where there are fewer.
        windows: u64 = 32,
        /// End the run by itself when so many measurements in a row were no better than the best before them, at least 1; default: never.
        /// The best is a checkpoint.
        patience: Option<u64> = None,
    }
}
table! {
    /// What to do when the loss jumps above the median of the last `window` steps by `threshold` deviations.
    Guard {
        /// What is done with such a step.
        action: GuardAction = GuardAction::Skip,
        /// Steps that the median and deviation are taken of.
        window: usize = 50,
        /// Deviations above the median from which a loss is a spike; above 0.
        threshold: f32 = 8.0,
    }
}

impl Recipe {
    /// With every default written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Tokens that a step learns from.
    #[must_use]
    pub fn step_tokens(&self) -> u64 {
        (self.batch.sequences * self.batch.context) as u64
    }
}
