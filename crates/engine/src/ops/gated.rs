//! A gated activation: `y = f(gate) * up`; *GLU Variants Improve Transformer*, arXiv:2002.05202. Reads both inputs again.

use kernels::{Element, activation::Activation};

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Gated(Activation);

impl Op for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("gated", "ffn", ("gate", x[0].last()), ("up", x[1].last()))?;
        ShapeError::check("gated", "rows", ("gate", x[0].rows()), ("up", x[1].rows()))?;
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 6, 3)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0, 1]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.value(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.slopes(b));
    }
}

impl Gated {
    fn value<T: Element>(&self, f: &mut Forward<'_>) {
        self.0.gated::<T>(f.inputs[0].of(), f.inputs[1].of(), f.output.of());
    }

    fn slopes<T: Element>(&self, b: &mut Backward<'_>) {
        if let [Some(mut dgate), Some(mut dup)] = b.take_grads() {
            let (gate, up) = (b.inputs[0].of(), b.inputs[1].of());
            self.0.gated_backward::<T>(gate, up, b.dy.of(), dgate.data.of(), dup.data.of(), [dgate.accumulate, dup.accumulate]);
        }
    }
}

impl Tape<'_> {
    /// `activation(gate) * up`, both `[rows, ffn]`.
    /// # Errors
    /// When the shapes differ.
    pub fn gated(&mut self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Gated(activation), &[gate, up])
    }
}

#[cfg(test)]
mod tests {
    use super::Activation;
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let gelu = |g: f64| 0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3))).tanh());
        for dims in [[1, 1], [3, 5], [2, 16], [17, 67]] {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                check::gradients(
                    &[Shape::new(&dims), Shape::new(&dims)],
                    |tape, [gate, up]| tape.gated(activation, gate, up),
                    |[gate, up]| gate.iter().zip(up).map(|(g, u)| if activation == Activation::Silu { silu(*g) } else { gelu(*g) } * u).collect(),
                    2e-5,
                );
            }
        }
    }
}
