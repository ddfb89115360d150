//! The words that a recipe chooses from.

use engine::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionChoice {
    /// bf16 where the CPU is faster with it, f32 elsewhere.
    Auto,
    /// 32 bits throughout.
    F32,
    /// Activations, their gradients and what products multiply in 16 bits of bfloat16.
    Bf16,
}

impl PrecisionChoice {
    #[must_use]
    pub fn resolve(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Auto if kernels::level().has_fast_bf16() => Precision::Bf16,
            Self::Auto => Precision::F32,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimKind {
    /// Adam with decoupled weight decay (arXiv:1711.05101).
    Adamw,
    /// Muon for matrices, AdamW for the rest.
    Muon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine from the peak to the floor.
    Cosine,
    /// Warm-up, stable, decay; arXiv:2404.06395.
    Wsd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Nothing but the loss's end: one that is not finite ends the run.
    Off,
    /// Leave the update out.
    Skip,
    /// Go back to the last checkpoint and leave the batch out.
    Rollback,
}
