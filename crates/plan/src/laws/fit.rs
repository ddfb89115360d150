//! A user's own runs to a law: Huber regression of `ln L` as in Hoffmann et al. (arXiv:2203.15556, section 3.3: delta 1e-3,
//! L-BFGS from a grid of starts) and a bootstrap of it (as in arXiv:2404.10102, their 4,000 draws are ours to choose).
//!
//! A bootstrap takes the form of the law for true, and residuals of neighbouring runs for independent; both fail where a law is
//! used, beyond its runs. How fast it drifts from them there is seen by leaving the largest runs out ([`drift`]).
//!
//! The minimiser is argmin's. Sizes enter as logarithms about their mean: without that, A and a are nearly one direction and
//! the search stops early, which is what went wrong in the original.

use std::cell::Cell;

use argmin::{
    core::{CostFunction, Executor, Gradient, State},
    solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS},
};
use engine::mix;

use crate::{
    PlanError,
    laws::{Law, Observation, PUBLISHED_DRIFT, Parametric, Range, train_flops},
};

/// Fewest runs: five constants and one to spare.
pub const LEAST: usize = 6;
/// Most runs: a law of every step of every run would take minutes, and know no more than one of their ends.
pub const MOST: usize = 20_000;
const DELTA: f64 = 1e-3;
/// Shares of the runs, least compute first, from each of which the others are predicted to see how a law drifts.
const CUTS: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];
/// Bootstrap draws of each of those.
const CUT_DRAWS: usize = 60;

/// Read runs from CSV text with the columns `params`, `tokens` and `loss`, in any order; other columns and lines that begin
/// with `#` are passed over.
/// # Errors
/// [`PlanError::Points`] with the line.
pub fn read(text: &str, origin: &str) -> Result<Vec<Observation>, PlanError> {
    let wrong = |line: usize, problem: String| PlanError::Points { origin: origin.into(), problem: format!("line {line}: {problem}") };
    let text = text.trim_start_matches('\u{feff}'); // as spreadsheets write it
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    let (at, head) = lines.next().ok_or_else(|| wrong(1, "the file is empty".into()))?;
    let columns: Vec<&str> = head.split(',').map(str::trim).collect();
    let column = |name: &str| {
        columns
            .iter()
            .position(|c| *c == name)
            .ok_or_else(|| wrong(at, format!("there is no column `{name}`, only `{}`", columns.join("`, `"))))
    };
    let (params, tokens, loss) = (column("params")?, column("tokens")?, column("loss")?);
    let mut points = Vec::new();
    for (at, line) in lines {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |i: usize| crate::units::count(cells.get(i).copied().unwrap_or("")).map_err(|e| wrong(at, e.to_string()));
        points.push(Observation { params: cell(params)?, tokens: cell(tokens)?, loss: cell(loss)? });
    }
    Ok(points)
}

/// Fit a law to `points`, with `draws` bootstrap draws from `seed`. It drifts as fast as these runs show or as published ones
/// did, whichever is more.
/// # Errors
/// [`PlanError::Points`] when they are too few, or of one size or one amount of data.
pub fn fit(points: &[Observation], name: &str, draws: usize, seed: u64) -> Result<Law, PlanError> {
    let law = without_drift(points, name, draws, seed)?;
    // A law that drifts by all of the loss says nothing, and no less when it drifts by more.
    Ok(Law { drift_ratio: drift(points, seed).unwrap_or(0.0).clamp(PUBLISHED_DRIFT, 1.0), ..law })
}

/// How far laws of the smaller of these runs were from the larger, as a share of the loss per power of ten beyond what each was
/// fitted to: 95% of the runs left out are in an interval that widens so. `None` when no part is enough for a law.
#[must_use]
pub fn drift(points: &[Observation], seed: u64) -> Option<f64> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| train_flops(a.params, a.tokens).total_cmp(&train_flops(b.params, b.tokens)));
    let cuts = CUTS.map(|share| points.split_at((share * points.len() as f64) as usize));
    let laws = cuts.into_iter().filter_map(|(lower, rest)| Some((without_drift(lower, "", CUT_DRAWS, seed).ok()?, rest)));
    let mut all: Vec<f64> = laws.flat_map(|(law, rest)| rest.iter().map(|p| law.drift_to(p)).collect::<Vec<_>>()).collect();
    all.sort_by(f64::total_cmp);
    all.get((0.95 * all.len().saturating_sub(1) as f64).ceil() as usize).copied()
}

fn without_drift(points: &[Observation], name: &str, draws: usize, seed: u64) -> Result<Law, PlanError> {
    let wrong = |problem: &str| PlanError::Points { origin: name.into(), problem: problem.into() };
    if points.len() < LEAST {
        return Err(wrong(&format!("{} runs are too few for five constants: give {LEAST} or more", points.len())));
    }
    if points.len() > MOST {
        return Err(wrong(&format!("{} runs are too many: give at most {MOST}, such as the end of each", points.len())));
    }
    let range = |of: fn(&Observation) -> f64| points.iter().map(of).fold([f64::INFINITY, 0.0], |[l, h], v| [v.min(l), v.max(h)]);
    let (params, tokens) = (range(|p| p.params), range(|p| p.tokens));
    for (what, [least, most]) in [("parameters", params), ("tokens", tokens)] {
        if most < 1.5 * least {
            return Err(wrong(&format!("all runs have nearly the same {what}: the law's exponent for them cannot be told")));
        }
    }
    let problem = Problem::of(points);
    let best = starts(&problem)
        .into_iter()
        .filter_map(|start| problem.minimise(start))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .ok_or_else(|| wrong("no law of the form E + A N^-a + B D^-b goes through these runs"))?;
    let law = problem.law(&best.0);
    let mut residuals: Vec<f64> = points.iter().map(|p| (p.loss.ln() - law.loss(p.params, p.tokens).ln()).abs()).collect();
    residuals.sort_by(f64::total_cmp);
    let resample = |draw: u64| -> Vec<[f64; 3]> {
        let pick = |i: usize| (mix(mix(seed) ^ mix(draw << 32 | i as u64)) % points.len() as u64) as usize;
        (0..points.len()).map(|i| problem.rows[pick(i)]).collect()
    };
    let draw = |draw: u64| {
        let again = Problem { rows: resample(draw), ..problem.clone() };
        again.minimise(best.0.clone()).map(|(x, _)| again.law(&x)).filter(Parametric::is_sound)
    };
    Ok(Law {
        name: name.into(),
        best: law,
        draws: (0..draws as u64).filter_map(draw).collect(),
        scatter_ratio: residuals[(0.95 * (residuals.len() - 1) as f64).ceil() as usize],
        drift_ratio: 0.0,
        fitted: Range { params, tokens, flops: range(|p| train_flops(p.params, p.tokens)) },
    })
}

/// Unknowns `x = [ln A', ln B', ln E, a, b]`, where A' and B' are the terms at the mean logarithmic size.
#[derive(Clone)]
struct Problem {
    /// `[ln N - mean, ln D - mean, ln L]`
    rows: Vec<[f64; 3]>,
    means: [f64; 2],
    /// How often the cost may still be asked for: a search along a line has no bound of its own, and of some runs finds no end.
    left: Cell<u32>,
}

/// Of one start; an ordinary one takes some hundred.
const EVALUATIONS: u32 = 50_000;

impl Problem {
    fn of(points: &[Observation]) -> Self {
        let mean = |of: fn(&Observation) -> f64| points.iter().map(|p| of(p).ln()).sum::<f64>() / points.len() as f64;
        let means = [mean(|p| p.params), mean(|p| p.tokens)];
        Self {
            rows: points.iter().map(|p| [p.params.ln() - means[0], p.tokens.ln() - means[1], p.loss.ln()]).collect(),
            means,
            left: Cell::new(EVALUATIONS),
        }
    }

    fn law(&self, x: &[f64]) -> Parametric {
        Parametric {
            floor: x[2].exp(),
            params_scale: (x[0] + x[3] * self.means[0]).exp(),
            params_exponent: x[3],
            tokens_scale: (x[1] + x[4] * self.means[1]).exp(),
            tokens_exponent: x[4],
        }
    }

    /// Unknowns and cost at the lowest point near `start`, if there is an end to the search.
    fn minimise(&self, start: Vec<f64>) -> Option<(Vec<f64>, f64)> {
        self.left.set(EVALUATIONS);
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), 8).with_tolerance_grad(1e-9).ok()?.with_tolerance_cost(1e-14).ok()?;
        let result = Executor::new(self.clone(), solver).configure(|state| state.param(start).max_iters(400)).run().ok()?;
        let (x, cost) = (result.state().get_best_param()?.clone(), result.state().get_best_cost());
        (cost.is_finite() && self.law(&x).is_sound()).then_some((x, cost))
    }

    /// The three terms of each row's loss and the residual `ln L^ - ln L`.
    fn terms(&self, x: &[f64]) -> impl Iterator<Item = ([f64; 3], f64)> {
        let [a, b, e, alpha, beta] = [x[0], x[1], x[2], x[3], x[4]];
        self.rows.iter().map(move |[n, d, l]| {
            let terms = [(a - alpha * n).exp(), (b - beta * d).exp(), e.exp()];
            (terms, terms.iter().sum::<f64>().ln() - l)
        })
    }
}

/// The mean over rows, in units of DELTA, so that the minimiser's tolerances mean something.
impl CostFunction for Problem {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, x: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| argmin::core::Error::msg("the search finds no end"))?;
        self.left.set(left);
        let huber = |r: f64| if r <= DELTA { r * r / (2.0 * DELTA) } else { r - DELTA / 2.0 };
        Ok(self.terms(x).map(|(_, r)| huber(r.abs())).sum::<f64>() / self.rows.len() as f64)
    }
}

impl Gradient for Problem {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, x: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        let mut gradient = vec![0.0; 5];
        for (([params, tokens, floor], residual), [n, d, _]) in self.terms(x).zip(&self.rows) {
            let slope = (residual / DELTA).clamp(-1.0, 1.0) / (params + tokens + floor) / self.rows.len() as f64;
            for (g, v) in gradient.iter_mut().zip([params, tokens, floor, -n * params, -d * tokens]) {
                *g += slope * v;
            }
        }
        Ok(gradient)
    }
}

/// A grid over how the smallest loss might divide into its three terms, and over the exponents.
fn starts(problem: &Problem) -> Vec<Vec<f64>> {
    let least = problem.rows.iter().map(|r| r[2]).fold(f64::INFINITY, f64::min);
    let mut all = Vec::new();
    for floor in [0.3_f64, 0.6, 0.85] {
        for exponent in [0.1, 0.3, 0.6] {
            let rest = ((1.0 - floor) / 2.0).ln() + least;
            all.push(vec![rest, rest, floor.ln() + least, exponent, exponent]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::EPOCH;

    fn chinchilla() -> Vec<Observation> {
        read(include_str!("chinchilla_points.csv"), "chinchilla").unwrap()
    }

    #[test]
    fn the_replication_is_replicated() {
        let law = fit(&chinchilla(), "chinchilla", 0, 1).unwrap().best;
        // Within the standard errors that arXiv:2404.10102 prints under eq. 3.
        for (got, want, error) in [
            (law.floor, EPOCH.floor, 0.03),
            (law.params_scale, EPOCH.params_scale, 124.58),
            (law.tokens_scale, EPOCH.tokens_scale, 1293.23),
            (law.params_exponent, EPOCH.params_exponent, 0.02),
            (law.tokens_exponent, EPOCH.tokens_exponent, 0.02),
        ] {
            assert!((got - want).abs() < error, "{law:?}");
        }
    }

    #[test]
    fn approach_three_finds_the_law_that_made_the_points() {
        let made: Vec<Observation> = chinchilla().iter().map(|p| Observation { loss: EPOCH.loss(p.params, p.tokens), ..*p }).collect();
        let law = fit(&made, "made", 0, 1).unwrap().best;
        assert!((law.params_share() - EPOCH.params_share()).abs() < 0.002, "{law:?}");
        assert!((law.optimum(5.76e23).0 / EPOCH.optimum(5.76e23).0 - 1.0).abs() < 0.01, "{law:?}");
    }

    #[test]
    fn one_wild_run_does_not_move_it() {
        let mut points: Vec<Observation> =
            chinchilla().iter().map(|p| Observation { loss: EPOCH.loss(p.params, p.tokens), ..*p }).collect();
        points[100].loss *= 2.0;
        let law = fit(&points, "made", 0, 1).unwrap().best;
        assert!((law.floor / EPOCH.floor - 1.0).abs() < 0.01, "{law:?}");
    }

    /// Of the runs above the `share` of least compute, those in the interval of the law of the others, and how many there are.
    fn held(points: &[Observation], share: f64) -> (usize, usize) {
        let mut points = points.to_vec();
        points.sort_by(|a, b| train_flops(a.params, a.tokens).total_cmp(&train_flops(b.params, b.tokens)));
        let (lower, upper) = points.split_at((share * points.len() as f64) as usize);
        let law = fit(lower, "lower part", 100, 1).unwrap();
        let is_held = |p: &&Observation| {
            let [low, high] = law.predict(p.params, p.tokens, p.tokens).interval;
            (low..=high).contains(&p.loss)
        };
        (upper.iter().filter(is_held).count(), upper.len())
    }

    #[test]
    fn the_interval_of_the_smaller_runs_holds_the_larger() {
        for share in [0.4, 0.5, 0.6] {
            let (held, all) = held(&chinchilla(), share);
            assert!(held as f64 >= 0.95 * all as f64, "{held} of {all} above {share}");
        }
    }

    #[test]
    fn a_ladder_that_bends_is_seen_to_drift_and_one_that_follows_the_law_is_not() {
        let law = |p: &Observation| Observation { loss: EPOCH.loss(p.params, p.tokens), ..*p };
        let straight: Vec<Observation> = chinchilla().iter().map(law).collect();
        assert!(drift(&straight, 1).unwrap() < 0.001, "{:?}", drift(&straight, 1));
        // Above 1e20 FLOP each power of ten costs a tenth more: no law of five constants sees it coming.
        let bend =
            |p: &Observation| Observation { loss: p.loss * (1.0 + 0.1 * (train_flops(p.params, p.tokens) / 1e20).log10().max(0.0)), ..*p };
        let bent: Vec<Observation> = straight.iter().map(bend).collect();
        assert!(drift(&bent, 1).unwrap() > PUBLISHED_DRIFT, "{:?}", drift(&bent, 1));
        assert_eq!(drift(&straight[..LEAST], 1), None);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let points = chinchilla();
        assert!(fit(&points[..5], "few", 0, 1).is_err());
        let one_size: Vec<Observation> = points.iter().map(|p| Observation { params: 1e9, ..*p }).collect();
        assert!(fit(&one_size, "one size", 0, 1).unwrap_err().to_string().contains("parameters"));
        for text in ["", "params,tokens\n1,2", "params,tokens,loss\n1B,x,3", "params,tokens,loss\n1B,2B"] {
            assert!(read(text, "f").is_err(), "{text:?}");
        }
        let read = read("# note\nname,loss,params,tokens\na,3.1,1B,20B\n", "f").unwrap();
        assert_eq!(read, [Observation { params: 1e9, tokens: 2e10, loss: 3.1 }]);
    }
}
