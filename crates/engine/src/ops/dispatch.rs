//! Dispatch: each row once for every expert that it goes to, the rows of one expert side by side.
//! Backward, a row takes the sum of what its copies got.

use kernels::experts;

use super::{Backward, Class, Cost, Forward, Gradient, Op, Routes, Saves, route::Plan};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Dispatch {
    plan: Plan,
}

impl Op for Dispatch {
    fn name(&self) -> &'static str {
        "dispatch"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("dispatch", "rows", ("x", x[0].rows()), ("routes", self.plan.rows))?;
        Ok(Shape::new(&[self.plan.slots(), x[0].last()]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (rows, slots) = (x[0].bytes(), x[0].bytes() * self.plan.per_row as u64);
        let backward_flops = (self.plan.slots() * x[0].last()) as u64;
        Cost { forward_flops: 0, backward_flops, forward_bytes: rows + slots, backward_bytes: rows + slots }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[1], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 1 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        experts::dispatch(f.inputs[0].f32s(), f.inputs[0].shape.last(), self.plan.read(f.inputs[1].u32s()), f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dx) = b.grads[0].take() {
            let routes = self.plan.read(b.inputs[1].u32s());
            experts::dispatch_backward(b.dy.f32s(), b.inputs[0].shape.last(), routes, dx.data.f32s(), dx.accumulate);
        }
    }
}

impl Tape<'_> {
    /// Rows of `x` `[.., model]` brought to their experts: `[rows * per_row, model]`, expert after expert.
    /// # Errors
    /// When `x` has other rows than those that were routed.
    pub fn dispatch(&mut self, x: &Tensor, routes: &Routes) -> Result<Tensor, EngineError> {
        self.apply(Dispatch { plan: routes.plan }, &[x, &routes.table])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check, check::noise, ops::route::twin};

    #[test]
    fn agrees_with_its_differences() {
        for (rows, experts, per_row, model) in [(1, 1, 1, 1), (3, 5, 2, 7), (70, 8, 3, 16)] {
            let logits = noise(7, rows * experts);
            check::gradients(
                &[Shape::new(&[rows, model])],
                |tape, [x]| {
                    let logits = tape.constant(Shape::new(&[rows, experts]), &logits)?;
                    let routes = tape.route(&logits, per_row)?;
                    tape.dispatch(x, &routes)
                },
                |[x]| twin::slots(&logits, experts, per_row).iter().flat_map(|(_, row, _)| x[row * model..][..model].to_vec()).collect(),
                1e-5,
            );
        }
    }
}
