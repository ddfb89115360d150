//! The spread of features: their main directions, and how far two sets of them are apart.

/// Rows of features, one after the other.
#[derive(Debug, Clone)]
pub struct Features {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Features {
    #[must_use]
    pub fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// The mean of each column.
    #[must_use]
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        self.rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v)));
        mean.iter().map(|sum| sum / self.count().max(1) as f64).collect()
    }
}

/// A symmetric matrix `[n, n]`, row after row.
type Matrix = Vec<f64>;

fn product(a: &Matrix, b: &Matrix, n: usize) -> Matrix {
    let mut out = vec![0.0; n * n];
    for i in 0..n {
        for k in 0..n {
            let v = a[i * n + k];
            for j in 0..n {
                out[i * n + j] += v * b[k * n + j];
            }
        }
    }
    out
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors as columns: Jacobi's rotations (Golub and Van Loan, *Matrix Computations*,
/// 4th edition, section 8.5).
fn eigen(mut a: Matrix, n: usize) -> (Vec<f64>, Matrix) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let total: f64 = a.iter().map(|v| v * v).sum();
    for _ in 0..100 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-24 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

/// Turn `a` so that its element `[p, q]` is zero.
fn rotate(a: &mut Matrix, vectors: &mut Matrix, n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (kp, kq) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (c * kp - s * kq, s * kp + c * kq);
    }
    for k in 0..n {
        let (pk, qk) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (c * pk - s * qk, s * pk + c * qk);
        let (kp, kq) = (vectors[k * n + p], vectors[k * n + q]);
        (vectors[k * n + p], vectors[k * n + q]) = (c * kp - s * kq, s * kp + c * kq);
    }
}

/// The main directions of features: `count` vectors of length one, and the mean that they start from.
#[derive(Debug, Clone)]
pub struct Directions {
    mean: Vec<f64>,
    vectors: Vec<Vec<f64>>,
}

impl Directions {
    /// By orthogonal iteration over the features themselves: no matrix of their width is ever made.
    #[must_use]
    pub fn of(features: &Features, count: usize) -> Self {
        let (width, mean) = (features.width, features.mean());
        let count = count.min(width).min(features.count()).max(1);
        let mut draws = crate::draws::Draws::new(1);
        let mut vectors: Vec<Vec<f64>> = (0..count).map(|_| (0..width).map(|_| draws.normal()).collect()).collect();
        for _ in 0..30 {
            orthonormal(&mut vectors);
            let mut next = vec![vec![0.0; width]; count];
            for row in features.rows() {
                let centred: Vec<f64> = row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect();
                for (vector, next) in vectors.iter().zip(&mut next) {
                    let along: f64 = vector.iter().zip(&centred).map(|(a, b)| a * b).sum();
                    next.iter_mut().zip(&centred).for_each(|(to, v)| *to += along * v);
                }
            }
            vectors = next;
        }
        orthonormal(&mut vectors);
        Self { mean, vectors }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// Features along the directions.
    #[must_use]
    pub fn project(&self, features: &Features) -> Features {
        let along = |row: &[f32]| {
            let centred: Vec<f64> = row.iter().zip(&self.mean).map(|(v, m)| f64::from(*v) - m).collect();
            self.vectors.iter().map(|vector| vector.iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>() as f32).collect::<Vec<_>>()
        };
        Features { width: self.vectors.len(), values: features.rows().flat_map(along).collect() }
    }
}

/// Gram and Schmidt, twice over for what rounding leaves; what has no direction of its own becomes zero.
fn orthonormal(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let own = &mut rest[0];
        for _ in 0..2 {
            for other in before.iter() {
                let along: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let length = own.iter().map(|v| v * v).sum::<f64>().sqrt();
        let scale = if length > 1e-12 { length.recip() } else { 0.0 };
        own.iter_mut().for_each(|v| *v *= scale);
    }
}

/// The Fréchet distance of two normal distributions with the means and covariances of `a` and `b`, of equal width:
/// `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)`; arXiv:1706.08500, equation 6. Units: those of the features, squared.
#[must_use]
pub fn frechet(a: &Features, b: &Features) -> f64 {
    let n = a.width;
    let covariance = |x: &Features, mean: &[f64]| {
        let mut sums = vec![0.0; n * n];
        for row in x.rows() {
            for i in 0..n {
                let v = f64::from(row[i]) - mean[i];
                (0..n).for_each(|j| sums[i * n + j] += v * (f64::from(row[j]) - mean[j]));
            }
        }
        let count = x.count().max(2) as f64 - 1.0;
        sums.iter().map(|sum| sum / count).collect::<Matrix>()
    };
    let (mean_a, mean_b) = (a.mean(), b.mean());
    let (cov_a, cov_b) = (covariance(a, &mean_a), covariance(b, &mean_b));
    let between: f64 = mean_a.iter().zip(&mean_b).map(|(a, b)| (a - b).powi(2)).sum();
    let trace = |m: &Matrix| (0..n).map(|i| m[i * n + i]).sum::<f64>();
    let (values, vectors) = eigen(cov_a.clone(), n);
    let mut root = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            root[i * n + j] = (0..n).map(|k| vectors[i * n + k] * values[k].max(0.0).sqrt() * vectors[j * n + k]).sum();
        }
    }
    let (joint, _) = eigen(product(&product(&root, &cov_b, n), &root, n), n);
    between + trace(&cov_a) + trace(&cov_b) - 2.0 * joint.iter().map(|v| v.max(0.0).sqrt()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;

    /// Normal numbers around `mean`, with a deviation for each column.
    fn cloud(seed: u64, count: usize, mean: f64, deviations: &[f64]) -> Features {
        let mut draws = Draws::new(seed);
        let row = |_| deviations.iter().map(|d| (mean + d * draws.normal()) as f32).collect::<Vec<_>>();
        Features { width: deviations.len(), values: (0..count).flat_map(row).collect() }
    }

    #[test]
    fn the_distance_of_two_clouds_is_that_of_their_normal_distributions() {
        let (a, b) = (cloud(1, 20_000, 0.0, &[1.0, 2.0, 0.5]), cloud(2, 20_000, 1.0, &[1.0, 1.0, 0.5]));
        assert!(frechet(&a, &a).abs() < 1e-9);
        // Where covariances are diagonal: squares of the differences of means and of deviations, 3 * 1 + (2 - 1)^2.
        let got = frechet(&a, &b);
        assert!((got - 4.0).abs() < 0.1, "{got}");
    }

    #[test]
    fn directions_are_those_of_the_largest_spread() {
        let features = cloud(3, 4000, 0.5, &[0.1, 3.0, 0.2, 1.0]);
        let directions = Directions::of(&features, 2);
        assert!(directions.vectors[0][1].abs() > 0.99 && directions.vectors[1][3].abs() > 0.99, "{:?}", directions.vectors);
        let along = directions.project(&features);
        let spread = along.rows().map(|row| f64::from(row[0]).powi(2)).sum::<f64>() / along.count() as f64;
        assert!((spread / 9.0 - 1.0).abs() < 0.1, "{spread}");
    }
}
