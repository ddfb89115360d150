//! How much of an accelerator's peak the training of a decoder uses. The planner's questions of money ask here and nowhere else.
//!
//! ```text
//! parameters -> family::sized -> the step on Meta over the simulated cluster, best cut -> share of peak / allowance
//! ```
//! FLOPs are `6 N D`, the convention of laws and papers, so the share is a little below that of what a step really computes.
//! A run is more than steps, so its days are those of the steps times an allowance: what published runs took over what the
//! simulation says of them (`catalogue/errors.toml`, whose head names the command); how far these lie apart is the interval. What
//! published runs reached stands beside it for scale.

use serde::{Deserialize, Serialize};
use train::{recipe::Recipe, run, step::StepOptions};

use crate::{
    PlanError,
    catalogue::{Accelerator, Catalogue, Instance},
    laws::train_flops,
    simulation::family,
    simulation::hardware::{Cluster, Constants},
    simulation::reliability::{self, Reliability},
    simulation::search::{self, Choice},
};

/// A share of peak, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mfu {
    /// What to expect: that of the step alone over the allowance.
    pub ratio: f64,
    /// Where four of five runs would lie.
    pub range: [f64; 2],
    /// Days to expect over those of the steps alone.
    pub allowance: f64,
    pub source: String,
    /// The best cut that was found; none where the share was stated.
    pub choice: Option<Choice>,
    /// What stops take of the paid time, which is not in `ratio`.
    pub reliability: Reliability,
}

/// What is trained, and on how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    pub params: f64,
    pub vocab: usize,
    pub context: usize,
    pub batch_tokens: f64,
    pub accelerators: usize,
}

impl Job {
    /// Of a batch as near to `batch_tokens` as every accelerator can have as many of as the others.
    #[must_use]
    pub fn sequences(&self) -> usize {
        let each = self.batch_tokens / self.context as f64 / self.accelerators.max(1) as f64;
        (each.round() as usize).max(1) * self.accelerators.max(1)
    }
}

/// What published runs reached on an accelerator: `6 N D` over the hours that were paid, stops inside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reached {
    pub median: f64,
    /// What a tenth of the runs stay below, and a tenth surpass.
    pub range: [f64; 2],
    pub runs: usize,
    pub on: String,
}

/// Days that published runs took over those that the simulation says, see the head of `catalogue/errors.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    pub runs: usize,
    /// A tenth of the runs stay below the first and surpass the last; between them is the median of the families' medians.
    pub taken_over_said: [f64; 3],
}

impl Mfu {
    /// The share of peak that is training kept, stops and restarts taken off.
    #[must_use]
    pub fn kept(&self) -> f64 {
        self.ratio * self.reliability.goodput_ratio
    }
}

/// What to expect of `job` on machines of `instance`; `stated` is the user's own figure.
/// # Errors
/// [`PlanError::Unit`] when `stated` is no share; [`PlanError::Impossible`] when no cut fits, with by how much and what would.
pub fn mfu(catalogue: &Catalogue, instance: &Instance, job: &Job, stated: Option<f64>) -> Result<Mfu, PlanError> {
    let nodes = job.accelerators.div_ceil(instance.count.max(1) as usize);
    let reliability = reliability::usual(job.params, job.accelerators as f64, nodes as f64)?;
    if let Some(ratio) = stated {
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(PlanError::Unit { text: ratio.to_string(), problem: "is no share of peak".into(), example: "0.4" });
        }
        return Ok(Mfu { ratio, range: [ratio, ratio], allowance: 1.0, source: "stated".into(), choice: None, reliability });
    }
    let cluster = Cluster::part(catalogue, instance, job.accelerators)?;
    let model = family::sized(job.params, job.vocab, job.context)?;
    let text = format!("[batch]\ncontext = {}\n[train]\nprecision = \"bf16\"\n[model]\n{}", job.context, model.table);
    let (recipe, _) = run::resolve(&Recipe::parse(&text, "the planned model", &[])?, None)?;
    let build = |layers: Option<usize>| {
        let mut table = recipe.model.clone();
        if let Some(layers) = layers {
            table.insert("layers".into(), (layers as i64).into());
        }
        Ok(models::build(&table)?)
    };
    let sequences = job.sequences();
    let found = search::quick(&build, &StepOptions::of(&recipe), sequences, &cluster, Constants::default())?;
    let Some(choice) = found.choices.into_iter().next() else {
        return Err(search::nothing_fits(&found.misses, found.refusal.as_deref(), instance, &cluster, sequences));
    };
    let flops = train_flops(model.params as f64, choice.time.tokens_per_sec);
    let of_steps = flops / (job.accelerators as f64 * cluster.hardware.peak_flops);
    let Errors { runs, taken_over_said: [fast, allowance, slow] } = errors();
    Ok(Mfu {
        ratio: of_steps / allowance,
        range: [of_steps / slow, (of_steps / fast).min(1.0)],
        allowance,
        source: format!(
            "steps alone {:.0}% by simulation, over {allowance:.2}, which is what published runs took over what it says of them; four of five of {runs} lie within",
            100.0 * of_steps
        ),
        choice: Some(choice),
        reliability,
    })
}

/// What to expect of `params` parameters on the fewest machines that hold their training, with batches and sequences as are
/// usual: 4M tokens, and 4,096 each where the model's `context` allows.
/// # Errors
/// As [`mfu`], when the most machines that are tried do not hold it.
pub fn on_fewest(catalogue: &Catalogue, instance: &Instance, params: f64, context: f64, stated: Option<f64>) -> Result<Mfu, PlanError> {
    const MOST_NODES: usize = 64;
    const USUAL: Job = Job { params: 0.0, vocab: 50_304, context: 4096, batch_tokens: 4e6, accelerators: 0 };
    let mut nodes = 1;
    loop {
        let accelerators = nodes * instance.count as usize;
        match mfu(catalogue, instance, &Job { params, context: USUAL.context.min(context as usize), accelerators, ..USUAL }, stated) {
            Err(PlanError::Impossible { .. }) if nodes < MOST_NODES => nodes *= 2,
            result => return result,
        }
    }
}

/// How right the simulation has been.
#[must_use]
pub fn errors() -> Errors {
    toml::from_str(include_str!("../catalogue/errors.toml")).expect("checked by a test")
}

/// Smallest model that counts: below, the paid hours are of one machine and of start-up.
const LEAST_PARAMS: f64 = 1e9;
/// Fewest runs that are told as a generation's own.
const LEAST_RUNS: usize = 5;

/// What published runs reached on `accelerator`'s generation, or on all where its own are few.
#[must_use]
pub fn reached(catalogue: &Catalogue, accelerator: &Accelerator) -> Option<Reached> {
    let on = |is_it: &dyn Fn(&str) -> bool| -> Vec<f64> {
        let mut all: Vec<f64> = catalogue
            .runs
            .iter()
            .filter(|r| r.unlike.is_none() && r.params >= LEAST_PARAMS && r.accelerator.as_deref().is_some_and(is_it))
            .filter_map(|r| {
                let peak = catalogue.accelerator(r.accelerator.as_deref()?).ok()?.peak_tflops * 1e12;
                Some(r.flops()? / (r.hours? * 3600.0 * peak))
            })
            .collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let generation = accelerator.name.split('-').next().unwrap_or_default();
    let own = on(&|name| name.split('-').next() == Some(generation));
    let (all, on) = if own.len() >= LEAST_RUNS {
        (own, generation.to_owned())
    } else {
        (on(&|name| !name.starts_with("TPU")), format!("other accelerators, for want of runs on {generation}"))
    };
    let at = |q: f64| all.get((q * all.len().saturating_sub(1) as f64).round() as usize).copied();
    Some(Reached { median: at(0.5)?, range: [at(0.1)?, at(0.9)?], runs: all.len(), on })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job = Job { params: 7e9, vocab: 50_304, context: 2048, batch_tokens: 4e6, accelerators: 64 };

    fn on(instance: &str, job: Job) -> Result<Mfu, PlanError> {
        let catalogue = Catalogue::load(None).unwrap();
        mfu(&catalogue, catalogue.instance(instance).unwrap(), &job, None)
    }

    #[test]
    fn the_step_of_the_model_on_the_cluster_says_it() {
        let small = on("p4d.24xlarge", Job { params: 1e8, accelerators: 8, ..JOB }).unwrap();
        let mfu = on("p4d.24xlarge", JOB).unwrap();
        assert!(small.ratio < mfu.ratio, "narrow products are slow: {} and {}", small.ratio, mfu.ratio);
        assert!(
            mfu.range[0] < mfu.ratio && mfu.ratio < mfu.range[1] && mfu.kept() < mfu.ratio && (0.2..0.6).contains(&mfu.ratio),
            "{mfu:?}"
        );
        // Hopper's cards are faster than their links became.
        assert!(on("p5.48xlarge", JOB).unwrap().ratio < mfu.ratio);
    }

    #[test]
    fn what_does_not_fit_says_by_how_much_and_what_would() {
        let PlanError::Impossible { problem, relax } = on("p4d.24xlarge", Job { params: 70e9, accelerators: 8, ..JOB }).unwrap_err() else {
            panic!("70B fit 8 x 40 GB")
        };
        assert!(problem.contains("bytes") && relax.contains("nodes"), "{problem} {relax}");
    }

    #[test]
    fn a_few_layers_foretell_many() {
        let mfu = on("p4d.24xlarge", Job { params: 13e9, accelerators: 32, ..JOB }).unwrap();
        let choice = mfu.choice.unwrap();
        let catalogue = Catalogue::load(None).unwrap();
        let cluster = Cluster::part(&catalogue, catalogue.instance("p4d.24xlarge").unwrap(), 32).unwrap();
        let model = family::sized(13e9, JOB.vocab, JOB.context).unwrap();
        let text = format!("[batch]\ncontext = 2048\n[train]\nprecision = \"bf16\"\n[model]\n{}", model.table);
        let (recipe, _) = run::resolve(&Recipe::parse(&text, "test", &[]).unwrap(), None).unwrap();
        let build = || Ok(models::build(&recipe.model)?);
        let settled = search::Settled { pipeline: Some(1), ..search::Settled::default() };
        let whole = search::search(&build, &StepOptions::of(&recipe), 1953, &cluster, Constants::default(), &settled).unwrap();
        let best = &whole.choices[0];
        assert!((choice.time.tokens_per_sec / best.time.tokens_per_sec - 1.0).abs() < 0.01, "{choice:?} {best:?}");
        assert!((choice.time.bytes.total() / best.time.bytes.total() - 1.0).abs() < 0.01 || choice.cut != best.cut);
    }

    #[test]
    fn a_stated_share_stands_and_one_that_is_none_is_refused() {
        let catalogue = Catalogue::load(None).unwrap();
        let p4d = catalogue.instance("p4d.24xlarge").unwrap();
        assert_eq!(mfu(&catalogue, p4d, &JOB, Some(0.55)).unwrap().ratio, 0.55);
        for wrong in [0.0, -0.1, 1.5, f64::NAN] {
            assert!(mfu(&catalogue, p4d, &JOB, Some(wrong)).is_err());
        }
    }

    #[test]
    fn published_runs_stand_beside_it_for_scale() {
        let catalogue = Catalogue::load(None).unwrap();
        for name in ["A100-40", "H100", "Trainium2"] {
            let it = reached(&catalogue, catalogue.accelerator(name).unwrap()).unwrap();
            assert!(it.range[0] < it.median && it.median < it.range[1] && (0.15..0.5).contains(&it.median), "{name}: {it:?}");
        }
        assert!(reached(&catalogue, catalogue.accelerator("Trainium2").unwrap()).unwrap().on.contains("for want of"));
    }
}
