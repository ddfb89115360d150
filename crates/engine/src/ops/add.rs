//! The residual: `y = a + b`. Both gradients are `dy` itself, passed on without a copy.

use kernels::Element;

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn class(&self) -> Class {
        Class::TokenWise
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if x[0] == x[1] { Ok(x[0]) } else { Err(ShapeError::new("add", format!("a is {} and b is {}", x[0], x[1]))) }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let n = x[0].elements() as u64;
        Cost { forward_flops: n, forward_bytes: 12 * n, ..Cost::default() }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn gradient(&self, _input: usize) -> Gradient {
        Gradient::Same
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0, 1]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.sum(f));
    }
    fn backward(&self, _b: &mut Backward<'_>) {}
}

impl Add {
    fn sum<T: Element>(&self, f: &mut Forward<'_>) {
        kernels::elementwise::add::<T>(f.inputs[0].of(), f.inputs[1].of(), f.output.of());
    }
}

impl Tape<'_> {
    /// `a + b`, both of one shape.
    /// # Errors
    /// When the shapes differ.
    pub fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Add, &[a, b])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences_even_when_both_inputs_are_one() {
        check::gradients(
            &[Shape::new(&[3, 5]), Shape::new(&[3, 5])],
            |tape, [a, b]| tape.add(a, b),
            |[a, b]| a.iter().zip(b).map(|(a, b)| a + b).collect(),
            1e-5,
        );
        check::gradients(
            &[Shape::new(&[7])],
            |tape, [a]| tape.add(a, a),
            |[a]| a.iter().map(|a| 2.0 * a).collect(),
            1e-5,
        );
    }
}
