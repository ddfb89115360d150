//! Loss against compute: `L(C) = E + A C^-b`, fitted to the phases so far, and the range in which the next should land.
//!
//! The form is Hoffmann et al., arXiv:2203.15556, along one path of growing models and data. A ladder has two or three
//! points and the law three unknowns, so the share of the loss that no compute removes, `E`, is not fitted but taken
//! through a range: from none at all to three quarters of the last loss. Their fit has `E` near 0.4 of the loss of their
//! smallest runs. Each measured loss carries what compute does not explain (`SPREAD`); the fit carries it to the
//! prediction, so that two phases of nearly equal compute promise little about a third that is far away. The interval is
//! the range over `E`, widened by twice the carried spread.

/// A phase: training FLOPs and held-out bits per byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub flops: f64,
    pub loss: f64,
}

/// What the law says of a phase to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    pub loss: f64,
    pub interval: [f64; 2],
}

const SHARES: [f64; 7] = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75];
/// The share that the point prediction takes: `E / L` of small runs in arXiv:2203.15556.
const MIDDLE: f64 = 0.375;
/// Standard deviation, as a ratio of the loss, of what compute alone does not explain in small runs: between seeds 0.4% to
/// 0.7%, and 4% to 5% between training on a tenth or a third of the data and on all of it (docs/BENCHMARKS.md, Learning).
const SPREAD: f64 = 0.02;

/// Predict the loss at `flops` from at least two phases of different compute; `None` before that.
///
/// ```
/// use plan::law::{predict, Point};
/// let law = |flops: f64| 0.8 + 40.0 * flops.powf(-0.1);
/// let points = [1e12, 1e13].map(|flops| Point { flops, loss: law(flops) });
/// let next = predict(&points, 1e14).unwrap();
/// assert!(next.interval[0] < law(1e14) && law(1e14) < next.interval[1]);
/// ```
#[must_use]
pub fn predict(points: &[Point], flops: f64) -> Option<Prediction> {
    let usable: Vec<&Point> = points.iter().filter(|p| p.loss.is_finite() && p.loss > 0.0 && p.flops > 0.0).collect();
    let least = usable.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min);
    let spread_of_compute = usable.iter().any(|p| (p.flops / usable[0].flops).ln().abs() > 0.05);
    if usable.len() < 2 || !spread_of_compute || flops <= 0.0 {
        return None;
    }
    // A straight line through (ln C, ln(L - E)) gives at ln `flops` a weighted sum of the points' ordinates: least squares.
    let n = usable.len() as f64;
    let mean = usable.iter().map(|p| p.flops.ln()).sum::<f64>() / n;
    let width = usable.iter().map(|p| (p.flops.ln() - mean).powi(2)).sum::<f64>();
    let weights: Vec<f64> = usable.iter().map(|p| 1.0 / n + (flops.ln() - mean) * (p.flops.ln() - mean) / width).collect();
    let at = |share: f64| {
        let floor = share * least;
        floor + usable.iter().zip(&weights).map(|(p, w)| w * (p.loss - floor).ln()).sum::<f64>().exp()
    };
    // One for the spread of the run to come, the rest for those that the line leans on.
    let carried = SPREAD * (1.0 + weights.iter().map(|w| w * w).sum::<f64>()).sqrt();
    let all: Vec<f64> = SHARES.iter().map(|share| at(*share)).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min) * (1.0 - 2.0 * carried).max(0.0);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max) * (1.0 + 2.0 * carried);
    Some(Prediction { loss: at(MIDDLE), interval: [low, high] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_phase_or_equal_compute_predicts_nothing() {
        let point = Point { flops: 1e12, loss: 3.0 };
        assert_eq!(predict(&[], 1e13), None);
        assert_eq!(predict(&[point], 1e13), None);
        assert_eq!(predict(&[point, point], 1e13), None);
        assert_eq!(predict(&[point, Point { flops: 1e13, loss: f64::NAN }], 1e14), None);
    }

    #[test]
    fn near_points_promise_less_than_far_ones() {
        let law = |flops: f64| 1.0 + 2.0 * (flops / 1e12).powf(-0.1);
        let width = |first: f64| {
            let next = predict(&[first, 2e12].map(|flops| Point { flops, loss: law(flops) }), 4e12).unwrap();
            next.interval[1] - next.interval[0]
        };
        assert!(width(1.8e12) > 2.0 * width(2e11));
    }

    #[test]
    fn laws_of_any_floor_in_range_land_inside() {
        for floor in [0.0, 0.5, 1.0] {
            for exponent in [0.05, 0.15, 0.3] {
                let law = |flops: f64| floor + 3.0 * (flops / 1e12).powf(-exponent);
                let points = [1e12, 8e12].map(|flops| Point { flops, loss: law(flops) });
                let next = predict(&points, 6e13).unwrap();
                let truth = law(6e13);
                assert!(next.interval[0] <= truth && truth <= next.interval[1], "{floor} {exponent}: {truth} {next:?}");
            }
        }
    }
}
