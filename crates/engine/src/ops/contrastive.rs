//! The losses of CLIP and of SigLIP: which text belongs to which image of the whole batch; arXiv:2103.00020, figure 3, and
//! arXiv:2303.15343, algorithm 1. With `L = exp(t) A B^T / width`, of rows whose root mean square is one:
//!
//! - CLIP: half the cross-entropy of the rows of `L` and half that of its columns, the answers on the diagonal
//! - SigLIP: `-ln sigmoid(z (L + bias))` of every pair, `z` being 1 on the diagonal and -1 off it
//!
//! A tape has some of the pairs, its own; the others come from other tapes and ranks as numbers ([`Everyone`]). It gives the part of the
//! loss that its own pairs have, and the gradient of the **whole** loss to its own rows, so that parts and gradients of all tapes sum to
//! those of one tape with all pairs. `G`, the gradient of the whole loss to `L`, is made with the loss and kept: `[own, all]` for the own
//! rows of `L`, and as many for its own columns.

use kernels::gemm::{Gemm, Mat, Rhs};

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

/// What a tape is told of all pairs.
#[derive(Clone, Copy)]
pub struct Everyone<'a> {
    /// `[all, 2 width]`: an image's row and its text's beside it.
    pub pairs: &'a Tensor,
    /// `[2, all]`: of the rows of `L` and of its columns the logarithms of the sums of exponentials, see [`log_sums`].
    pub log_sums: &'a Tensor,
    /// `[own]`: the places of this tape's pairs among all.
    pub own: &'a Tensor,
}

struct Contrastive {
    scale: f32,
    is_sigmoid: bool,
}

/// Of `pairs` `[all, 2 width]` at temperature `exp(-t)`, the logarithms of the sums of the exponentials of each row of `L` and of each
/// column: `[2, all]`.
#[must_use]
pub fn log_sums(pairs: &[f32], width: usize, t: f32) -> Vec<f32> {
    let all = pairs.len() / (2 * width).max(1);
    let (mut sums, mut logits) = (Vec::with_capacity(2 * all), vec![0.0; all * all]);
    for from in 0..2 {
        side(pairs, pairs, from, width, t, &mut logits);
        sums.extend(logits.chunks_exact(all.max(1)).map(|line| log_sum(line) as f32));
    }
    sums
}

/// The images (0) or the texts (1) of `pairs` `[.., 2 width]`.
fn half(pairs: &[f32], which: usize, width: usize) -> Mat<'_> {
    Mat { data: pairs.get(which * width..).unwrap_or_default(), row_stride: 2 * width, col_stride: 1 }
}

/// `exp(t) from to^T / width`: the images of `own` with the texts of `all` where `from` is 0, and the other way round where it is 1.
fn side(own: &[f32], all: &[f32], from: usize, width: usize, t: f32, logits: &mut [f32]) {
    let [m, n] = [own.len() / (2 * width), all.len() / (2 * width)];
    // Few products beside those of the towers, and all that is learnt hangs on them: never in less than f32.
    let gemm = Gemm { m, n, k: width, precision: kernels::gemm::Precision::F32, accumulate: false };
    gemm.run(half(own, from, width), Rhs::Plain(half(all, 1 - from, width).transposed()), None, logits);
    let factor = t.exp() / width as f32;
    logits.iter_mut().for_each(|v| *v *= factor);
}

fn log_sum(line: &[f32]) -> f64 {
    let most = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(most) + line.iter().map(|v| f64::from(v - most).exp()).sum::<f64>().ln()
}

/// `ln (1 + exp x)`, whatever `x`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// What one pass over the own rows of `L` (or its own columns) gives: part of the loss, of the gradients to `t` and to the bias.
#[derive(Default)]
struct Part {
    loss: f64,
    dt: f64,
    dbias: f64,
}

impl Contrastive {
    /// Lines of `L` (rows, or columns) become the same of `G`; `lines` are the sums of such lines and `others` those across.
    fn lines(&self, logits: &mut [f32], own: &[u32], [lines, others]: [&[f32]; 2], bias: f32) -> Part {
        let (all, scale, mut part) = (logits.len() / own.len().max(1), f64::from(self.scale), Part::default());
        for (line, place) in logits.chunks_exact_mut(all.max(1)).zip(own) {
            let place = *place as usize;
            if self.is_sigmoid {
                for (j, logit) in line.iter_mut().enumerate() {
                    let (v, sign) = (f64::from(*logit), if j == place { 1.0 } else { -1.0 });
                    let x = sign * (v + f64::from(bias));
                    let grad = -sign * scale / (1.0 + x.exp());
                    part.loss += scale * softplus(-x);
                    part.dt += grad * v;
                    part.dbias += grad;
                    *logit = grad as f32;
                }
                continue;
            }
            // What this line adds to the loss is half its own cross-entropy; what moves it, that of both ways.
            let own_sum = log_sum(line);
            part.loss += scale * 0.5 * (own_sum - f64::from(line[place]));
            for (j, logit) in line.iter_mut().enumerate() {
                let (v, answer) = (f64::from(*logit), if j == place { 1.0 } else { 0.0 });
                let along = (v - f64::from(lines[place])).exp();
                part.dt += scale * 0.5 * ((v - own_sum).exp() - answer) * v;
                *logit = (scale * (0.5 * (along + (v - f64::from(others[j])).exp()) - answer)) as f32;
            }
        }
        part
    }
}

impl Op for Contrastive {
    fn name(&self) -> &'static str {
        "contrastive"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    /// Of its own pairs, `t` and the bias; and where it is not alone of all pairs, their sums and its places.
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        for (name, one) in [("t", x[1]), ("bias", x[2])] {
            ShapeError::check("contrastive", "one number", (name, one.elements()), ("its rule", 1))?;
        }
        ShapeError::check("contrastive", "an image and a text", ("own pairs", x[0].last() % 2), ("halves", 0))?;
        if let [own, _, _, all, sums, places] = x {
            ShapeError::check("contrastive", "width", ("own pairs", own.last()), ("all pairs", all.last()))?;
            ShapeError::check("contrastive", "all", ("sums", sums.elements()), ("all pairs", 2 * all.rows()))?;
            ShapeError::check("contrastive", "own", ("places", places.elements()), ("own pairs", own.rows()))?;
        }
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (own, all, width) = (x[0].rows() as u64, all(x).rows() as u64, x[0].last() as u64);
        let (flops, bytes) = (2 * own * all * width, x[0].bytes() + all * 4 * width + 16 * own * all);
        Cost { forward_flops: flops, backward_flops: flops, forward_bytes: bytes, backward_bytes: bytes }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([2 * x[0].rows(), all(x).rows(), x[0].last() / 2])
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        let inputs: &[usize] = if x.len() > 3 { &[0, 1, 3] } else { &[0, 1] };
        Saves { inputs, output: false, extras: vec![2 * x[0].rows() * all(x).rows(), 2] }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input < 2 || input == 2 && self.is_sigmoid { Gradient::Computed } else { Gradient::None }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [kept, slopes] = f.extras else { unreachable!("saves asks for two") };
        let (x, t, bias) = (&f.inputs[0], f.inputs[1].f32s()[0], f.inputs[2].f32s()[0]);
        let (own, width) = (x.shape.rows(), x.shape.last() / 2);
        let (own_sums, own_places);
        let (all, sums, places) = match f.inputs {
            [_, _, _, all, sums, places] => (all, sums.f32s(), places.u32s()),
            _ => {
                own_sums = if self.is_sigmoid { vec![0.0; 2 * own] } else { log_sums(x.f32s(), width, t) };
                own_places = (0..own as u32).collect::<Vec<u32>>();
                (x, &own_sums[..], &own_places[..])
            }
        };
        let (rows, columns) = sums.split_at(all.shape.rows());
        let (to_texts, to_images) = kept.f32s_mut().split_at_mut(own * all.shape.rows());
        side(x.f32s(), all.f32s(), 0, width, t, to_texts);
        side(x.f32s(), all.f32s(), 1, width, t, to_images);
        let mut part = self.lines(to_texts, places, [rows, columns], bias);
        let across = self.lines(to_images, places, [columns, rows], bias);
        if !self.is_sigmoid {
            // Of SigLIP each pair stands in one row, and its column says nothing new.
            (part.loss, part.dt) = (part.loss + across.loss, part.dt + across.dt);
        }
        f.output.f32s()[0] = part.loss as f32;
        slopes.f32s_mut().copy_from_slice(&[part.dt as f32, part.dbias as f32]);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let (x, t, all) = (&b.inputs[0], &b.inputs[1], if b.inputs.len() > 3 { &b.inputs[3] } else { &b.inputs[0] });
        let (own, count, width) = (x.shape.rows(), all.shape.rows(), x.shape.last() / 2);
        if let Some(mut dx) = b.grads[0].take() {
            let factor = t.f32s()[0].exp() * b.dy.f32s()[0] / width as f32;
            let mut new = vec![0.0; own * width];
            for (which, grad) in b.extras[0].f32s().chunks_exact(own * count).enumerate() {
                let gemm = Gemm { m: own, n: width, k: count, precision: kernels::gemm::Precision::F32, accumulate: false };
                gemm.run(Mat::rows(grad, count), Rhs::Plain(half(all.f32s(), 1 - which, width)), None, &mut new);
                for (to, new) in dx.data.f32s().chunks_exact_mut(2 * width).zip(new.chunks_exact(width)) {
                    for (to, new) in to[which * width..][..width].iter_mut().zip(new) {
                        *to = factor * new + if dx.accumulate { *to } else { 0.0 };
                    }
                }
            }
        }
        for (input, slope) in [(1, 0), (2, 1)] {
            if let Some(mut grad) = b.grads[input].take() {
                let new = b.extras[1].f32s()[slope] * b.dy.f32s()[0];
                grad.data.f32s()[0] = if grad.accumulate { grad.data.f32s()[0] + new } else { new };
            }
        }
    }
}

/// The pairs that it is told apart from.
fn all(x: &[Shape]) -> Shape {
    if x.len() > 3 { x[3] } else { x[0] }
}

/// How pairs are told apart.
#[derive(Clone, Copy)]
pub struct Telling<'a> {
    /// `[1]`: the logarithm of what cosines are multiplied by.
    pub t: &'a Tensor,
    /// `[1]`, of SigLIP alone: what is added to the logits.
    pub bias: Option<&'a Tensor>,
}

impl Tape<'_> {
    /// `scale` times the part of the contrastive loss that `pairs` `[own, 2 width]` have, an image's row and its text's beside it, each
    /// of root mean square one, among those of `everyone`; by itself where that is not given.
    /// # Errors
    /// When the shapes differ.
    pub fn contrastive(
        &mut self,
        pairs: &Tensor,
        telling: Telling<'_>,
        everyone: Option<Everyone<'_>>,
        scale: f32,
    ) -> Result<Tensor, EngineError> {
        let none;
        let bias = match telling.bias {
            Some(bias) => bias,
            None => {
                none = self.constant_of(Shape::new(&[1]), || vec![0.0])?;
                &none
            }
        };
        let op = Contrastive { scale, is_sigmoid: telling.bias.is_some() };
        match everyone {
            Some(Everyone { pairs: all, log_sums, own }) => self.apply(op, &[pairs, telling.t, bias, all, log_sums, own]),
            None => self.apply(op, &[pairs, telling.t, bias]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    /// The whole loss of `pairs`, by its definition.
    fn twin(pairs: &[f64], width: usize, t: f64, bias: Option<f64>) -> f64 {
        let all = pairs.len() / (2 * width);
        let logit = |i: usize, j: usize| {
            t.exp() / width as f64 * (0..width).map(|c| pairs[2 * i * width + c] * pairs[(2 * j + 1) * width + c]).sum::<f64>()
        };
        if let Some(bias) = bias {
            let one = |i: usize, j: usize| (1.0 + (if i == j { -1.0 } else { 1.0 } * (logit(i, j) + bias)).exp()).ln();
            return (0..all * all).map(|at| one(at / all, at % all)).sum();
        }
        let nll = |i: usize, of: &dyn Fn(usize) -> f64| (0..all).map(|j| of(j).exp()).sum::<f64>().ln() - of(i);
        (0..all).map(|i| nll(i, &|j| logit(i, j)) + nll(i, &|j| logit(j, i))).sum::<f64>() / 2.0
    }

    #[test]
    fn agrees_with_its_differences() {
        for (batch, width) in [(1, 2), (3, 5), (6, 16)] {
            let (x, one) = (Shape::new(&[batch, 2 * width]), Shape::new(&[1]));
            check::gradients_of_loss(
                &[x, one],
                |tape, [x, t]| tape.contrastive(x, Telling { t, bias: None }, None, 0.5),
                |[x, t]| 0.5 * twin(x, width, t[0], None),
                1e-4,
            );
            check::gradients_of_loss(
                &[x, one, one],
                |tape, [x, t, bias]| tape.contrastive(x, Telling { t, bias: Some(bias) }, None, 0.5),
                |[x, t, bias]| 0.5 * twin(x, width, t[0], Some(bias[0])),
                1e-4,
            );
        }
    }

    #[test]
    fn parts_of_a_batch_sum_to_the_whole_and_have_its_gradients() {
        use crate::{Device, NoParams, Options, ParamTable, Pool, Precision};
        let (batch, width, t) = (5, 4, 0.7_f32);
        let pairs = check::noise(3, batch * 2 * width);
        let sums = log_sums(&pairs, width, t);
        let options = Options { precision: Precision::F32, recompute: false, train: true, key: 0, trace: false };
        for bias in [None, Some(-0.5_f32)] {
            let run = |own: &[usize]| -> (f64, Vec<f32>, f32) {
                let (table, mut store) = (ParamTable::default(), NoParams);
                let mut tape = Tape::new(&Pool::new(Device::Cpu, 1 << 20), &mut store, &table, options);
                let rows: Vec<f32> = own.iter().flat_map(|i| &pairs[2 * i * width..][..2 * width]).copied().collect();
                let x = tape.leaf(Shape::new(&[own.len(), 2 * width]), &rows, true).unwrap();
                let t = tape.leaf(Shape::new(&[1]), &[t], true).unwrap();
                let bias = bias.map(|bias| tape.leaf(Shape::new(&[1]), &[bias], true).unwrap());
                let all = tape.constant(Shape::new(&[batch, 2 * width]), &pairs).unwrap();
                let log_sums = tape.constant(Shape::new(&[2, batch]), &sums).unwrap();
                let own = tape.tokens(Shape::new(&[own.len()]), &own.iter().map(|i| *i as u32).collect::<Vec<_>>()).unwrap();
                let everyone = Everyone { pairs: &all, log_sums: &log_sums, own: &own };
                let loss = tape.contrastive(&x, Telling { t: &t, bias: bias.as_ref() }, Some(everyone), 1.0).unwrap();
                tape.backward_with(&loss, &[1.0]).unwrap();
                (f64::from(loss.f32s()[0]), tape.grad(&x).unwrap().to_vec(), tape.grad(&t).unwrap()[0])
            };
            let exact: Vec<f64> = pairs.iter().map(|v| f64::from(*v)).collect();
            let want = twin(&exact, width, f64::from(t), bias.map(f64::from));
            let (whole, [first, second]) = (run(&[0, 1, 2, 3, 4]), [run(&[0, 1]), run(&[2, 3, 4])]);
            assert!((whole.0 - want).abs() < 1e-4 && (first.0 + second.0 - want).abs() < 1e-4, "{} {want}", whole.0);
            let parts: Vec<f32> = first.1.iter().chain(&second.1).copied().collect();
            assert!(parts.iter().zip(&whole.1).all(|(a, b)| (a - b).abs() < 1e-5), "{parts:?} {:?}", whole.1);
            assert!((first.2 + second.2 - whole.2).abs() < 1e-4);
        }
    }
}
