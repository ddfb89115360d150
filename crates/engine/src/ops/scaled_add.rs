//! A learned share of another value: `y = a + w b`, `w` one number. Value residuals (arXiv:2410.17897) and the residual
//! of the embedding in every layer are made of it. The gradient of `a` is `dy` itself.

use super::{Backward, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct ScaledAdd;

impl Op for ScaledAdd {
    fn name(&self) -> &'static str {
        "scaled_add"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if x[0] != x[1] {
            return Err(ShapeError::new("scaled_add", format!("a is {} and b is {}", x[0], x[1])));
        }
        ShapeError::check("scaled_add", "share", ("w", x[2].elements()), ("one number", 1))?;
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let n = x[0].elements() as u64;
        Cost { forward_flops: 2 * n, backward_flops: 3 * n, forward_bytes: 12 * n, backward_bytes: 12 * n }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[1, 2], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 0 { Gradient::Same } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        f.output.copy_from_slice(f.inputs[0].f32s());
        kernels::elementwise::add_scaled(f.inputs[2].f32s()[0], f.inputs[1].f32s(), f.output);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let share = b.inputs[2].f32s()[0];
        let [_, db, dw] = b.take_grads();
        if let Some(db) = db {
            if !db.accumulate {
                db.data.fill(0.0);
            }
            kernels::elementwise::add_scaled(share, b.dy, db.data);
        }
        if let Some(dw) = dw {
            let before = if dw.accumulate { dw.data[0] } else { 0.0 };
            dw.data[0] = before + kernels::elementwise::sum_products(b.inputs[1].f32s(), b.dy) as f32;
        }
    }
}

impl Tape<'_> {
    /// `a + w b`: `a` and `b` of one shape, `w` `[1]`.
    /// # Errors
    /// When the shapes differ.
    pub fn scaled_add(&mut self, a: &Tensor, b: &Tensor, w: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(ScaledAdd, &[a, b, w])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for n in [1, 5, 67] {
            check::gradients(
                &[Shape::new(&[n]), Shape::new(&[n]), Shape::new(&[1])],
                |tape, [a, b, w]| tape.scaled_add(a, b, w),
                |[a, b, w]| a.iter().zip(b).map(|(a, b)| a + w[0] * b).collect(),
                1e-5,
            );
        }
    }
}
