//! The loss of CLIP: which text belongs to which image of the batch, and the other way round; arXiv:2103.00020, figure 3.
//! `L = exp(t) A B^T / model`, of rows
//! whose root mean square is one; the loss is half the cross-entropy of its rows and half that of its columns, the answers on the diagonal.
//! The gradient of `L` is made with the loss and kept, `[batch, batch]`.

use kernels::gemm::{Gemm, Mat, Rhs};

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Contrastive {
    scale: f32,
}

impl Op for Contrastive {
    fn name(&self) -> &'static str {
        "contrastive"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("contrastive", "batch", ("a", x[0].rows()), ("b", x[1].rows()))?;
        ShapeError::check("contrastive", "model", ("a", x[0].last()), ("b", x[1].last()))?;
        ShapeError::check("contrastive", "one number", ("t", x[2].elements()), ("its rule", 1))?;
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (batch, model) = (x[0].rows() as u64, x[0].last() as u64);
        let (flops, bytes) = (2 * batch * batch * model, 2 * x[0].bytes() + 8 * batch * batch);
        Cost { forward_flops: flops, backward_flops: 2 * flops, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([x[0].rows(), x[1].rows(), x[0].last()])
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], output: false, extras: vec![x[0].rows() * x[0].rows(), 1] }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [a, b, t] = f.inputs else { unreachable!("three inputs") };
        let [logits, slope] = f.extras else { unreachable!("saves asks for two") };
        let (n, k, factor) = (a.shape.rows(), a.shape.last(), t.f32s()[0].exp() / a.shape.last() as f32);
        let logits = logits.f32s_mut();
        let gemm = Gemm { m: n, n, k, precision: f.precision, accumulate: false };
        gemm.run(Mat::rows(a.f32s(), k), Rhs::Plain(Mat::rows(b.f32s(), k).transposed()), None, logits);
        logits.iter_mut().for_each(|v| *v *= factor);
        let log_sum = |line: &mut dyn Iterator<Item = f32>| {
            let line: Vec<f32> = line.collect();
            let most = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            f64::from(most) + line.iter().map(|v| f64::from(v - most).exp()).sum::<f64>().ln()
        };
        let rows: Vec<f64> = (0..n).map(|i| log_sum(&mut logits[i * n..][..n].iter().copied())).collect();
        let columns: Vec<f64> = (0..n).map(|j| log_sum(&mut (0..n).map(|i| logits[i * n + j]))).collect();
        let loss: f64 = (0..n).map(|i| 0.5 * (rows[i] + columns[i]) - f64::from(logits[i * n + i])).sum();
        f.output[0] = (loss * f64::from(self.scale)) as f32;
        let mut sum = 0.0;
        for (at, logit) in logits.iter_mut().enumerate() {
            let (i, j, v) = (at / n, at % n, f64::from(*logit));
            let grad = f64::from(self.scale) * (0.5 * ((v - rows[i]).exp() + (v - columns[j]).exp()) - if i == j { 1.0 } else { 0.0 });
            sum += grad * v;
            *logit = grad as f32;
        }
        slope.f32s_mut()[0] = sum as f32;
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [x, y, t] = b.inputs else { unreachable!("three inputs") };
        let (n, k, factor) = (x.shape.rows(), x.shape.last(), t.f32s()[0].exp() * b.dy[0] / x.shape.last() as f32);
        let dlogits: Vec<f32> = b.extras[0].f32s().iter().map(|v| v * factor).collect();
        let dlogits = Mat::rows(&dlogits, n);
        for (i, (rows, other)) in [(dlogits, y), (dlogits.transposed(), x)].into_iter().enumerate() {
            if let Some(grad) = b.grads[i].take() {
                let gemm = Gemm { m: n, n: k, k: n, precision: b.precision, accumulate: grad.accumulate };
                gemm.run(rows, Rhs::Plain(Mat::rows(other.f32s(), k)), None, grad.data);
            }
        }
        if let Some(dt) = b.grads[2].take() {
            let new = b.extras[1].f32s()[0] * b.dy[0];
            dt.data[0] = if dt.accumulate { dt.data[0] + new } else { new };
        }
    }
}

impl Tape<'_> {
    /// `scale` times the sum over the batch of the contrastive loss of `a` and `b` `[batch, model]`, rows of root mean square one, with
    /// temperature `exp(-t)`, `t` `[1]`. The whole batch is this tape's: pairs of other ranks are no candidates.
    /// # Errors
    /// When the shapes differ.
    pub fn contrastive(&mut self, a: &Tensor, b: &Tensor, t: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        self.apply(Contrastive { scale }, &[a, b, t])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for (batch, model) in [(1, 2), (3, 5), (6, 16)] {
            let twin = move |a: &[f64], b: &[f64], t: f64| {
                let logit = |i: usize, j: usize| t.exp() / model as f64 * (0..model).map(|c| a[i * model + c] * b[j * model + c]).sum::<f64>();
                let nll = |i: usize, of: &dyn Fn(usize) -> f64| (0..batch).map(|j| of(j).exp()).sum::<f64>().ln() - of(i);
                (0..batch).map(|i| nll(i, &|j| logit(i, j)) + nll(i, &|j| logit(j, i))).sum::<f64>() / 2.0
            };
            let x = Shape::new(&[batch, model]);
            check::gradients_of_loss(
                &[x, x, Shape::new(&[1])],
                |tape, [a, b, t]| tape.contrastive(a, b, t, 0.5),
                |[a, b, t]| 0.5 * twin(a, b, t[0]),
                1e-4,
            );
        }
    }
}
