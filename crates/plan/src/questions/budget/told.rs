//! The question of a budget and its answer.

use serde::Serialize;

use crate::{
    catalogue::{Accelerator, Price, Service, Term},
    laws::{Prediction, batch},
    simulation::efficiency::{Mfu, Reached},
    simulation::family::Sized,
};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub budget_usd: f64,
    pub instance: String,
    pub service: Service,
    pub term: Term,
    /// The month whose prices count; none: the newest.
    pub prices_of: Option<String>,
    /// Of the whole climb.
    pub deadline_secs: f64,
    /// New tokens that there are; none: as many as wanted.
    pub unique_tokens: Option<f64>,
    /// Tokens that the model will write and read in its life, when they are to be paid from the same budget.
    pub served_tokens: Option<f64>,
    /// A share of peak in place of [`crate::simulation::efficiency`]'s.
    pub mfu: Option<f64>,
    pub context: usize,
    pub vocab: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub instance: String,
    pub accelerator: Accelerator,
    pub price: Price,
    /// Of the last phase.
    pub mfu: Mfu,
    /// Published runs, for scale.
    pub reached: Option<Reached>,
    pub nodes: u64,
    pub accelerators: u64,
    /// For the last phase.
    pub flops: f64,
    /// The same at the lower and upper end of the efficiency's range.
    pub flops_range: [f64; 2],
    pub choices: Vec<Choice>,
    pub ladder: Vec<Rung>,
    /// Of all phases and storage; no more than the budget.
    pub usd: f64,
    pub storage_usd: f64,
    /// Accelerators alone, at their rated power.
    pub energy_kwh: Option<f64>,
    pub family: Vec<Curve>,
    /// (FLOPs, loss) of the best size at each compute.
    pub envelope: Vec<(f64, f64)>,
    pub runs: Vec<Published>,
    pub warnings: Vec<String>,
}

/// A size and an amount of data for the whole budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub name: &'static str,
    /// Of `model`.
    pub params: f64,
    /// Of whole steps of `setting`'s batch.
    pub tokens: f64,
    pub epochs: f64,
    pub loss: Prediction,
    pub secs: f64,
    pub usd: f64,
    pub setting: batch::Setting,
    pub model: Sized,
    /// FLOPs of its step on `Meta` over `6 N D`.
    pub step_flops_ratio: f64,
    /// FLOPs to serve a token.
    pub served_flops: f64,
    pub why: &'static str,
}

/// A phase of the ladder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rung {
    pub name: &'static str,
    pub data_ratio: f64,
    pub accelerators: u64,
    /// Of a decoder that can be built.
    pub params: f64,
    /// Of whole steps.
    pub tokens: f64,
    pub loss: Prediction,
    pub setting: batch::Setting,
    pub mfu: Mfu,
    pub secs: f64,
    pub usd: f64,
}

/// Loss of one size over compute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    pub params: f64,
    pub points: Vec<(f64, f64)>,
}

/// A published run at the loss that the law gives its size and data: its own loss is of other text and another tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Published {
    pub name: String,
    pub flops: f64,
    pub loss: f64,
}
