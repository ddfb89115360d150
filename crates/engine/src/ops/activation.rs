//! Pointwise activations: GELU (erf, arXiv:1606.08415), its tanh form, squared ReLU (arXiv:2109.08668), SiLU, and the quick
//! GELU of CLIP.
//! The backward pass reads the input and recomputes the rest.

pub use kernels::{Element, activation::Activation};

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Pointwise(Activation);

impl Op for Pointwise {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 8, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0], ..Saves::default() }
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.value(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.slope(b));
    }
}

impl Pointwise {
    fn value<T: Element>(&self, f: &mut Forward<'_>) {
        self.0.forward::<T>(f.inputs[0].of(), f.output.of());
    }

    fn slope<T: Element>(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            self.0.backward::<T>(b.inputs[0].of(), b.dy.of(), dx.data.of(), dx.accumulate);
        }
    }
}

impl Tape<'_> {
    /// `activation(x)`, element by element.
    /// # Errors
    /// No memory.
    pub fn activation(&mut self, activation: Activation, x: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Pointwise(activation), &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::Activation;
    use crate::{Shape, check};

    #[test]
    fn each_agrees_with_its_differences() {
        // 1 + erf(z), by its series: an independent way to the same number.
        let erf = |z: f64| {
            let (mut term, mut sum) = (z, z);
            for n in 1..60 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            2.0 / std::f64::consts::PI.sqrt() * sum
        };
        let gelu = move |x: f64| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
        let gelu_tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        let relu2 = |x: f64| x.max(0.0).powi(2);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let quick = |x: f64| x / (1.0 + (-1.702 * x).exp());
        let twins: [(Activation, Box<dyn Fn(f64) -> f64>); 5] = [
            (Activation::Gelu, Box::new(gelu)),
            (Activation::GeluTanh, Box::new(gelu_tanh)),
            (Activation::Relu2, Box::new(relu2)),
            (Activation::Silu, Box::new(silu)),
            (Activation::QuickGelu, Box::new(quick)),
        ];
        for (activation, twin) in twins {
            for n in [1, 5, 16, 17, 67] {
                check::gradients(
                    &[Shape::new(&[n])],
                    move |tape, [x]| tape.activation(activation, x),
                    |[x]| x.iter().map(|x| twin(*x)).collect(),
                    2e-5,
                );
            }
        }
    }
}
