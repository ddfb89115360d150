//! What a step is made of, besides the model: from the recipe, with what follows from it worked out once.

use std::sync::Arc;

use comm::Order;
use engine::{Kind as DeviceKind, Precision};
use parallel::{Kind, mesh::Mesh, pipeline::Schedule};

use crate::{
    TrainError,
    objective::{self, Objective},
    recipe::{Optim, Recipe},
};

/// See the head of this file.
#[derive(Clone)]
pub struct StepOptions {
    /// What is learnt from the model's outputs.
    pub objective: Arc<dyn Objective>,
    pub precision: Precision,
    /// The sort of device that it runs on, or is planned for.
    pub kind: DeviceKind,
    pub recompute: bool,
    pub clip: f32,
    /// Ranks along each axis, and how those of a pipeline take turns.
    pub mesh: Mesh,
    pub schedule: Schedule,
    /// Runs of blocks on each stage.
    pub chunks: usize,
    /// How ranks that see other data share the work.
    pub strategy: &'static Kind,
    /// Without a common step: how many steps a worker may be ahead of the slowest.
    pub staleness: Option<u64>,
    /// Ranks that hold one copy of the model together, and how sums over ranks are ordered.
    pub shards: usize,
    pub order: Order,
    /// Lanes of each rank.
    pub lanes: usize,
    /// Micro-batches of each lane.
    pub passes: usize,
    pub micro_batch: usize,
    pub context: usize,
    pub seed: u64,
    pub optim: Optim,
}

impl StepOptions {
    #[must_use]
    pub fn of(recipe: &Recipe) -> Self {
        Self {
            objective: objective::of(recipe),
            precision: recipe.train.precision.resolve(),
            kind: DeviceKind::Cpu,
            recompute: recipe.train.recompute,
            clip: recipe.train.clip,
            strategy: recipe.parallel.kind(),
            staleness: recipe.parallel.staleness,
            shards: recipe.parallel.shards(),
            order: recipe.parallel.reduce.order(),
            mesh: recipe.parallel.mesh(),
            schedule: recipe.parallel.schedule,
            chunks: recipe.parallel.chunks(),
            lanes: recipe.batch.lanes / recipe.parallel.mesh().data,
            passes: (recipe.batch.sequences / recipe.batch.lanes).div_ceil(recipe.batch.micro_batch),
            micro_batch: recipe.batch.micro_batch.min(recipe.batch.sequences / recipe.batch.lanes),
            context: recipe.batch.context,
            seed: recipe.seed,
            optim: recipe.optim.clone(),
        }
    }

    /// Where a step of all ranks is to be priced or taken apart.
    pub(crate) fn needs_common_step(&self) -> Result<(), TrainError> {
        let Some(staleness) = self.staleness else { return Ok(()) };
        let problem = format!("workers that may be {staleness} steps apart have no common step to price or take apart");
        Err(TrainError::Value { key: "parallel.staleness", problem, help: "leave it out: the synchronous form can be".into() })
    }
}
