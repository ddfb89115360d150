//! A loss told together with its gradient: objectives over whole texts or pairs of them compute both from the head's numbers at once,
//! in double precision, and their rule is a plain function that can be checked against its differences.
//!
//! Saves the gradient, as long as what it reads.

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{Dtype, EngineError, Shape, ShapeError, Tape, Tensor};

struct Score<F> {
    rule: F,
}

impl<F: Fn(&[f32], &mut [f32]) -> f32 + 'static> Op for Score<F> {
    fn name(&self) -> &'static str {
        "score"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, _x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 8, 2)
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { extras: vec![x[0].elements()], ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let slope = f.extras[0].f32s_mut();
        slope.fill(0.0);
        f.output.f32s()[0] = (self.rule)(f.inputs[0].f32s(), slope);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dx) = b.grads[0].take() {
            for (to, slope) in dx.data.f32s().iter_mut().zip(b.extras[0].f32s()) {
                *to = b.dy.f32s()[0] * slope + if dx.accumulate { *to } else { 0.0 };
            }
        }
    }
}

struct Read<F> {
    numbers: usize,
    rule: F,
}

impl<F: Fn(&[f32], &mut [f32]) + 'static> Op for Read<F> {
    fn name(&self) -> &'static str {
        "read"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, _x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(Shape::new(&[self.numbers]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 8, 1)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn writes(&self) -> Option<Dtype> {
        Some(Dtype::F32)
    }
    fn gradient(&self, _input: usize) -> Gradient {
        Gradient::None
    }
    fn forward(&self, f: &mut Forward<'_>) {
        (self.rule)(f.inputs[0].f32s(), f.output.f32s());
    }
    fn backward(&self, _b: &mut Backward<'_>) {}
}

impl Tape<'_> {
    /// `numbers` figures that `rule` makes of `x`, without a gradient. On `Meta` it is not asked.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn read(&mut self, x: &Tensor, numbers: usize, rule: impl Fn(&[f32], &mut [f32]) + 'static) -> Result<Tensor, EngineError> {
        self.apply(Read { numbers, rule }, &[x])
    }

    /// The loss that `rule` gives for `x`; it writes the gradient, zeros before, into its second argument. On `Meta` it is not asked.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn score(&mut self, x: &Tensor, rule: impl Fn(&[f32], &mut [f32]) -> f32 + 'static) -> Result<Tensor, EngineError> {
        self.apply(Score { rule }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        check::gradients(
            &[Shape::new(&[3, 5])],
            |tape, [x]| {
                tape.score(x, |x, dx| {
                    dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = 3.0 * x * x);
                    x.iter().map(|x| x.powi(3)).sum()
                })
            },
            |[x]| vec![x.iter().map(|x| x.powi(3)).sum()],
            1e-4,
        );
    }
}
