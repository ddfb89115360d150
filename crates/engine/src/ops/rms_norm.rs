//! RMSNorm over the last axis: `y = w x / rms(x)`, `rms(x) = sqrt(mean(x^2) + eps)`; arXiv:1910.07467, eq. 4.
//! Saves `inv_rms` `[rows]`, one number a row; the backward pass recomputes the rest.

use kernels::Element;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct RmsNorm {
    eps: f32,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn class(&self) -> Class {
        Class::TokenWise
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("rms_norm", "model", ("x", x[0].last()), ("w", x[1].elements()))?;
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 4, 2)
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], output: false, extras: vec![x[0].rows()] }
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.normed(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.gradients(b));
    }
}

impl RmsNorm {
    fn normed<T: Element>(&self, f: &mut Forward<'_>) {
        let inv_rms = f.extras[0].f32s_mut();
        kernels::norm::rms_norm::<T>(f.inputs[0].of(), f.inputs[1].f32s(), self.eps, f.output.of(), inv_rms);
    }

    fn gradients<T: Element>(&self, b: &mut Backward<'_>) {
        let [mut dx, mut dw] = b.take_grads();
        let accumulate = dx.as_ref().is_some_and(|dx| dx.accumulate);
        if let Some(dw) = dw.as_mut().filter(|dw| !dw.accumulate) {
            dw.data.f32s().fill(0.0);
        }
        let dx = dx.as_mut().map_or(&mut [][..], |dx| dx.data.of());
        let dw = dw.as_mut().map_or(&mut [][..], |dw| dw.data.f32s());
        kernels::norm::rms_norm_backward::<T>(b.inputs[0].of(), b.inputs[1].f32s(), b.extras[0].f32s(), b.dy.of(), dx, dw, accumulate);
    }
}

impl Tape<'_> {
    /// `x` `[.., model]` over its root mean square, times `w` `[model]`.
    /// # Errors
    /// When `model` differs.
    pub fn rms_norm(&mut self, x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor, EngineError> {
        self.apply(RmsNorm { eps }, &[x, w])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for (rows, model) in [(1, 1), (3, 5), (2, 16), (17, 67)] {
            check::gradients(
                &[Shape::new(&[rows, model]), Shape::new(&[model])],
                |tape, [x, w]| tape.rms_norm(x, w, 1e-5),
                |[x, w]| {
                    let row = |x: &[f64]| {
                        let rms = (x.iter().map(|v| v * v).sum::<f64>() / model as f64 + 1e-5).sqrt();
                        x.iter().zip(w.iter()).map(|(x, w)| x * w / rms).collect::<Vec<_>>()
                    };
                    x.chunks(model).flat_map(row).collect()
                },
                1e-4,
            );
        }
    }
}
