//! How far the normal distribution that a model says is from the standard one, in nats: of each number
//! `(mean^2 + exp(l) - 1 - l) / 2` with its log variance `l`; *Auto-Encoding Variational Bayes*, arXiv:1312.6114, appendix B. One number:
//! a weight times the sum over samples of the mean over a sample's numbers. It is a loss beside the head's.

use super::{Backward, Class, Cost, Forward, Op, Saves, gaussian::{LOG_VARIANCES, is_within}};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Divergence {
    weight: f32,
}

impl Divergence {
    /// What the nats of each number are multiplied by.
    fn share(&self, moments: Shape) -> f64 {
        f64::from(self.weight) * moments.dims()[0] as f64 / (moments.elements() / 2) as f64
    }
}

impl Op for Divergence {
    fn name(&self) -> &'static str {
        "divergence"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if x[0].last() == 0 || !x[0].last().is_multiple_of(2) {
            return Err(ShapeError::new("divergence", format!("{} columns are no pairs of mean and log variance", x[0].last())));
        }
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 4, 1)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0], ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let moments = f.inputs[0];
        let width = moments.shape.last() / 2;
        let nats = |(mean, l): (&f32, &f32)| {
            let l = f64::from(l.clamp(LOG_VARIANCES[0], LOG_VARIANCES[1]));
            0.5 * (f64::from(*mean).powi(2) + l.exp() - 1.0 - l)
        };
        let row = |row: &[f32]| row[..width].iter().zip(&row[width..]).map(nats).sum::<f64>();
        let sum: f64 = moments.f32s().chunks_exact(2 * width).map(row).sum();
        f.output.f32s()[0] = (sum * self.share(moments.shape)) as f32;
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let Some(mut dmoments) = b.grads[0].take() else { return };
        let (moments, slope) = (b.inputs[0], self.share(b.inputs[0].shape) as f32 * b.dy.f32s()[0]);
        let width = moments.shape.last() / 2;
        for (row, to) in moments.f32s().chunks_exact(2 * width).zip(dmoments.data.f32s().chunks_exact_mut(2 * width)) {
            for i in 0..width {
                let l = row[width + i];
                let dl = if is_within(l) { 0.5 * slope * (l.exp() - 1.0) } else { 0.0 };
                let dmean = slope * row[i];
                (to[i], to[width + i]) = if dmoments.accumulate { (to[i] + dmean, to[width + i] + dl) } else { (dmean, dl) };
            }
        }
    }
}

impl Tape<'_> {
    /// `coefficient` times the divergence of `moments` `[batch, .., 2 channels]`, for each sample as the head's loss counts it.
    /// # Errors
    /// When the last axis is no pairs.
    pub fn divergence(&mut self, moments: &Tensor, coefficient: f32) -> Result<Tensor, EngineError> {
        let weight = coefficient * self.loss_scale();
        self.apply(Divergence { weight }, &[moments])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for dims in [[1, 1, 2], [3, 5, 2], [2, 3, 16], [3, 1, 134]] {
            check::gradients(
                &[Shape::new(&dims)],
                |tape, [moments]| tape.divergence(moments, 0.25),
                |[moments]| {
                    let width = dims[2] / 2;
                    let nats = |row: &[f64]| (0..width).map(|i| 0.5 * (row[i].powi(2) + row[width + i].exp() - 1.0 - row[width + i])).sum::<f64>();
                    vec![0.25 * moments.chunks(2 * width).map(nats).sum::<f64>() / (dims[1] * width) as f64]
                },
                1e-5,
            );
        }
    }

    #[test]
    fn it_is_nothing_for_the_standard_normal_distribution() {
        let (y, gradient) = check::run_one(&[0.0; 8], Shape::new(&[1, 2, 4]), |tape, moments| tape.divergence(moments, 1.0));
        assert_eq!((y[0], gradient), (0.0, vec![0.0; 8]));
    }
}
