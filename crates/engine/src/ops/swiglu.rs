//! SwiGLU: `y = silu(gate) * up`; *GLU Variants Improve Transformer*, arXiv:2002.05202. Reads both inputs again.

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Swiglu;

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("swiglu", "ffn", ("gate", x[0].last()), ("up", x[1].last()))?;
        ShapeError::check("swiglu", "rows", ("gate", x[0].rows()), ("up", x[1].rows()))?;
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 6, 3)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        kernels::activation::swiglu(f.inputs[0].f32s(), f.inputs[1].f32s(), f.output);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(dgate), Some(dup)] = b.take_grads() {
            let (gate, up) = (b.inputs[0].f32s(), b.inputs[1].f32s());
            kernels::activation::swiglu_backward(gate, up, b.dy, dgate.data, dup.data, [dgate.accumulate, dup.accumulate]);
        }
    }
}

impl Tape<'_> {
    /// `silu(gate) * up`, both `[rows, ffn]`.
    /// # Errors
    /// When the shapes differ.
    pub fn swiglu(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Swiglu, &[gate, up])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for dims in [[1, 1], [3, 5], [2, 16], [17, 67]] {
            check::gradients(
                &[Shape::new(&dims), Shape::new(&dims)],
                |tape, [gate, up]| tape.swiglu(gate, up),
                |[gate, up]| gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect(),
                2e-5,
            );
        }
    }
}
