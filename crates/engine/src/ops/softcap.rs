//! A soft cap: `y = cap tanh(x / cap)`; *Gemma 2*, arXiv:2408.00118, section 2. The backward pass reads what came out.

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Softcap(f32);

impl Op for Softcap {
    fn name(&self) -> &'static str {
        "softcap"
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
        Saves { output: true, ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        f.output.f32s().copy_from_slice(f.inputs[0].f32s());
        kernels::activation::softcap(f.output.f32s(), 1.0 / self.0, self.0);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            for ((dx_at, dy), y) in dx.data.f32s().iter_mut().zip(b.dy.f32s()).zip(b.output.f32s()) {
                let tanh = y / self.0;
                *dx_at = dy * (1.0 - tanh * tanh) + if dx.accumulate { *dx_at } else { 0.0 };
            }
        }
    }
}

impl Tape<'_> {
    /// `cap tanh(x / cap)`; `x` itself without a cap.
    /// # Errors
    /// No memory.
    pub fn softcap(&mut self, x: &Tensor, cap: Option<f32>) -> Result<Tensor, EngineError> {
        match cap {
            Some(cap) => self.apply(Softcap(cap), &[x]),
            None => Ok(x.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for dims in [[1, 1], [3, 5], [17, 67]] {
            let twin = |[x]: [&Vec<f64>; 1]| x.iter().map(|x| 0.5 * (x / 0.5).tanh()).collect();
            check::gradients(&[Shape::new(&dims)], |tape, [x]| tape.softcap(x, Some(0.5)), twin, 1e-5);
        }
    }
}
