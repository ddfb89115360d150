//! Linear: `y = x W^T + b`, `W` `[out, in]`. With bf16, a parameter's packed copies are read, made once a step.
//! Backward: `dx = dy W`, `dW += dy^T x`, `db += sum over rows of dy`; the transposes are read in place.

use kernels::{
    Element,
    gemm::{Gemm, Mat, Precision, Rhs},
};

use super::{Backward, Class, Cost, Forward, Input, Op, Saves};
use crate::{Axis, Dtype, EngineError, Form, Shape, ShapeError, Tape, Tensor, Pass};

struct Linear {
    /// The result has 32 bits whatever activations are stored in.
    is_wide: bool,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn class(&self) -> Class {
        Class::Product
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let [out, inner] = *x[1].dims() else {
            return Err(ShapeError::new("linear", format!("w is {}, not [out, in]", x[1])));
        };
        ShapeError::check("linear", "in", ("x", x[0].last()), ("w", inner))?;
        if let Some(b) = x.get(2) {
            ShapeError::check("linear", "out", ("w", out), ("b", b.elements()))?;
        }
        Ok(x[0].with_last(out))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (m, k, n) = (x[0].rows() as u64, x[0].last() as u64, x[1].rows() as u64);
        let bytes = 4 * (m * k + k * n + m * n);
        Cost { forward_flops: 2 * m * n * k, backward_flops: 4 * m * n * k, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([x[0].rows(), x[1].rows(), x[0].last()])
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn writes(&self) -> Option<Dtype> {
        self.is_wide.then_some(Dtype::F32)
    }
    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        packs(x[0].rows(), x[1], precision, pass == Pass::Backward)
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.product(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.gradients(b));
    }
}

impl Linear {
    fn product<T: Element>(&self, f: &mut Forward<'_>) {
        let [x, w, ..] = f.inputs else { unreachable!("at least two inputs") };
        let gemm = Gemm { m: x.shape.rows(), n: w.shape.rows(), k: x.shape.last(), precision: f.precision, accumulate: false };
        let bias = f.inputs.get(2).map(|b| b.f32s());
        gemm.run(Mat::rows(x.of::<T>(), gemm.k), rhs(w, Form::Forward, f.precision), bias, f.output.of::<T>());
    }

    fn gradients<T: Element>(&self, b: &mut Backward<'_>) {
        let [x, w, ..] = b.inputs else { unreachable!("at least two inputs") };
        let (rows, inner, out) = (x.shape.rows(), x.shape.last(), w.shape.rows());
        let dy = Mat::rows(b.dy.of::<T>(), out);
        if let Some(mut dx) = b.grads[0].take() {
            let gemm = Gemm { m: rows, n: inner, k: out, precision: b.precision, accumulate: dx.accumulate };
            gemm.run(dy, rhs(w, Form::Backward, b.precision), None, dx.data.of::<T>());
        }
        if let Some(mut dw) = b.grads[1].take() {
            let gemm = Gemm { m: out, n: inner, k: rows, precision: b.precision, accumulate: dw.accumulate };
            gemm.run(dy.transposed(), Rhs::Plain(Mat::rows(x.of::<T>(), inner)), None, dw.data.f32s());
        }
        if let Some(mut db) = b.grads.get_mut(2).and_then(Option::take) {
            if !db.accumulate {
                db.data.f32s().fill(0.0);
            }
            kernels::elementwise::add_rows(b.dy.of::<T>(), db.data.f32s());
        }
    }
}

/// Bytes of what a product of `rows` with a parameter `w` packs: the parameter, where it has no packed copy, and for the gradient of the
/// parameter, when `has_gradient`, the rows.
pub(super) fn packs(rows: usize, w: Shape, precision: Precision, has_gradient: bool) -> usize {
    let (out, inner) = (w.rows(), w.last());
    let bytes = |m, n, k| Gemm { m, n, k, precision, accumulate: false }.packs_bytes();
    let parameter = match precision {
        Precision::F32 => bytes(rows, out, inner).max(bytes(rows, inner, out)),
        Precision::Bf16 => 0,
    };
    if has_gradient { parameter.max(bytes(out, inner, rows)) } else { parameter }
}

/// A parameter's packed copy in bf16; the numbers themselves otherwise.
pub(super) fn rhs<'a>(w: &Input<'a>, form: Form, precision: Precision) -> Rhs<'a> {
    rhs_of(w, 0, form, precision)
}

/// The same of one of several matrices `[experts, out, in]`.
pub(super) fn rhs_of<'a>(w: &Input<'a>, matrix: usize, form: Form, precision: Precision) -> Rhs<'a> {
    if let (Precision::Bf16, Some(weight)) = (precision, w.weight()) {
        return Rhs::Packed(&weight.packed(form)[matrix]);
    }
    let [_, out, inner] = w.shape.matrices();
    let plain = Mat::rows(&w.f32s()[matrix * out * inner..][..out * inner], inner);
    Rhs::Plain(if form == Form::Forward { plain.transposed() } else { plain })
}

impl Tape<'_> {
    /// `x` `[.., in]` times `w` `[out, in]` transposed, plus `b` `[out]`: `[.., out]`.
    /// # Errors
    /// When `in` or `out` differ.
    pub fn linear(&mut self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor, EngineError> {
        self.linear_as(Linear { is_wide: false }, x, w, b)
    }

    /// The same in 32 bits whatever activations are stored in: what is read as it is (logits, scores), or by a loss.
    /// # Errors
    /// When `in` or `out` differ.
    pub fn linear_f32(&mut self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor, EngineError> {
        self.linear_as(Linear { is_wide: true }, x, w, b)
    }

    fn linear_as(&mut self, op: Linear, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor, EngineError> {
        match b {
            Some(b) => self.apply(op, &[x, w, b]),
            None => self.apply(op, &[x, w]),
        }
    }

    /// The same where ranks of the tensor axis hold parts of `in`: this rank's share of the sum, in which the bias counts
    /// once.
    /// # Errors
    /// When `in` or `out` differ.
    pub fn linear_share(&mut self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor, EngineError> {
        let is_first = self.place(Axis::Tensor).0 == 0;
        self.linear(x, w, b.filter(|_| is_first))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences_with_and_without_bias() {
        for (rows, inner, out) in [(1, 1, 1), (3, 5, 7), (2, 16, 33), (17, 67, 70)] {
            let twin = move |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
                let cell = |r: usize, o: usize| (0..inner).map(|i| x[r * inner + i] * w[o * inner + i]).sum::<f64>() + b[o];
                (0..rows * out).map(|at| cell(at / out, at % out)).collect()
            };
            let shapes = [Shape::new(&[rows, inner]), Shape::new(&[out, inner]), Shape::new(&[out])];
            check::gradients(&shapes, |tape, [x, w, b]| tape.linear(x, w, Some(b)), |[x, w, b]| twin(x, w, b), 1e-4);
            check::gradients(
                &[shapes[0], shapes[1]],
                |tape, [x, w]| tape.linear(x, w, None),
                |[x, w]| twin(x, w, &vec![0.0; out]),
                1e-4,
            );
        }
    }
}
