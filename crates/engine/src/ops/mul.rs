//! `y = a b`, element by element: the gate of a GEGLU (arXiv:2002.05202) once its activation is made. Reads both again.

use super::{Backward, Class, Cost, Forward, GradOut, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Mul;

impl Op for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if x[0] == x[1] { Ok(x[0]) } else { Err(ShapeError::new("mul", format!("a is {} and b is {}", x[0], x[1]))) }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 1, 3)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        multiply(f.inputs[0].f32s(), f.inputs[1].f32s(), GradOut { data: f.output.reborrow(), accumulate: false });
    }
    fn backward(&self, b: &mut Backward<'_>) {
        for (i, grad) in b.grads.iter_mut().enumerate() {
            if let Some(grad) = grad.take() {
                multiply(b.dy.f32s(), b.inputs[1 - i].f32s(), grad);
            }
        }
    }
}

fn multiply(a: &[f32], b: &[f32], mut y: GradOut<'_>) {
    for ((y_at, a), b) in y.data.f32s().iter_mut().zip(a).zip(b) {
        *y_at = if y.accumulate { *y_at + a * b } else { a * b };
    }
}

impl Tape<'_> {
    /// `a b`, both of one shape.
    /// # Errors
    /// When the shapes differ.
    pub fn mul(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Mul, &[a, b])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences_even_when_both_inputs_are_one() {
        let shape = Shape::new(&[3, 5]);
        let product = |[a, b]: [&Vec<f64>; 2]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        check::gradients(&[shape, shape], |tape, [a, b]| tape.mul(a, b), product, 1e-5);
        check::gradients(&[shape], |tape, [a]| tape.mul(a, a), |[a]| a.iter().map(|a| a * a).collect(), 1e-5);
    }
}
