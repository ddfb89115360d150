//! Squared error: `scale` times the sum over samples of the mean of `(x - target)^2` over a sample's numbers, one number.

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Mse {
    scale: f32,
}

impl Mse {
    /// What each square is multiplied by.
    fn share(&self, x: Shape) -> f64 {
        f64::from(self.scale) * x.dims().first().copied().unwrap_or(1) as f64 / x.elements() as f64
    }
}

impl Op for Mse {
    fn name(&self) -> &'static str {
        "mse"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("mse", "batch", ("x", x[0].dims()[0]), ("target", x[1].dims()[0]))?;
        ShapeError::check("mse", "numbers", ("x", x[0].elements()), ("target", x[1].elements()))?;
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 3, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 1 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, target] = f.inputs else { unreachable!("two inputs") };
        let sum: f64 = x.f32s().iter().zip(target.f32s()).map(|(x, t)| f64::from(x - t).powi(2)).sum();
        f.output.f32s()[0] = (sum * self.share(x.shape)) as f32;
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dx) = b.grads[0].take() {
            let slope = (2.0 * self.share(b.inputs[0].shape)) as f32 * b.dy.f32s()[0];
            for ((to, x), t) in dx.data.f32s().iter_mut().zip(b.inputs[0].f32s()).zip(b.inputs[1].f32s()) {
                let new = slope * (x - t);
                *to = if dx.accumulate { *to + new } else { new };
            }
        }
    }
}

impl Tape<'_> {
    /// `scale` times the sum over samples of the mean squared error of `x` `[batch, ..]`; `target`, of as many numbers, takes
    /// no gradient.
    /// # Errors
    /// When the shapes differ.
    pub fn mse(&mut self, x: &Tensor, target: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        self.apply(Mse { scale }, &[x, target])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for dims in [[1, 1], [3, 5], [2, 67]] {
            let target = check::noise(9, dims[0] * dims[1]);
            let of = check::f64s(&target);
            check::gradients(
                &[Shape::new(&dims)],
                |tape, [x]| {
                    let target = tape.constant(Shape::new(&dims), &target)?;
                    tape.mse(x, &target, 0.25)
                },
                |[x]| vec![0.25 * x.iter().zip(&of).map(|(x, t)| (x - t).powi(2)).sum::<f64>() / dims[1] as f64],
                1e-5,
            );
        }
    }
}
