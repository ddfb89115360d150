//! Naive twins in f64, by definition and not by speed, and the noise that they are fed.

/// `n` numbers in -1..1, a function of `seed` alone.
#[must_use]
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| crate::rng::uniform(seed, i) * 2.0 - 1.0).collect()
}

/// `C[m, n] = A B`; each side with its row and column strides.
#[must_use]
pub fn gemm(m: usize, n: usize, k: usize, (a, (ar, ac)): (&[f64], (usize, usize)), (b, (br, bc)): (&[f64], (usize, usize))) -> Vec<f64> {
    let cell = |i: usize, j: usize| (0..k).map(|p| a[i * ar + p * ac] * b[p * br + j * bc]).sum();
    (0..m * n).map(|at| cell(at / n, at % n)).collect()
}

/// One row of softmax.
#[must_use]
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| (x - largest).exp()).sum();
    x.iter().map(|x| (x - largest).exp() / total).collect()
}
