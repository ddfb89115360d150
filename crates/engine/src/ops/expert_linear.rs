//! Linear layers of experts: `y[slot] = x[slot] W[e]^T` with `W` `[experts, out, in]`, each expert's run of slots against its own
//! matrix. Backward: `dx = dy W[e]`, `dW[e] += dy^T x` over its slots; an expert without rows gets no gradient.
//!
//! On `Meta` rows count as spread evenly. Experts are products of their own, shared out among threads whole; the bits of one
//! depend on its rows alone.

use kernels::{
    Element, experts,
    gemm::{Gemm, Mat, Precision, Rhs},
};
use rayon::prelude::*;

use super::{Backward, Class, Cost, Forward, GradOut, Gradient, Input, Op, Routes, Saves, linear::{packs, rhs_of}, route::Plan};
use crate::{EngineError, Form, Shape, ShapeError, Tape, Tensor, Pass};

struct ExpertLinear {
    plan: Plan,
}

impl ExpertLinear {
    /// `y[slot] (+)= x[slot] B[e]`, `B` `[k, n]` one form of each expert's matrix.
    fn multiply<T: Element>(&self, x: &[T], w: &Input<'_>, form: Form, routes: experts::Routes<'_>, precision: Precision, mut y: GradOut<'_>) {
        let [_, out, inner] = w.shape.matrices();
        let (k, n) = if form == Form::Forward { (inner, out) } else { (out, inner) };
        let (mut rest, mut tasks) = (y.data.of::<T>(), Vec::new());
        for expert in 0..self.plan.experts {
            let slots = routes.slots(expert);
            let (mine, others) = rest.split_at_mut(slots.len() * n);
            rest = others;
            if !slots.is_empty() {
                tasks.push((slots, rhs_of(w, expert, form, precision), mine));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(slots, w, y_of)| {
            let gemm = Gemm { m: slots.len(), n, k, precision, accumulate: y.accumulate };
            gemm.run(Mat::rows(&x[slots.start * k..slots.end * k], k), w, None, y_of);
        });
    }
}

impl ExpertLinear {
    fn products<T: Element>(&self, f: &mut Forward<'_>) {
        let [x, w, routes] = f.inputs else { unreachable!("three inputs") };
        let y = GradOut { data: f.output.reborrow(), accumulate: false };
        self.multiply::<T>(x.of(), w, Form::Forward, self.plan.read(routes.u32s()), f.precision, y);
    }

    fn gradients<T: Element>(&self, b: &mut Backward<'_>) {
        let [x, w, routes] = b.inputs else { unreachable!("three inputs") };
        let ([_, out, inner], routes) = (w.shape.matrices(), self.plan.read(routes.u32s()));
        if let Some(dx) = b.grads[0].take() {
            self.multiply::<T>(b.dy.of(), w, Form::Backward, routes, b.precision, dx);
        }
        if let Some(mut dw) = b.grads[1].take() {
            if !dw.accumulate {
                dw.data.f32s().fill(0.0);
            }
            let (x, dy, precision) = (x.of::<T>(), b.dy.of::<T>(), b.precision);
            dw.data.f32s().par_chunks_mut(out * inner).enumerate().with_max_len(1).for_each(|(expert, dw)| {
                let slots = routes.slots(expert);
                if !slots.is_empty() {
                    let gemm = Gemm { m: out, n: inner, k: slots.len(), precision, accumulate: true };
                    let x = Mat::rows(&x[slots.start * inner..slots.end * inner], inner);
                    gemm.run(Mat::rows(&dy[slots.start * out..slots.end * out], out).transposed(), Rhs::Plain(x), None, dw);
                }
            });
        }
    }
}

impl Op for ExpertLinear {
    fn name(&self) -> &'static str {
        "expert_linear"
    }
    fn class(&self) -> Class {
        Class::Product
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let [experts, out, inner] = *x[1].dims() else {
            return Err(ShapeError::new("expert_linear", format!("w is {}, not [experts, out, in]", x[1])));
        };
        ShapeError::check("expert_linear", "experts", ("routes", self.plan.experts), ("w", experts))?;
        ShapeError::check("expert_linear", "in", ("x", x[0].last()), ("w", inner))?;
        ShapeError::check("expert_linear", "rows", ("x", x[0].rows()), ("routes", self.plan.slots()))?;
        Ok(x[0].with_last(out))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (m, k, [experts, n, _]) = (x[0].rows() as u64, x[0].last() as u64, x[1].matrices().map(|d| d as u64));
        let bytes = 4 * (m * k + experts * k * n + m * n);
        Cost { forward_flops: 2 * m * n * k, backward_flops: 4 * m * n * k, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    /// All experts as one product, which is what a kernel over groups makes of them.
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        let [_, out, inner] = x[1].matrices();
        Some([x[0].rows(), out, inner])
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 2 { Gradient::None } else { Gradient::Computed }
    }
    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        let [experts, out, inner] = x[1].matrices();
        packs(x[0].rows().div_ceil(experts.max(1)), Shape::new(&[out, inner]), precision, pass == Pass::Backward)
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.products(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.gradients(b));
    }
}

impl Tape<'_> {
    /// `x` `[rows * per_row, in]`, which [`Tape::dispatch`] laid out, times each expert's `w` `[experts, out, in]` transposed.
    /// # Errors
    /// When `in`, the experts or the rows differ.
    pub fn expert_linear(&mut self, x: &Tensor, w: &Tensor, routes: &Routes) -> Result<Tensor, EngineError> {
        self.apply(ExpertLinear { plan: routes.plan }, &[x, w, &routes.table])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check, check::noise, ops::route::twin};

    #[test]
    fn agrees_with_its_differences_even_where_experts_have_no_rows() {
        for (rows, experts, per_row, inner, out) in [(1, 1, 1, 1, 1), (2, 5, 1, 5, 7), (3, 4, 2, 16, 33), (21, 3, 2, 9, 8)] {
            let logits = noise(7, rows * experts);
            check::gradients(
                &[Shape::new(&[rows * per_row, inner]), Shape::new(&[experts, out, inner])],
                |tape, [x, w]| {
                    let logits = tape.constant(Shape::new(&[rows, experts]), &logits)?;
                    let routes = tape.route(&logits, per_row)?;
                    tape.expert_linear(x, w, &routes)
                },
                |[x, w]| {
                    let slots = twin::slots(&logits, experts, per_row);
                    let cell = |slot: usize, o: usize| {
                        let w = &w[(slots[slot].0 * out + o) * inner..][..inner];
                        x[slot * inner..][..inner].iter().zip(w).map(|(x, w)| x * w).sum::<f64>()
                    };
                    (0..slots.len() * out).map(|at| cell(at / out, at % out)).collect()
                },
                1e-4,
            );
        }
    }
}
