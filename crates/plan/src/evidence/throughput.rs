//! Throughputs that others measured, held against the simulation: a third of the rows sets [`Constants`], the rest judges.

use comm::{Order, sim::Link};
use engine::mix;
use parallel::mesh::Mesh;
use serde::Serialize;
use train::{recipe::Recipe, run, step::StepOptions};

use crate::{
    PlanError,
    catalogue::{self, Catalogue},
    simulation::hardware::{Cluster, Constants},
    simulation::step::{self as simulate, StepTime},
};

/// One row of `catalogue/throughput.csv`, see its head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub accelerator: String,
    pub model: String,
    pub context: usize,
    pub accelerators: usize,
    pub micro_batch: usize,
    pub lanes: usize,
    /// `zero2` or `zero3`.
    pub strategy: String,
    pub recompute: bool,
    pub tokens_per_sec: f64,
}

/// A row and what the simulation says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub row: Row,
    pub time: StepTime,
    /// Simulated over measured throughput, less one.
    pub error: f64,
    pub fits: bool,
}

const DEVICES: usize = 8;

/// All rows in 16 bits: in 8 bits other units do the products, and which of them is not printed.
#[must_use]
pub fn rows() -> Vec<Row> {
    catalogue::cells(include_str!("../catalogue/throughput.csv")).filter_map(row).collect()
}

fn row(cells: Vec<&str>) -> Option<Row> {
    let [accelerator, model, context, accelerators, micro_batch, lanes, sharding, recompute, "bf16", tokens_per_sec] = cells[..] else {
        return None;
    };
    Some(Row {
        accelerator: accelerator.into(),
        model: model.into(),
        context: context.parse().ok()?,
        accelerators: accelerators.parse().ok()?,
        micro_batch: micro_batch.parse().ok()?,
        lanes: lanes.parse().ok()?,
        strategy: if sharding == "FULL_SHARD" { "zero3" } else { "zero2" }.into(),
        recompute: recompute == "true",
        tokens_per_sec: tokens_per_sec.parse().ok()?,
    })
}

impl Row {
    /// Whether the constants were set on it: a third of all, by a hash of what was run and not of what came.
    #[must_use]
    pub fn sets_constants(&self) -> bool {
        let name = format!("{} {} {} {} {}", self.accelerator, self.model, self.context, self.accelerators, self.micro_batch);
        let hash = name.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        hash.is_multiple_of(3)
    }

    /// Layers, width and heads of an MPT, from llm-foundry's scripts/train/yamls/pretrain.
    fn sizes(&self) -> Option<[usize; 3]> {
        Some(match self.model.as_str() {
            "125m" => [12, 768, 12],
            "350m" => [24, 1024, 16],
            "760m" => [24, 1536, 12],
            "1b" => [24, 2048, 16],
            "3b" => [32, 2560, 20],
            "7b" => [32, 4096, 32],
            "13b" => [40, 5120, 40],
            "30b" => [48, 7168, 56],
            "70b" => [80, 8192, 64],
            _ => return None,
        })
    }

    /// Simulate it.
    /// # Errors
    /// When the row names what is not in the catalogue.
    pub fn check(&self, catalogue: &Catalogue, constants: Constants) -> Result<Check, PlanError> {
        let unknown =
            || PlanError::Catalogue { origin: "measured throughputs".into(), problem: format!("`{}` is no size of MPT", self.model) };
        let [layers, model, heads] = self.sizes().ok_or_else(unknown)?;
        let (context, recompute) = (self.context, self.recompute);
        let text = format!(
            "[model]\npreset = \"gpt2-124m\"\nlayers = {layers}\nmodel = {model}\nheads = {heads}\nvocab = 50368\ncontext = {context}\n\
             bias = false\nnorm_bias = false\n[batch]\ncontext = {context}\n[train]\nrecompute = {recompute}\nprecision = \"bf16\""
        );
        let (recipe, _) = run::resolve(&Recipe::parse(&text, "throughput", &[])?, None)?;
        let options = StepOptions {
            mesh: Mesh::data(self.accelerators),
            shards: self.accelerators,
            strategy: parallel::STRATEGIES.find(&self.strategy).ok_or_else(unknown)?,
            order: Order::Any,
            lanes: self.lanes,
            passes: 1,
            micro_batch: self.micro_batch,
            ..StepOptions::of(&recipe)
        };
        let accelerator = catalogue.accelerator(&self.accelerator)?;
        let gbps = if self.accelerator == "H100" { 3200e9 } else { 1600e9 };
        let cluster = Cluster::joined(accelerator, self.accelerators / DEVICES, DEVICES, Link::infiniband(gbps));
        let time = simulate::step(&|| Ok(models::build(&recipe.model)?), &options, &cluster, constants)?;
        Ok(Check {
            row: self.clone(),
            error: time.tokens_per_sec / self.tokens_per_sec - 1.0,
            fits: time.bytes.total() <= cluster.hardware.usable_bytes(),
            time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(constants: Constants, wanted: impl Fn(&Row) -> bool) -> Vec<Check> {
        let catalogue = Catalogue::load(None).unwrap();
        rows().iter().filter(|row| wanted(row)).map(|row| row.check(&catalogue, constants).unwrap()).collect()
    }

    fn quantile(checks: &[Check], share: f64) -> f64 {
        let mut errors: Vec<f64> = checks.iter().map(|check| check.error.abs()).collect();
        errors.sort_by(f64::total_cmp);
        errors[(share * (errors.len() - 1) as f64).round() as usize]
    }

    #[test]
    fn throughputs_that_set_nothing_are_foretold_and_what_ran_fits() {
        let judged = checks(Constants::default(), |row| !row.sets_constants());
        assert!(judged.len() > 120);
        let (median, most) = (quantile(&judged, 0.5), quantile(&judged, 0.9));
        assert!(median < 0.06 && most < 0.15, "median error {median}, a tenth above {most}");
        let all = checks(Constants::default(), |_| true);
        let fit = all.iter().filter(|check| check.fits).count() as f64 / all.len() as f64;
        assert!(fit >= 0.95, "{fit} of what ran fits");
        // Most with four times the micro-batch do not, so that the verdict is no yes to all.
        let four_times = rows().into_iter().map(|row| Row { micro_batch: 4 * row.micro_batch, lanes: 1, ..row });
        let catalogue = Catalogue::load(None).unwrap();
        let large: Vec<bool> = four_times.map(|row| row.check(&catalogue, Constants::default()).unwrap().fits).collect();
        assert!(large.iter().filter(|fits| !**fits).count() as f64 > 0.6 * large.len() as f64);
    }
}
