//! How the best split of compute is read off runs: Chinchilla's approaches 1 and 2 (arXiv:2203.15556, sections 3.1 and
//! 3.2). The third is a fitted law's own [`super::Parametric::optimum`].

use serde::Serialize;

/// `N = scale C^exponent`: which size is best for which compute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Allocation {
    pub scale: f64,
    pub exponent: f64,
}

impl Allocation {
    /// Parameters that are best for `flops`.
    #[must_use]
    pub fn params(&self, flops: f64) -> f64 {
        self.scale * flops.powf(self.exponent)
    }

    /// A line through the logarithms of (flops, params).
    fn of(best: &[(f64, f64)]) -> Option<Self> {
        let points: Vec<(f64, f64)> = best.iter().map(|(c, n)| (c.ln(), n.ln())).collect();
        let n = points.len() as f64;
        let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let width = points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
        let exponent = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / width;
        (points.len() >= 2 && exponent.is_finite()).then(|| Self { scale: (y - exponent * x).exp(), exponent })
    }
}

/// Approach 1: of all training curves, the one that is lowest at each compute; `None` when fewer than two sizes are ever
/// the lowest. `curves`: (params, [(flops, loss)]) with flops rising. Whichever curve is lowest on an interval of compute is
/// best somewhere inside it, so each interval counts once, at its geometric middle, and the first and last, which are cut
/// off by the choice of sizes, not at all.
#[must_use]
pub fn envelope(curves: &[(f64, Vec<(f64, f64)>)]) -> Option<Allocation> {
    let (low, high) = curves.iter().flat_map(|c| &c.1).fold((f64::INFINITY, 0.0_f64), |(l, h), p| (l.min(p.0), h.max(p.0)));
    const STEPS: usize = 1500; // as there
    let mut wins: Vec<(f64, f64, f64)> = Vec::new(); // params, first and last flops
    for i in 0..=STEPS {
        let flops = low * (high / low).powf(i as f64 / STEPS as f64);
        let loss = |curve: &(f64, Vec<(f64, f64)>)| between(&curve.1, flops).unwrap_or(f64::INFINITY);
        let Some(best) = curves.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).filter(|c| loss(c).is_finite()) else { continue };
        match wins.last_mut() {
            Some(last) if last.0 == best.0 => last.2 = flops,
            _ => wins.push((best.0, flops, flops)),
        }
    }
    let inner = wins.get(1..wins.len().saturating_sub(1)).unwrap_or(&[]);
    Allocation::of(&inner.iter().map(|(params, first, last)| ((first * last).sqrt(), *params)).collect::<Vec<_>>())
}

/// Loss of a curve at `flops`, straight in the logarithm of compute; `None` outside of it.
fn between(curve: &[(f64, f64)], flops: f64) -> Option<f64> {
    let after = curve.iter().position(|p| p.0 >= flops)?;
    let (to, from) = (curve[after], curve[after.checked_sub(1).unwrap_or(after)]);
    if from.0 > flops {
        return None;
    }
    let share = if to.0 > from.0 { (flops / from.0).ln() / (to.0 / from.0).ln() } else { 0.0 };
    Some(from.1 + share * (to.1 - from.1))
}

/// Approach 2: at each compute, a parabola through the losses of several sizes, and its lowest point. `profiles`:
/// (flops, [(params, loss)]), three sizes or more each; those whose parabola has no lowest point are left out.
#[must_use]
pub fn profiles(profiles: &[(f64, Vec<(f64, f64)>)]) -> Option<Allocation> {
    Allocation::of(&profiles.iter().filter_map(|(flops, runs)| Some((*flops, lowest(runs)?))).collect::<Vec<_>>())
}

/// Where the least-squares parabola in the logarithm of the size is lowest.
fn lowest(runs: &[(f64, f64)]) -> Option<f64> {
    let middle = runs.iter().map(|r| r.0.ln()).sum::<f64>() / runs.len() as f64;
    let x = |r: &(f64, f64)| r.0.ln() - middle;
    let sum = |power: i32| runs.iter().map(|r| x(r).powi(power)).sum::<f64>();
    let with = |power: i32| runs.iter().map(|r| x(r).powi(power) * r.1).sum::<f64>();
    // Normal equations of c + b x + a x^2, solved by Cramer's rule; the sum of x is 0.
    let (n, s2, s3, s4) = (runs.len() as f64, sum(2), sum(3), sum(4));
    let (t0, t1, t2) = (with(0), with(1), with(2));
    let determinant = n * (s2 * s4 - s3 * s3) - s2 * s2 * s2;
    let b = (n * (t1 * s4 - s3 * t2) - s2 * (t1 * s2 - 0.0) + t0 * s3 * s2) / determinant;
    let a = (n * (s2 * t2 - s3 * t1) - t0 * s2 * s2) / determinant;
    (runs.len() >= 3 && a > 0.0 && b.is_finite()).then(|| (middle - b / (2.0 * a)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::EPOCH;

    /// Sizes half a power of two apart, from 70M to 16B as there.
    fn sizes() -> Vec<f64> {
        (0..33).map(|i| 70e6 * 2_f64.powf(f64::from(i) / 4.0)).collect()
    }

    #[test]
    fn the_first_two_approaches_find_the_closed_form() {
        let curve = |params: f64| {
            (0..200).map(|i| 1e18 * 10_f64.powf(f64::from(i) / 40.0)).map(|c| (c, EPOCH.loss(params, c / 6.0 / params))).collect()
        };
        let first = envelope(&sizes().into_iter().map(|n| (n, curve(n))).collect::<Vec<_>>()).unwrap();
        let profile = |flops: f64| {
            let (best, _) = EPOCH.optimum(flops);
            (-4..=4).map(|i| best * 1.3_f64.powi(i)).map(|n| (n, EPOCH.loss(n, flops / 6.0 / n))).collect()
        };
        // The computes of their figure 3.
        let second = profiles(&[6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21].map(|c| (c, profile(c)))).unwrap();
        for (allocation, exponent_error, params_error) in [(first, 0.01, 0.05), (second, 0.01, 0.05)] {
            assert!((allocation.exponent - EPOCH.params_share()).abs() < exponent_error, "{allocation:?}");
            let ratio = allocation.params(5.76e23) / EPOCH.optimum(5.76e23).0;
            assert!((ratio - 1.0).abs() < params_error, "{ratio}");
        }
    }

    #[test]
    fn a_parabola_has_its_lowest_point() {
        let runs: Vec<(f64, f64)> = [1e8, 3e8, 5e8, 2e9].map(|n: f64| (n, 2.0 + 0.1 * (n.ln() - 4e8_f64.ln()).powi(2) + 0.0)).to_vec();
        assert!((lowest(&runs).unwrap() / 4e8 - 1.0).abs() < 1e-9);
        assert_eq!(lowest(&runs[..2]), None);
        assert_eq!(envelope(&[]), None);
        assert_eq!(profiles(&[]), None);
    }
}
