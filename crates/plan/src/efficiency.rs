//! How much of an accelerator's peak a training step uses. The planner asks here and nowhere else.
//!
//! Today's answer is what published runs on that accelerator reached: model FLOPs by `6 N D` over the hours that were paid, so
//! stops and restarts are inside. It knows neither the model nor the cluster: the step on `Meta` over the simulated cluster
//! knows both, and will answer in its place through the same [`Mfu`].

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{Accelerator, Catalogue},
};

/// A share of peak, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mfu {
    pub ratio: f64,
    /// What a tenth of the runs stay below, and a tenth surpass.
    pub range: [f64; 2],
    pub source: String,
    /// Whether stops and restarts are in it already.
    pub has_failures: bool,
}

/// Smallest model and cluster that count: below, the paid hours are of one machine and of start-up.
const LEAST_PARAMS: f64 = 1e9;

/// What to expect on `accelerator`; `stated` is the user's own figure.
/// # Errors
/// [`PlanError::Unit`] when `stated` is no share.
pub fn mfu(catalogue: &Catalogue, accelerator: &Accelerator, stated: Option<f64>) -> Result<Mfu, PlanError> {
    if let Some(ratio) = stated {
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(PlanError::Unit { text: ratio.to_string(), problem: "is no share of peak".into(), example: "0.4" });
        }
        return Ok(Mfu { ratio, range: [ratio, ratio], source: "stated".into(), has_failures: false });
    }
    let reached = |is_it: &dyn Fn(&str) -> bool| -> Vec<f64> {
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
    let own = reached(&|name| name.split('-').next() == Some(generation));
    let (all, of) = if own.len() >= 5 {
        (own, format!("on {generation}"))
    } else {
        (reached(&|name| !name.starts_with("TPU")), format!("on other accelerators, for want of runs on {generation}"))
    };
    if all.is_empty() {
        return Err(PlanError::Impossible {
            problem: "the catalogue holds no published run to take a speed from".into(),
            relax: "state one with `--mfu 0.4`".into(),
        });
    }
    let at = |q: f64| all[(q * (all.len() - 1) as f64).round() as usize];
    Ok(Mfu {
        ratio: at(0.5),
        range: [at(0.1), at(0.9)],
        source: format!("median of {} published runs {of}", all.len()),
        has_failures: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_runs_tell_a_plausible_share_and_a_stated_one_stands() {
        let catalogue = Catalogue::load(None).unwrap();
        let of = |name: &str| mfu(&catalogue, catalogue.accelerator(name).unwrap(), None).unwrap();
        for name in ["A100-40", "H100", "Trainium2"] {
            let mfu = of(name);
            assert!(mfu.range[0] < mfu.ratio && mfu.ratio < mfu.range[1] && (0.15..0.5).contains(&mfu.ratio), "{name}: {mfu:?}");
        }
        assert!(of("Trainium2").source.contains("for want of"));
        let a100 = catalogue.accelerator("A100").unwrap();
        assert_eq!(mfu(&catalogue, a100, Some(0.55)).unwrap().ratio, 0.55);
        for wrong in [0.0, -0.1, 1.5, f64::NAN] {
            assert!(mfu(&catalogue, a100, Some(wrong)).is_err());
        }
    }
}
