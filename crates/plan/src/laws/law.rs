//! A law that was fitted to runs, with what the fit does not know.
//!
//! The interval of a prediction is that of the constants (each bootstrap draw predicts in its turn, so that constants which
//! trade off against one another stay together) and of what runs scatter about the law. Beyond the range that was fitted the
//! draws fan out by themselves; what they cannot see is that the form itself fails there, so each power of ten beyond
//! widens the interval by the law's own drift, which is never less than that of published ladders, [`PUBLISHED_DRIFT`].

use serde::{Deserialize, Serialize};

use super::{Parametric, Repeats, train_flops};
use crate::PlanError;

/// One run: parameters, tokens, held-out loss in nats per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    pub params: f64,
    pub tokens: f64,
    pub loss: f64,
}

/// What the law was fitted on, `[least, most]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub params: [f64; 2],
    pub tokens: [f64; 2],
    pub flops: [f64; 2],
}

/// A fitted law. As JSON it is what `hairpin plan fit` prints and `--law` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Law {
    /// Of which runs, with their source.
    pub name: String,
    pub best: Parametric,
    /// One law per bootstrap draw.
    pub draws: Vec<Parametric>,
    /// 95% of the runs lie within this of the law, as a difference of `ln L`. Their tails are heavier than a normal law's.
    pub scatter_ratio: f64,
    /// Of the loss, that a power of ten beyond the fitted range adds to either side of the interval.
    #[serde(default = "published_drift")]
    pub drift_ratio: f64,
    pub fitted: Range,
}

/// A loss to expect, nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    pub loss: f64,
    /// 95%
    pub interval: [f64; 2],
    /// Powers of ten of compute, parameters or tokens beyond the fitted range, the largest of the three.
    pub decades_beyond: f64,
}

/// Share of the loss per power of ten of compute, parameters or tokens beyond what a law was fitted to. Laws of the smaller runs
/// of five published ladders, each cut at 30% to 80% of its runs, held 95% of the larger runs in an interval that widens so,
/// each ladder counting alike (docs/BENCHMARKS.md, "What a law promises beyond its runs"). Two published fits of the same runs
/// ([`super::EPOCH`], [`super::HOFFMANN`]) drift apart by 0.0085: what a choice of fit leaves open, and the least part of it.
pub const PUBLISHED_DRIFT: f64 = 0.040;

fn published_drift() -> f64 {
    PUBLISHED_DRIFT
}

/// What lies within so few powers of ten of a law's runs says little of how fast it drifts.
const NEAR_DECADES: f64 = 0.1;

impl Law {
    /// The runs of Chinchilla, fitted by `hairpin plan fit crates/plan/src/laws/chinchilla_points.csv --json`; the point
    /// prediction takes the constants that the replication printed.
    #[must_use]
    pub fn chinchilla() -> Self {
        let law: Self = serde_json::from_str(include_str!("chinchilla.json")).expect("checked by a test");
        Self { best: super::EPOCH, ..law }
    }

    /// A law as `hairpin plan fit --json` printed it.
    /// # Errors
    /// [`PlanError::Law`] when it is none, or says what no law can.
    pub fn read(text: &str, origin: &str) -> Result<Self, PlanError> {
        let wrong = |problem: String| PlanError::Law { origin: origin.into(), problem };
        let law: Self = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if !std::iter::once(&law.best).chain(&law.draws).all(Parametric::is_sound) {
            return Err(wrong("every constant of `best` and `draws` must be above zero".into()));
        }
        if ![law.scatter_ratio, law.drift_ratio].iter().all(|ratio| (0.0..1e6).contains(ratio)) {
            return Err(wrong("`scatter_ratio` and `drift_ratio` are shares of a loss".into()));
        }
        let Range { params, tokens, flops } = law.fitted;
        if ![params, tokens, flops].iter().all(|[least, most]| *least > 0.0 && least <= most) {
            return Err(wrong("each range of `fitted` goes from a least above zero to a most".into()));
        }
        Ok(law)
    }

    /// The loss of `params` parameters after `tokens` tokens of which `unique` are new.
    #[must_use]
    pub fn predict(&self, params: f64, tokens: f64, unique: f64) -> Prediction {
        let (loss, constants) = self.constants(params, tokens, unique);
        let beyond = self.decades_beyond(params, tokens);
        let (drift, scatter) = (self.drift_ratio * beyond * loss, self.scatter_ratio * loss);
        // Three sources that know nothing of one another add as squares.
        let [below, above] = constants.map(|side| (side.powi(2) + drift.powi(2) + scatter.powi(2)).sqrt());
        Prediction { loss, interval: [(loss - below).max(0.0), loss + above], decades_beyond: beyond }
    }

    /// The least drift at which the interval holds `run`.
    #[must_use]
    pub fn drift_to(&self, run: &Observation) -> f64 {
        let (loss, [below, above]) = self.constants(run.params, run.tokens, run.tokens);
        let constants = if run.loss < loss { below } else { above };
        let beyond = self.decades_beyond(run.params, run.tokens).max(NEAR_DECADES);
        let unexplained = (run.loss - loss).powi(2) - constants.powi(2) - (self.scatter_ratio * loss).powi(2);
        unexplained.max(0.0).sqrt() / (beyond * loss)
    }

    /// The loss, and how far below and above it the draws' 95% reach.
    fn constants(&self, params: f64, tokens: f64, unique: f64) -> (f64, [f64; 2]) {
        let at = |law: &Parametric| Repeats::PUBLISHED.loss(law, params, tokens, unique);
        let loss = at(&self.best);
        let mut all: Vec<f64> = self.draws.iter().map(at).filter(|loss| loss.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        let quantile = |q: f64| all.get((q * all.len().saturating_sub(1) as f64).round() as usize).copied().unwrap_or(loss);
        (loss, [(loss - quantile(0.025)).max(0.0), (quantile(0.975) - loss).max(0.0)])
    }

    fn decades_beyond(&self, params: f64, tokens: f64) -> f64 {
        let beyond = |value: f64, [least, most]: [f64; 2]| (value / most).log10().max((least / value).log10()).max(0.0);
        let flops = beyond(train_flops(params, tokens), self.fitted.flops);
        flops.max(beyond(params, self.fitted.params)).max(beyond(tokens, self.fitted.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{EPOCH, HOFFMANN};

    #[test]
    fn the_law_that_comes_along_is_whole_and_near_the_printed_one() {
        let law = Law::chinchilla();
        assert!(law.draws.len() >= 100 && (0.001..0.05).contains(&law.scatter_ratio), "{}", law.scatter_ratio);
        let inside = law.predict(1e9, 2e10, 2e10);
        assert_eq!(inside.decades_beyond, 0.0);
        assert!(inside.interval[0] < EPOCH.loss(1e9, 2e10) && EPOCH.loss(1e9, 2e10) < inside.interval[1]);
    }

    #[test]
    fn a_law_is_read_as_it_was_printed_and_nonsense_is_named() {
        let text = serde_json::to_string(&Law::chinchilla()).unwrap();
        assert_eq!(Law::read(&text, "law.json").unwrap(), Law::chinchilla());
        let without = text.replace(&format!("\"drift_ratio\":{PUBLISHED_DRIFT:?},"), "");
        assert!(without.len() < text.len());
        assert_eq!(Law::read(&without, "law.json").unwrap(), Law::chinchilla(), "one that was printed before laws had a drift");
        for (key, bad, word) in [
            ("\"floor\":1.8172", "\"floor\":-1.0", "above zero"),
            ("\"floor\":1.8172", "\"floor\":1e999", "law.json"),
            ("\"scatter_ratio\":", "\"scatter_ratio\":-", "scatter_ratio"),
            ("\"params\":[", "\"params\":[9e99,", "law.json"),
            ("\"name\":", "\"nmae\":", "nmae"),
        ] {
            assert!(text.contains(key), "{key}");
            let problem = Law::read(&text.replacen(key, bad, 1), "law.json").unwrap_err().to_string();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(Law::read(&text[..text.len() / 2], "law.json").is_err() && Law::read("", "law.json").is_err());
    }

    #[test]
    fn beyond_the_range_it_says_so_and_promises_less() {
        let law = Law::chinchilla();
        let width = |params: f64, tokens: f64| {
            let p = law.predict(params, tokens, tokens);
            (p.interval[1] - p.interval[0], p.decades_beyond)
        };
        let (near, far, farther) = (width(1e9, 2e10), width(70e9, 1.4e12), width(4e11, 15e12));
        assert!(near.0 < far.0 && far.0 < farther.0, "{near:?} {far:?} {farther:?}");
        assert!(near.1 == 0.0 && far.1 > 1.0 && farther.1 > far.1);
    }

    #[test]
    fn two_fits_of_the_same_runs_drift_apart_by_less_than_ladders_do() {
        let law = Law::chinchilla();
        let gap = |flops: f64| {
            let (params, tokens) = EPOCH.optimum(flops);
            (EPOCH.loss(params, tokens) - HOFFMANN.loss(params, tokens)) / EPOCH.loss(params, tokens)
        };
        let edge = law.fitted.flops[1];
        let per_decade = (gap(edge * 1e3) - gap(edge)).abs() / 3.0;
        assert!((per_decade - 0.0085).abs() < 0.0009 && per_decade < PUBLISHED_DRIFT, "{per_decade}");
    }
}
