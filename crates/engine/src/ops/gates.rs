//! Gates: the weight of each of a row's experts, from the router's logits. Reads them again instead of saving scores.
//!
//! ```text
//! softmax, not normalised    OLMoE (arXiv:2409.02060), DeepSeek-V2 (arXiv:2405.04434, eq. 20-22, with a scale)
//! softmax, normalised        Mixtral (arXiv:2401.04088, section 2.1), Qwen3
//! sigmoid, normalised        DeepSeek-V3 (arXiv:2412.19437, eq. 12-15, with a scale)
//! ```

use kernels::experts::{self, Gating};

use super::{Backward, Class, Cost, Forward, Gradient, Op, Routes, Saves, route::Plan};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Gates {
    plan: Plan,
    gating: Gating,
}

impl Op for Gates {
    fn name(&self) -> &'static str {
        "gates"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        self.plan.fits("gates", x[0])?;
        Ok(Shape::new(&[self.plan.rows, self.plan.per_row]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 5, 1)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 1 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        experts::gates(self.gating, f.inputs[0].f32s(), self.plan.read(f.inputs[1].u32s()), f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dlogits) = b.grads[0].take() {
            let routes = self.plan.read(b.inputs[1].u32s());
            experts::gates_backward(self.gating, b.inputs[0].f32s(), routes, b.dy.f32s(), dlogits.data.f32s(), dlogits.accumulate);
        }
    }
}

impl Tape<'_> {
    /// The weight of each choice `[rows, per_row]`, from the `logits` `[.., experts]` that `routes` were made of.
    /// # Errors
    /// When they are others.
    pub fn gates(&mut self, logits: &Tensor, routes: &Routes, gating: Gating) -> Result<Tensor, EngineError> {
        self.apply(Gates { plan: routes.plan, gating }, &[logits, &routes.table])
    }
}

#[cfg(test)]
mod tests {
    use kernels::experts::{Gating, Scores};

    use crate::{Shape, check, ops::route::twin};

    #[test]
    fn agrees_with_its_differences_in_every_way_of_scoring() {
        for (rows, experts, per_row) in [(1, 1, 1), (3, 5, 2), (70, 8, 3), (2, 17, 17)] {
            for (scores, is_normalised, scale) in
                [(Scores::Softmax, false, 1.0), (Scores::Softmax, true, 1.0), (Scores::Sigmoid, true, 2.5), (Scores::Sigmoid, false, 1.0)]
            {
                check::gradients(
                    &[Shape::new(&[rows, experts])],
                    |tape, [logits]| {
                        let routes = tape.route(logits, per_row)?;
                        tape.gates(logits, &routes, Gating { scores, is_normalised, scale })
                    },
                    |[logits]| {
                        let row = |logits: &[f64]| {
                            let p = twin::scores(scores, logits);
                            let mut gates: Vec<f64> = twin::chosen(logits, per_row).into_iter().map(|e| p[e]).collect();
                            let sum: f64 = if is_normalised { gates.iter().sum() } else { 1.0 };
                            gates.iter_mut().for_each(|gate| *gate *= f64::from(scale) / sum);
                            gates
                        };
                        logits.chunks(experts).flat_map(row).collect()
                    },
                    2e-5,
                );
            }
        }
    }
}
