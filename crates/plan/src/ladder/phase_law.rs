//! Loss against size and data: `L = e + k (A N^-a + B D'^-b) - g ln U`, fitted to the phases so far, and the range in which
//! the next should land.
//!
//! `N` counts the parameters of the blocks, `D'` the tokens trained on, `U` the tokens that they were drawn from. The shape in
//! brackets is that of Hoffmann et al., arXiv:2203.15556, with their constants: a ladder has two or three points, and what it can
//! fit is how its own corpus stretches (`k`) and shifts (`e`) that shape. Tokens seen again count for less, as in Muennighoff et
//! al., arXiv:2305.16264. The last term is what a wider share of the corpus is worth beyond the tokens drawn from it, which
//! docs/BENCHMARKS.md ("What a law in compute alone does not see") measured.
//!
//! The law is linear in `e`, `k` and `g`, so the fit is least squares with two Gaussian beliefs beside the points: where `e` and
//! `g` lie as shares of the loss. What points and beliefs leave open goes into the interval, with what each run has of its own.

/// What decides the loss of a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Without embeddings and head.
    pub params: f64,
    /// Trained on, each as often as it was seen.
    pub tokens: f64,
    /// In the share of the data that they were drawn from.
    pub unique_tokens: f64,
}

/// A phase that is done: its size and its held-out bits per byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub size: Size,
    pub loss: f64,
}

/// What the law says of a phase to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    pub loss: f64,
    /// Five standard deviations to both sides.
    pub interval: [f64; 2],
}

/// `A`, `a`, `B`, `b` of arXiv:2203.15556, equation 10.
const PARAMS_TERM: [f64; 2] = [406.4, 0.34];
const TOKENS_TERM: [f64; 2] = [410.7, 0.28];
/// Epochs after which a token seen again has lost most of its worth: `R*_D` of arXiv:2305.16264, section 6.
const WORTH_EPOCHS: f64 = 15.4;
/// Mean and deviation of `e` as a share of the last loss: wide, for what no model of such a size learns.
const FLOOR: [f64; 2] = [0.5, 0.15];
/// The same of `g`: none is known of; sources of code showed 0.02 to 0.04 (docs/BENCHMARKS.md).
const BREADTH: [f64; 2] = [0.0, 0.02];
/// Standard deviation of a run by its seed, as a share of the loss (docs/BENCHMARKS.md).
const SEED_SPREAD: f64 = 0.004;
/// A gate that fails stops a climb, and what a share's documents are like is in no deviation here: sound phases of
/// docs/BENCHMARKS.md lay up to three away.
const INTERVAL_DEVIATIONS: f64 = 5.0;

impl Point {
    fn is_usable(&self) -> bool {
        self.loss.is_finite() && self.loss > 0.0 && self.size.is_usable()
    }
}

impl Size {
    /// What multiplies `k`.
    fn shape(self) -> f64 {
        let [[a, alpha], [b, beta]] = [PARAMS_TERM, TOKENS_TERM];
        a * self.params.powf(-alpha) + b * self.tokens_worth().powf(-beta)
    }

    /// Tokens that would teach as much if each were seen once.
    fn tokens_worth(self) -> f64 {
        let repeats = (self.tokens / self.unique_tokens - 1.0).max(0.0);
        self.tokens.min(self.unique_tokens) + self.unique_tokens * WORTH_EPOCHS * (1.0 - (-repeats / WORTH_EPOCHS).exp())
    }

    fn is_usable(self) -> bool {
        [self.params, self.tokens, self.unique_tokens].iter().all(|x| x.is_finite() && *x > 0.0)
    }
}

/// Predict the loss at `next` from at least two phases; `None` before that.
///
/// ```
/// use plan::ladder::phase_law::{Point, Size, predict};
/// let size = |params, tokens| Size { params, tokens, unique_tokens: 1e8 };
/// let law = |s: Size| 0.9 + 0.03 * (406.4 * s.params.powf(-0.34) + 410.7 * s.tokens.powf(-0.28));
/// let points = [size(1e6, 1e6), size(4e6, 3e6)].map(|size| Point { size, loss: law(size) });
/// let (next, truth) = (predict(&points, size(1e7, 1e7)).unwrap(), law(size(1e7, 1e7)));
/// assert!(next.interval[0] < truth && truth < next.interval[1]);
/// ```
#[must_use]
pub fn predict(points: &[Point], next: Size) -> Option<Prediction> {
    (points.iter().filter(|point| point.is_usable()).count() >= 2).then(|| guess(points, next)).flatten()
}

/// The same from one phase or more. What one leaves open is belief: good enough to plan with, and no gate takes it.
#[must_use]
pub fn guess(points: &[Point], next: Size) -> Option<Prediction> {
    let usable: Vec<&Point> = points.iter().filter(|point| point.is_usable()).collect();
    let last = usable.last()?;
    if !next.is_usable() {
        return None;
    }
    let row = |size: Size| [1.0, size.shape(), -(size.unique_tokens / last.size.unique_tokens).ln()];
    // Normal equations of all that is known, each line weighed by its own deviation.
    let (mut normal, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
    let mut know = |row: [f64; 3], value: f64, deviation: f64| {
        for i in 0..3 {
            for j in 0..3 {
                normal[i][j] += row[i] * row[j] / deviation.powi(2);
            }
            right[i] += row[i] * value / deviation.powi(2);
        }
    };
    know([1.0, 0.0, 0.0], FLOOR[0] * last.loss, FLOOR[1] * last.loss);
    know([0.0, 0.0, 1.0], BREADTH[0] * last.loss, BREADTH[1] * last.loss);
    for point in usable {
        know(row(point.size), point.loss, SEED_SPREAD * point.loss);
    }
    let next = row(next);
    // With `w = normal^-1 next` the prediction is `w right`, and its variance `w next`.
    let weights = solve(normal, next)?;
    let dot = |a: [f64; 3]| a.iter().zip(weights).map(|(a, w)| a * w).sum::<f64>();
    let loss = dot(right);
    let deviation = (dot(next) + (SEED_SPREAD * loss).powi(2)).sqrt();
    let reach = INTERVAL_DEVIATIONS * deviation;
    Some(Prediction { loss, interval: [(loss - reach).max(0.0), loss + reach] })
}

/// `x` of `a x = b` for a symmetric, positive `a`, by elimination.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> Option<[f64; 3]> {
    for i in 0..3 {
        if a[i][i].is_nan() || a[i][i] <= 0.0 {
            return None;
        }
        for j in i + 1..3 {
            let factor = a[j][i] / a[i][i];
            for k in i..3 {
                a[j][k] -= factor * a[i][k];
            }
            b[j] -= factor * b[i];
        }
    }
    for i in (0..3).rev() {
        let known: f64 = (i + 1..3).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { params: 4e5, tokens: 3e5, unique_tokens: 6e5 };

    fn times(size: Size, params: f64, tokens: f64, unique_tokens: f64) -> Size {
        Size { params: params * size.params, tokens: tokens * size.tokens, unique_tokens: unique_tokens * size.unique_tokens }
    }

    #[test]
    fn fewer_than_two_phases_predict_nothing() {
        let point = Point { size: SMALL, loss: 3.0 };
        assert_eq!(predict(&[], SMALL), None);
        assert_eq!(predict(&[point], SMALL), None);
        assert_eq!(predict(&[point, Point { loss: f64::NAN, ..point }], SMALL), None);
        assert_eq!(predict(&[point, point], Size { tokens: 0.0, ..SMALL }), None);
        let same = predict(&[point, point], SMALL).unwrap();
        assert!((same.loss - 3.0).abs() < 1e-6, "the same again is expected to do the same: {same:?}");
    }

    #[test]
    fn laws_with_any_floor_and_breadth_in_range_land_inside() {
        let sizes = [SMALL, times(SMALL, 3.0, 1.5, 2.0), times(SMALL, 8.0, 2.0, 4.0), times(SMALL, 20.0, 3.0, 8.0)];
        for floor in [0.5, 1.0, 1.4] {
            for breadth in [0.0, 0.04, 0.08] {
                let k = (2.5 - floor) / sizes[0].shape();
                let law = |s: Size| floor + k * s.shape() - breadth * (s.unique_tokens / SMALL.unique_tokens).ln();
                let points = sizes.map(|size| Point { size, loss: law(size) });
                for known in [2, 3] {
                    let (next, truth) = (predict(&points[..known], sizes[known]).unwrap(), points[known].loss);
                    assert!(next.interval[0] <= truth && truth <= next.interval[1], "{floor} {breadth}: {truth} {next:?}");
                }
            }
        }
    }

    #[test]
    fn one_phase_is_guessed_from_and_promises_less_than_two() {
        let law = |s: Size| 1.0 + 0.08 * s.shape();
        let points = [SMALL, times(SMALL, 4.0, 2.0, 2.0)].map(|size| Point { size, loss: law(size) });
        let next = times(SMALL, 16.0, 4.0, 4.0);
        let (one, two) = (guess(&points[..1], next).unwrap(), guess(&points, next).unwrap());
        assert!(one.interval[0] < law(next) && law(next) < one.interval[1], "{one:?}");
        assert!(two.interval[1] - two.interval[0] < one.interval[1] - one.interval[0]);
        assert_eq!(guess(&[], next), None);
        assert_eq!(Some(two), predict(&points, next));
    }

    #[test]
    fn more_phases_promise_more_and_far_ones_less() {
        let law = |s: Size| 1.0 + 0.08 * s.shape();
        let sizes = [SMALL, times(SMALL, 2.0, 1.5, 1.5), times(SMALL, 4.0, 2.0, 2.0)];
        let points = sizes.map(|size| Point { size, loss: law(size) });
        let width = |points: &[Point], next: Size| predict(points, next).map(|p| p.interval[1] - p.interval[0]).unwrap();
        let (near, far) = (times(SMALL, 8.0, 3.0, 3.0), times(SMALL, 100.0, 50.0, 50.0));
        assert!(width(&points, near) < width(&points[..2], near));
        assert!(width(&points, far) > 2.0 * width(&points, near));
    }

    #[test]
    fn a_token_seen_again_is_worth_less_than_a_new_one_and_more_than_none() {
        let once = Size { tokens: 6e5, ..SMALL };
        let twice = Size { tokens: 12e5, ..SMALL };
        assert_eq!((SMALL.tokens_worth(), once.tokens_worth()), (3e5, 6e5));
        assert!(
            twice.tokens_worth() > 1.15e6 && twice.tokens_worth() < 1.2e6,
            "a second epoch is almost as good: {}",
            twice.tokens_worth()
        );
        assert!(Size { tokens: 1e12, ..SMALL }.tokens_worth() < 16.5 * 6e5, "after many there is nothing left to learn");
    }
}
