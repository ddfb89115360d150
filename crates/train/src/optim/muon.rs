//! Muon: momentum whose every step is made orthogonal by Newton-Schulz iterations; Jordan et al. 2024,
//! *Muon: An optimizer for hidden layers in neural networks*.

use std::ops::Range;

use engine::{Precision, Shape};
use kernels::{
    elementwise::{add_scaled, scale_assign, sum_squares},
    gemm::{Gemm, Mat, Rhs},
};
use rayon::prelude::*;

/// Coefficients of the quintic that drives singular values into about 0.7..1.2 in five rounds (Jordan et al.).
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ROUNDS: usize = 5;

/// Numbers in one task of a loop over a parameter.
const CHUNK: usize = 16 << 10;

/// What one update is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Muon {
    pub lr: f32,
    pub momentum: f32,
    pub weight_decay: f32,
    pub grad_scale: f32,
    /// Of the products: their errors are far below those of five rounds.
    pub precision: Precision,
}

impl Muon {
    /// `buffer = momentum buffer + g`, and `g` becomes `g + momentum buffer`, the direction of the step. Any run of a matrix.
    pub(super) fn direct(self, g: &mut [f32], buffer: &mut [f32]) {
        let Self { momentum, grad_scale, .. } = self;
        buffer.par_chunks_mut(CHUNK).zip(g.par_chunks_mut(CHUNK)).for_each(|(buffer, g)| {
            for (b, g) in buffer.iter_mut().zip(g) {
                *b = momentum * *b + *g * grad_scale;
                *g = *g * grad_scale + momentum * *b;
            }
        });
    }

    /// `w -= lr sqrt(max(1, rows / cols)) orthogonal(direction)`, with decay as in AdamW; `scratch` is [`scratch_len`] long at least.
    pub(super) fn step(self, task: Task<'_>, scratch: &mut [f32]) {
        let Task { w, from, direction, rows, cols } = task;
        let step = orthogonal(direction, rows, cols, self.precision, scratch);
        let scale = self.lr * (rows as f32 / cols as f32).max(1.0).sqrt();
        w.par_chunks_mut(CHUNK).zip(step[from..].par_chunks(CHUNK)).for_each(|(w, step)| {
            for (w, s) in w.iter_mut().zip(step) {
                *w = *w * (1.0 - self.lr * self.weight_decay) - scale * s;
            }
        });
    }
}

/// What is to be moved of one matrix: `w`, its numbers from `from` on, along the whole matrix's `direction` `[rows, cols]`.
pub(super) struct Task<'a> {
    w: &'a mut [f32],
    from: usize,
    direction: &'a [f32],
    rows: usize,
    cols: usize,
}

/// The matrices of which `w`, the numbers `of` of a parameter, has some: one `[rows, cols]`, or those of `[experts, rows, cols]`.
/// `direction` is that of the whole parameter.
pub(super) fn tasks<'a>(w: &'a mut [f32], of: Range<usize>, direction: &'a [f32], shape: Shape) -> Vec<Task<'a>> {
    let [_, rows, cols] = shape.matrices();
    let (each, mut rest) = (rows * cols, w);
    let task = |matrix: usize| {
        let (from, to) = (of.start.max(matrix * each), of.end.min((matrix + 1) * each));
        let (w, others) = std::mem::take(&mut rest).split_at_mut(to - from);
        rest = others;
        Task { w, from: from - matrix * each, direction: &direction[matrix * each..][..each], rows, cols }
    };
    (of.start / each..of.end.div_ceil(each)).map(task).collect()
}

/// Operations of one update's products.
pub(super) fn flops(shape: Shape) -> u64 {
    let [matrices, rows, cols] = shape.matrices().map(|n| n as u64);
    let (r, c) = (rows.min(cols), rows.max(cols));
    matrices * ROUNDS as u64 * (4 * r * r * c + 2 * r * r * r)
}

/// Numbers of working space for the step of a matrix: two of its size, two squares of its shorter side.
pub(super) fn scratch_len(shape: Shape) -> usize {
    let [_, rows, cols] = shape.matrices();
    let short = rows.min(cols);
    2 * (rows * cols + short * short)
}

/// The nearest matrix with orthonormal rows or columns, roughly; it lies in `scratch`.
fn orthogonal<'a>(g: &[f32], rows: usize, cols: usize, precision: Precision, scratch: &'a mut [f32]) -> &'a [f32] {
    // Work on the wide side, so that the square matrix is the small one.
    let is_tall = rows > cols;
    let (r, c) = if is_tall { (cols, rows) } else { (rows, cols) };
    let (mut x, rest) = scratch.split_at_mut(r * c);
    let (mut next, rest) = rest.split_at_mut(r * c);
    let (gram, rest) = rest.split_at_mut(r * r);
    let square = &mut rest[..r * r];
    if is_tall {
        transpose(g, rows, cols, x)
    } else {
        x.copy_from_slice(g)
    }
    let norm = sum_squares(x).value().sqrt() as f32;
    scale_assign(x, 1.0 / (norm + 1e-7));
    let [a1, a3, a5] = QUINTIC;
    let gemm = |m, n, k| Gemm { m, n, k, precision, accumulate: false };
    for _ in 0..ROUNDS {
        // x <- a1 x + (a3 G + a5 G G) x, G = x x^T
        let xm = Mat::rows(x, c);
        gemm(r, r, c).run(xm, Rhs::Plain(xm.transposed()), None, gram);
        let gm = Mat::rows(gram, r);
        gemm(r, r, r).run(gm, Rhs::Plain(gm), None, square);
        scale_assign(square, a5);
        add_scaled(a3, gram, square);
        gemm(r, c, r).run(Mat::rows(square, r), Rhs::Plain(xm), None, next);
        add_scaled(a1, x, next);
        std::mem::swap(&mut x, &mut next);
    }
    if is_tall {
        transpose(x, cols, rows, next);
        return next;
    }
    x
}

/// `x` `[rows, cols]` turned, in blocks that stay in the nearest cache.
fn transpose(x: &[f32], rows: usize, cols: usize, out: &mut [f32]) {
    const BLOCK: usize = 16;
    out.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(band, out)| {
        let first = band * BLOCK;
        for i in (0..rows).step_by(BLOCK) {
            for (j, out) in out.chunks_exact_mut(rows).enumerate() {
                for k in i..rows.min(i + BLOCK) {
                    out[k] = x[k * cols + first + j];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::check::noise;

    #[test]
    fn singular_values_end_near_one_for_wide_and_tall() {
        for (rows, cols, precision) in
            [(8, 20, Precision::F32), (20, 8, Precision::F32), (8, 8, Precision::F32), (33, 70, Precision::Bf16), (70, 33, Precision::Bf16)]
        {
            let mut scratch = vec![f32::NAN; scratch_len(Shape::new(&[rows, cols]))];
            let x = orthogonal(&noise(1, rows * cols), rows, cols, precision, &mut scratch);
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

    #[test]
    fn each_expert_moves_as_a_matrix_of_its_own_however_the_parameter_is_cut() {
        let (experts, rows, cols) = (3, 6, 9);
        let (start, direction) = (noise(1, experts * rows * cols), noise(2, experts * rows * cols));
        let muon = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1, grad_scale: 1.0, precision: Precision::F32 };
        let step = |w: &mut [f32], of: Range<usize>, direction: &[f32], shape: Shape| {
            let mut scratch = vec![f32::NAN; scratch_len(shape)];
            tasks(w, of, direction, shape).into_iter().for_each(|task| muon.step(task, &mut scratch));
        };
        let mut alone = start.clone();
        for (w, direction) in alone.chunks_mut(rows * cols).zip(direction.chunks(rows * cols)) {
            step(w, 0..rows * cols, direction, Shape::new(&[rows, cols]));
        }
        let shape = Shape::new(&[experts, rows, cols]);
        for cuts in [&[0, 162][..], &[0, 10, 54, 120, 162]] {
            let mut stacked = start.clone();
            for cut in cuts.windows(2) {
                step(&mut stacked[cut[0]..cut[1]], cut[0]..cut[1], &direction, shape);
            }
            assert_eq!(stacked, alone);
        }
        assert_eq!(flops(shape), 3 * flops(Shape::new(&[rows, cols])));
    }
}
