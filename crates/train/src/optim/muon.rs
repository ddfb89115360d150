//! Muon: momentum whose every step is made orthogonal by Newton-Schulz iterations; Jordan et al. 2024,
//! *Muon: An optimizer for hidden layers in neural networks*.

use engine::{Precision, Shape};
use kernels::{
    elementwise::{scale_assign, sum_squares},
    gemm::{Gemm, Mat, Rhs},
};

/// Coefficients of the quintic that drives singular values into about 0.7..1.2 in five rounds (Jordan et al.).
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ROUNDS: usize = 5;

/// `buffer = momentum buffer + g`, then `w -= lr sqrt(max(1, rows / cols)) orthogonal(g + momentum buffer)`, with decay as
/// in AdamW. `w`, `g`, `buffer` `[rows, cols]`; `g` is working space afterwards.
#[expect(clippy::too_many_arguments, reason = "the update rule's own quantities")]
pub(super) fn update(
    w: &mut [f32],
    g: &mut [f32],
    buffer: &mut [f32],
    shape: Shape,
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    grad_scale: f32,
) {
    for (b, g) in buffer.iter_mut().zip(g.iter_mut()) {
        *b = momentum * *b + *g * grad_scale;
        *g = *g * grad_scale + momentum * *b;
    }
    let (rows, cols) = (shape.rows(), shape.last());
    let step = orthogonal(g, rows, cols);
    let scale = lr * (rows as f32 / cols as f32).max(1.0).sqrt();
    for (w, s) in w.iter_mut().zip(&step) {
        *w = *w * (1.0 - lr * weight_decay) - scale * s;
    }
}

/// The nearest matrix with orthonormal rows or columns, roughly.
fn orthogonal(g: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    // Work on the wide side, so that the square matrix is the small one.
    let is_tall = rows > cols;
    let (r, c) = if is_tall { (cols, rows) } else { (rows, cols) };
    let mut x: Vec<f32> = if is_tall { transpose(g, rows, cols) } else { g.to_vec() };
    let norm = sum_squares(&x).sqrt() as f32;
    scale_assign(&mut x, 1.0 / (norm + 1e-7));
    let [a1, a3, a5] = QUINTIC;
    let (mut gram, mut square) = (vec![0.0; r * r], vec![0.0; r * r]);
    let gemm = |m, n, k, accumulate| Gemm { m, n, k, precision: Precision::F32, accumulate };
    for _ in 0..ROUNDS {
        let xm = Mat::rows(&x, c);
        gemm(r, r, c, false).run(xm, Rhs::Plain(xm.transposed()), None, &mut gram);
        let gm = Mat::rows(&gram, r);
        gemm(r, r, r, false).run(gm, Rhs::Plain(gm), None, &mut square);
        for (s, g) in square.iter_mut().zip(&gram) {
            *s = a3 * g + a5 * *s;
        }
        let mut next = x.clone();
        scale_assign(&mut next, a1);
        gemm(r, c, r, true).run(Mat::rows(&square, r), Rhs::Plain(xm), None, &mut next);
        x = next;
    }
    if is_tall { transpose(&x, cols, rows) } else { x }
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for i in 0..rows {
        for j in 0..cols {
            out[j * rows + i] = x[i * cols + j];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::check::noise;

    #[test]
    fn singular_values_end_near_one_for_wide_and_tall() {
        for (rows, cols) in [(8, 20), (20, 8), (8, 8)] {
            let x = orthogonal(&noise(1, rows * cols), rows, cols);
            let small = rows.min(cols);
            for i in 0..small {
                for j in 0..small {
                    let at = |i: usize, k: usize| if rows <= cols { x[i * cols + k] } else { x[k * cols + i] };
                    let dot: f32 = (0..rows.max(cols)).map(|k| at(i, k) * at(j, k)).sum();
                    let want = f32::from(u8::from(i == j));
                    assert!((dot - want).abs() < 0.6, "{rows}x{cols} ({i}, {j}): {dot}");
                }
            }
        }
    }
}
