//! Dropout: each number is zeroed with probability `rate`, the rest divided by `1 - rate`; arXiv:1207.0580.
//! The mask is a function of a key and the position in the whole batch, so nothing is saved, a second run draws the same, and
//! ranks that have a run of each sequence draw what one rank would.

use kernels::dropout::Runs;

use kernels::Element;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{Axis, EngineError, Shape, ShapeError, Tape, Tensor};

struct Dropout {
    rate: f32,
    key: u64,
    runs: Runs,
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn class(&self) -> Class {
        Class::TokenWise
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if (0.0..1.0).contains(&self.rate) {
            Ok(x[0])
        } else {
            Err(ShapeError::new("dropout", format!("the rate is {}, not in 0..1", self.rate)))
        }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 2, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.masked(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.masked_back(b));
    }
}

impl Dropout {
    fn masked<T: Element>(&self, f: &mut Forward<'_>) {
        kernels::dropout::dropout::<T>(f.inputs[0].of(), f.output.of(), self.rate, self.key, self.runs);
    }

    fn masked_back<T: Element>(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            kernels::dropout::backward::<T>(b.dy.of(), dx.data.of(), self.rate, self.key, self.runs, dx.accumulate);
        }
    }
}

impl Tape<'_> {
    /// Zero a share `rate` of `x` while training; `x` itself otherwise, and when the rate is zero. Where sequences are cut, `x`
    /// is `[batch, seq, model]`, of the tokens that are this rank's along both axes.
    /// # Errors
    /// When the rate is not in `0..1`.
    pub fn dropout(&mut self, x: &Tensor, rate: f32) -> Result<Tensor, EngineError> {
        if !self.is_training() || rate == 0.0 {
            return Ok(x.clone());
        }
        let key = self.draw();
        let ((context, contexts), (tensor, tensors)) = (self.place(Axis::Context), self.place(Axis::Tensor));
        let parts = contexts * tensors;
        let len = if parts == 1 { x.shape().elements() } else { x.shape().elements() / x.shape().dims()[0] };
        self.apply(Dropout { rate, key, runs: Runs { len, place: context * tensors + tensor, parts } }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn keeps_the_mean_and_sends_the_gradient_where_the_number_went() {
        let n = 20_000;
        let (y, dx) = check::run_one(&[1.0; 20_000], Shape::new(&[n]), |tape, x| tape.dropout(x, 0.25));
        let kept = y.iter().filter(|y| **y != 0.0).count() as f64 / n as f64;
        assert!((kept - 0.75).abs() < 0.015, "kept {kept}");
        assert!(y.iter().all(|y| *y == 0.0 || (*y - 1.0 / 0.75).abs() < 1e-6));
        assert_eq!(y, dx, "with ones for input and dy, the gradient is the mask");
    }
}
