//! Combine: a row's sum of what its experts made of it, each times its gate. Backward: `dx[slot] = gate dy[row]`,
//! `dgate = x[slot] . dy[row]`.

use kernels::experts;

use super::{Backward, Class, Cost, Forward, Gradient, Op, Routes, Saves, route::Plan};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Combine {
    plan: Plan,
}

impl Op for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("combine", "rows", ("x", x[0].rows()), ("routes", self.plan.slots()))?;
        ShapeError::check("combine", "rows", ("gates", x[1].elements()), ("routes", self.plan.slots()))?;
        Ok(Shape::new(&[self.plan.rows, x[0].last()]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (n, slots, rows) = (x[0].elements() as u64, x[0].bytes(), x[0].bytes() / self.plan.per_row as u64);
        Cost { forward_flops: 2 * n, backward_flops: 3 * n, forward_bytes: slots + rows, backward_bytes: 2 * slots + rows }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 2 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, gates, routes] = f.inputs else { unreachable!("three inputs") };
        experts::combine(x.f32s(), gates.f32s(), x.shape.last(), self.plan.read(routes.u32s()), f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [x, gates, routes] = b.inputs else { unreachable!("three inputs") };
        let (width, routes) = (x.shape.last(), self.plan.read(routes.u32s()));
        if let Some(mut dx) = b.grads[0].take() {
            experts::combine_backward(b.dy.f32s(), gates.f32s(), width, routes, dx.data.f32s(), dx.accumulate);
        }
        if let Some(mut dgates) = b.grads[1].take() {
            experts::combine_gates(x.f32s(), b.dy.f32s(), width, routes, dgates.data.f32s(), dgates.accumulate);
        }
    }
}

impl Tape<'_> {
    /// From `x` `[rows * per_row, model]`, which [`Tape::dispatch`] laid out, and `gates` `[rows, per_row]`: `[rows, model]`.
    /// # Errors
    /// When either has other rows than those that were routed.
    pub fn combine(&mut self, x: &Tensor, gates: &Tensor, routes: &Routes) -> Result<Tensor, EngineError> {
        self.apply(Combine { plan: routes.plan }, &[x, gates, &routes.table])
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
                &[Shape::new(&[rows * per_row, model]), Shape::new(&[rows, per_row])],
                |tape, [x, gates]| {
                    let logits = tape.constant(Shape::new(&[rows, experts]), &logits)?;
                    let routes = tape.route(&logits, per_row)?;
                    tape.combine(x, gates, &routes)
                },
                |[x, gates]| {
                    let mut y = vec![0.0; rows * model];
                    for (slot, (_, row, choice)) in twin::slots(&logits, experts, per_row).into_iter().enumerate() {
                        for c in 0..model {
                            y[row * model + c] += gates[row * per_row + choice] * x[slot * model + c];
                        }
                    }
                    y
                },
                2e-5,
            );
        }
    }
}
