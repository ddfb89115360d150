//! A number times a fixed factor: `y = factor x`, as models have it whose parts are weighed (Gemma, Granite).

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Scale(f32);

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }
    fn class(&self) -> Class {
        Class::TokenWise
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 1, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        kernels::elementwise::scaled(self.0, f.inputs[0].f32s(), f.output.f32s(), false);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            kernels::elementwise::scaled(self.0, b.dy.f32s(), dx.data.f32s(), dx.accumulate);
        }
    }
}

impl Tape<'_> {
    /// `factor x`; `x` itself where the factor is one.
    /// # Errors
    /// No memory.
    pub fn scale(&mut self, x: &Tensor, factor: f32) -> Result<Tensor, EngineError> {
        if factor == 1.0 { Ok(x.clone()) } else { self.apply(Scale(factor), &[x]) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for dims in [[1, 1], [3, 5], [17, 67]] {
            check::gradients(&[Shape::new(&dims)], |tape, [x]| tape.scale(x, -1.5), |[x]| x.iter().map(|x| -1.5 * x).collect(), 1e-5);
        }
    }
}
