//! Published runs held against the simulation: days that it says, beside the days that were.

use std::collections::BTreeMap;

use comm::sim::Link;
use models::Model;
use serde::{Deserialize, Serialize};
use train::{TrainError, recipe::Recipe, run, step::StepOptions};

use crate::{
    PlanError,
    catalogue::{Catalogue, Run},
    simulation::hardware::{Cluster, Constants, Numbers},
    simulation::reliability,
    simulation::search::{self, Choice, Miss, Settled},
};

/// One row of `catalogue/trained.toml`, see its head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    pub run: String,
    pub family: String,
    pub model: toml::Table,
    /// Tokens of a sequence; 1 where a sample is an image or a pair.
    #[serde(default = "one")]
    pub context: usize,
    pub sequences: usize,
    /// How many were seen, where runs.toml has no number: one that the run's paper prints, or of each stage.
    pub samples: Option<f64>,
    #[serde(default)]
    pub stages: Vec<Stage>,
    pub gbps: Option<f64>,
    pub count: Option<usize>,
    #[serde(default = "eight")]
    pub devices: usize,
    pub tensor: Option<usize>,
    pub pipeline: Option<usize>,
    pub strategy: Option<String>,
    pub shards: Option<usize>,
    /// Runs of blocks on each stage: more than one where the run's paper tells of an interleaved schedule.
    #[serde(default = "one")]
    pub chunks: usize,
    pub micro_batch: Option<usize>,
    pub recompute: Option<bool>,
    /// Whether attention kept its scores out of memory (arXiv:2205.14135).
    #[serde(default = "yes")]
    pub flash: bool,
    /// Whether tensor ranks shared out the tokens of norms and sums (arXiv:2205.05198).
    #[serde(default = "yes")]
    pub shares_tokens: bool,
    #[serde(default)]
    pub numbers: Numbers,
    /// Whether it ran compiled or hand-written kernels throughout.
    #[serde(default)]
    pub fused: bool,
    pub assumed: Option<String>,
}

/// A part of a run under other sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub steps: f64,
    /// Keys of the model that differ.
    pub model: toml::Table,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn eight() -> usize {
    8
}

/// A run and what the simulation says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub run: Run,
    pub trained: Trained,
    pub choice: Choice,
    /// Of training alone, with the allowance for stops, and as it was.
    pub training_days: f64,
    pub days: f64,
    pub actual_days: f64,
    /// Predicted over actual, less one.
    pub error: f64,
}

#[derive(Deserialize)]
struct File {
    trained: Vec<Trained>,
}

/// All rows.
#[must_use]
pub fn all() -> Vec<Trained> {
    let file: File = toml::from_str(include_str!("../catalogue/trained.toml")).expect("checked by a test");
    file.trained
}

/// Simulate one of them.
/// # Errors
/// When the catalogue lacks its row, or nothing fits.
pub fn outcome(trained: &Trained, catalogue: &Catalogue, constants: Constants) -> Result<Outcome, PlanError> {
    let lacking = |what: &str| PlanError::Catalogue { origin: "trained.toml".into(), problem: format!("`{}` {what}", trained.run) };
    let run = catalogue.runs.iter().find(|run| run.name == trained.run).ok_or_else(|| lacking("is no run"))?;
    let count = trained.count.or(run.count.map(|n| n as usize)).ok_or_else(|| lacking("has no count"))?;
    let actual_days = run.days.or_else(|| Some(run.hours? / count as f64 / 24.0)).ok_or_else(|| lacking("has no time"))?;
    let accelerator = catalogue.accelerator(run.accelerator.as_deref().unwrap_or_default())?;
    let devices = trained.devices.min(count);
    let nodes = count / devices;
    let across = match (&run.instance, trained.gbps) {
        (Some(instance), None) => Link::efa(1e9 * catalogue.instance(instance)?.net_gbps),
        (_, gbps) => Link::infiniband(1e9 * gbps.unwrap_or(400.0)),
    };
    let cluster = Cluster::joined(accelerator, nodes, devices, across);
    let strategy = trained.strategy.as_deref().and_then(|name| parallel::STRATEGIES.find(name)).map(|kind| kind.name);
    let settled = Settled {
        tensor: trained.tensor,
        pipeline: trained.pipeline,
        strategy,
        shards: trained.shards,
        chunks: Some(trained.chunks),
        micro_batch: trained.micro_batch,
        recompute: trained.recompute,
        ..Settled::default()
    };
    let kernels = if trained.fused { constants.fused() } else { constants };
    let constants = Constants { flash: trained.flash, shares_tokens: trained.shares_tokens, numbers: trained.numbers, ..kernels };
    // Of each stage its days; the choice that is told is the longest one's.
    let mut longest: Option<(f64, Choice)> = None;
    let (mut training_days, mut params) = (0.0, 0.0);
    for (table, samples) in trained.parts(run).ok_or_else(|| lacking("has no tokens and no samples"))? {
        let (build, base) = model(&table, trained.context)?;
        let found = search::search(&build, &base, trained.sequences, &cluster, constants, &settled)?;
        let choice = match (found.choices.into_iter().next(), found.misses.into_iter().next()) {
            (Some(choice), _) => choice,
            // It ran as it is stated, whatever is said of its memory.
            (None, Some(Miss { cut, .. })) => {
                let time = search::step(&build, &base, cut, &cluster, constants)?;
                Choice { cut, limit: "memory", time }
            }
            (None, None) => return Err(lacking("cannot be cut so")),
        };
        params = build()?.params().elements() as f64;
        let days = samples / choice.time.tokens_per_sec / 86_400.0;
        training_days += days;
        if longest.as_ref().is_none_or(|(most, _)| *most < days) {
            longest = Some((days, choice));
        }
    }
    let Some((_, choice)) = longest else { return Err(lacking("has no stages")) };
    // A pod's hosts have a few chips each.
    let kept = reliability::usual(params, count as f64, (count as f64 / 8.0).max(1.0))?;
    let days = training_days / kept.goodput_ratio;
    Ok(Outcome { run: run.clone(), trained: trained.clone(), choice, training_days, days, actual_days, error: days / actual_days - 1.0 })
}

/// Days that runs of families other than `family` took, over those that were said: the median of the families' medians. It
/// stands for all that is no step and no failing machine: late data, evaluation, slower kernels, days of people.
#[must_use]
pub fn allowance(outcomes: &[Outcome], family: &str) -> f64 {
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for o in outcomes.iter().filter(|o| o.run.unlike.is_none() && o.trained.family != family) {
        ratios.entry(&o.trained.family).or_default().push(o.actual_days / o.days);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        if all.is_empty() { 1.0 } else { f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2]) }
    };
    median(ratios.into_values().map(median).collect())
}

impl Trained {
    /// Each part of the run: its model, and how many tokens or samples it saw.
    fn parts(&self, run: &Run) -> Option<Vec<(toml::Table, f64)>> {
        if self.stages.is_empty() {
            return Some(vec![(self.model.clone(), run.tokens.or(self.samples).or(run.samples)?)]);
        }
        let part = |stage: &Stage| {
            let mut table = self.model.clone();
            table.extend(stage.model.clone());
            (table, stage.steps * self.sequences as f64)
        };
        Some(self.stages.iter().map(part).collect())
    }
}

/// How to build a model from a recipe's `[model]`, and the options of its step.
fn model(
    table: &toml::Table,
    context: usize,
) -> Result<(impl Fn() -> Result<Box<dyn Model>, TrainError> + Sync + use<>, StepOptions), PlanError> {
    let mut recipe = toml::Table::new();
    recipe.insert("model".into(), table.clone().into());
    let text = format!("{recipe}\n[batch]\ncontext = {context}\n[train]\nprecision = \"bf16\"");
    let (recipe, _) = run::resolve(&Recipe::parse(&text, "trained.toml", &[])?, None)?;
    let options = StepOptions::of(&recipe);
    Ok((move || Ok(models::build(&recipe.model)?), options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_run_and_a_model_of_its_size() {
        let catalogue = Catalogue::load(None).unwrap();
        for trained in all() {
            let run = catalogue.runs.iter().find(|run| run.name == trained.run);
            let run = run.unwrap_or_else(|| panic!("{} is no run", trained.run));
            let model = model(&trained.model, trained.context).unwrap().0().unwrap();
            // What is printed of a latent diffusion model counts its encoders in.
            let encoders = if run.kind == "diffusion" { model.encoders() } else { &[] };
            let of_encoders: u64 = encoders.iter().map(|encoder| encoder.params().elements()).sum();
            let params = (model.params().active_elements() + of_encoders) as f64;
            assert!((params / run.params - 1.0).abs() < 0.17, "{}: {params:.3e} where {:.3e} are printed", run.name, run.params);
        }
    }

    #[test]
    fn falcon_took_little_longer_than_its_steps_and_an_allowance_comes_from_other_families() {
        let catalogue = Catalogue::load(None).unwrap();
        let of = |name: &str| {
            let trained = all().into_iter().find(|trained| trained.run == name).unwrap();
            outcome(&trained, &catalogue, Constants::default()).unwrap()
        };
        let falcon = of("Falcon-40B");
        // Steps alone take a little less than all that a run is.
        assert!((-0.15..0.0).contains(&falcon.error), "{} days where {} were", falcon.days, falcon.actual_days);
        let (small, mpt) = (of("nanochat d32"), of("MPT-7B"));
        let all = [falcon.clone(), small.clone(), mpt.clone()];
        let ratio = |o: &Outcome| o.actual_days / o.days;
        assert!((allowance(&all, "MPT") - f64::midpoint(ratio(&falcon), ratio(&small))).abs() < 1e-12);
        assert_eq!(allowance(&all[..1], "Falcon"), 1.0);
    }
}
