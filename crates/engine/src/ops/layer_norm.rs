//! LayerNorm over the last axis: `y = w (x - mean) / std + b`; arXiv:1607.06450.
//! Saves mean and `1 / std` `[rows]` each; the bias is optional.

use kernels::Element;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct LayerNorm {
    eps: f32,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn class(&self) -> Class {
        Class::TokenWise
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        for w in &x[1..] {
            ShapeError::check("layer_norm", "model", ("x", x[0].last()), ("w", w.elements()))?;
        }
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 7, 2)
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], output: false, extras: vec![x[0].rows(); 2] }
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

impl LayerNorm {
    fn normed<T: Element>(&self, f: &mut Forward<'_>) {
        let [mean, inv_std] = f.extras else { unreachable!("saves asks for two") };
        let bias = f.inputs.get(2).map(|b| b.f32s());
        let (x, w) = (f.inputs[0].of(), f.inputs[1].f32s());
        kernels::norm::layer_norm::<T>(x, w, bias, self.eps, f.output.of(), mean.f32s_mut(), inv_std.f32s_mut());
    }

    fn gradients<T: Element>(&self, b: &mut Backward<'_>) {
        let (mut dx, mut dw) = (b.grads[0].take(), b.grads[1].take());
        let mut db = b.grads.get_mut(2).and_then(Option::take);
        for fresh in [&mut dw, &mut db].into_iter().flatten().filter(|g| !g.accumulate) {
            fresh.data.f32s().fill(0.0);
        }
        let accumulate = dx.as_ref().is_some_and(|dx| dx.accumulate);
        let dx = dx.as_mut().map_or(&mut [][..], |dx| dx.data.of());
        let dw = dw.as_mut().map_or(&mut [][..], |dw| dw.data.f32s());
        let db = db.as_mut().map(|db| db.data.f32s());
        let (mean, inv_std) = (b.extras[0].f32s(), b.extras[1].f32s());
        kernels::norm::layer_norm_backward::<T>(b.inputs[0].of(), b.inputs[1].f32s(), mean, inv_std, b.dy.of(), dx, dw, db, accumulate);
    }
}

impl Tape<'_> {
    /// `x` `[.., model]` with mean 0 and variance 1, times `w` `[model]`, plus `b` `[model]`.
    /// # Errors
    /// When `model` differs.
    pub fn layer_norm(&mut self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, eps: f32) -> Result<Tensor, EngineError> {
        match b {
            Some(b) => self.apply(LayerNorm { eps }, &[x, w, b]),
            None => self.apply(LayerNorm { eps }, &[x, w]),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    fn twin(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let model = w.len();
        let row = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / model as f64;
            let std = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / model as f64 + 1e-5).sqrt();
            (0..model).map(|i| w[i] * (x[i] - mean) / std + b[i]).collect::<Vec<_>>()
        };
        x.chunks(model).flat_map(row).collect()
    }

    #[test]
    fn agrees_with_its_differences_with_and_without_bias() {
        for (rows, model) in [(1, 2), (3, 5), (2, 16), (17, 67)] {
            let (x, w) = (Shape::new(&[rows, model]), Shape::new(&[model]));
            check::gradients(
                &[x, w, w],
                |tape, [x, w, b]| tape.layer_norm(x, w, Some(b), 1e-5),
                |[x, w, b]| twin(x, w, b),
                3e-4,
            );
            check::gradients(
                &[x, w],
                |tape, [x, w]| tape.layer_norm(x, w, None, 1e-5),
                |[x, w]| twin(x, w, &vec![0.0; model]),
                3e-4,
            );
        }
    }
}
