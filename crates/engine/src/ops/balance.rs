//! Balance: the loss that keeps a router from sending all rows to few experts, `experts sum of f P` over the share `f` of choices
//! that fell to an expert and the mean `P` of its scores; *Switch Transformers*, arXiv:2101.03961, eq. 4-6, for any number of
//! choices. It is one where rows are spread evenly. The choice itself has no gradient, so `f` counts as a constant.
//!
//! Ranks that have other tokens of the same sequences exchange two numbers an expert, and each gives its share of the whole.
//! Saves the gradient of each expert's sum of scores `[experts]`.

use kernels::experts::{self, Scores};

use super::{Backward, Class, Cost, Forward, Gradient, Op, Routes, Saves, route::Plan};
use crate::{Axis, EngineError, Move, Shape, ShapeError, Tape, Tensor, Pass};

struct Balance {
    plan: Plan,
    scores: Scores,
    weight: f32,
    /// Ranks of the context axis.
    parts: usize,
}

impl Op for Balance {
    fn name(&self) -> &'static str {
        "balance"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        self.plan.fits("balance", x[0])?;
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 5, 1)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0], output: false, extras: vec![self.plan.experts] }
    }
    fn scratch(&self, _x: &[Shape], pass: Pass) -> usize {
        if pass == Pass::Backward { 0 } else { 2 * self.plan.experts * (self.parts + 1) }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 1 { Gradient::None } else { Gradient::Computed }
    }
    fn moves(&self, _x: &[Shape], pass: Pass) -> Option<(Axis, Move, usize)> {
        (self.parts > 1 && pass != Pass::Backward).then_some((Axis::Context, Move::Gather, 2 * self.plan.experts))
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let (experts, &[logits, routes]) = (self.plan.experts, f.inputs) else { unreachable!("two inputs") };
        let (mine, all) = f.scratch.split_at_mut(2 * experts);
        experts::loads(self.scores, logits.f32s(), self.plan.read(routes.u32s()), mine);
        f.partition.gather(Axis::Context, mine, all);
        let (rows, choices) = ((self.parts * self.plan.rows) as f32, (self.parts * self.plan.slots()) as f32);
        let sum = |at: usize| all.chunks_exact(2 * experts).map(|part| part[at]).sum::<f32>();
        let mut loss = 0.0;
        for (e, slope) in f.extras[0].f32s_mut().iter_mut().enumerate() {
            *slope = self.weight * experts as f32 * sum(e) / choices / rows;
            loss += *slope * sum(experts + e);
        }
        f.output.f32s()[0] = loss / self.parts as f32;
    }
    fn backward(&self, b: &mut Backward<'_>) {
        assert!(b.dy.f32s()[0] == 1.0, "balance: its gradient is {}, not 1: it is a loss", b.dy.f32s()[0]);
        if let Some(mut dlogits) = b.grads[0].take() {
            experts::loads_backward(self.scores, b.inputs[0].f32s(), b.extras[0].f32s(), dlogits.data.f32s(), dlogits.accumulate);
        }
    }
}

impl Tape<'_> {
    /// `coefficient` times the balance of `logits` `[.., experts]`, for each row as the head's loss counts its tokens. Ranks of the
    /// tensor axis see the same rows and share it.
    /// # Errors
    /// When `routes` were made of other logits.
    pub fn balance(&mut self, logits: &Tensor, routes: &Routes, scores: Scores, coefficient: f32) -> Result<Tensor, EngineError> {
        let (tensors, parts) = (self.place(Axis::Tensor).1, self.place(Axis::Context).1);
        let weight = coefficient * self.loss_scale() * (routes.plan.rows * parts) as f32 / tensors as f32;
        self.apply(Balance { plan: routes.plan, scores, weight, parts }, &[logits, &routes.table])
    }
}

#[cfg(test)]
mod tests {
    use kernels::experts::Scores;

    use crate::{Shape, check, ops::route::twin};

    #[test]
    fn agrees_with_its_differences_and_is_one_a_row_where_rows_are_even() {
        for (rows, experts, per_row) in [(1, 1, 1), (3, 5, 2), (70, 8, 3)] {
            for scores in [Scores::Softmax, Scores::Sigmoid] {
                check::gradients_of_loss(
                    &[Shape::new(&[rows, experts])],
                    |tape, [logits]| {
                        let routes = tape.route(logits, per_row)?;
                        tape.balance(logits, &routes, scores, 0.5)
                    },
                    |[logits]| {
                        let (mut f, mut p) = (vec![0.0; experts], vec![0.0; experts]);
                        for row in logits.chunks(experts) {
                            twin::chosen(row, per_row).into_iter().for_each(|e| f[e] += 1.0 / (rows * per_row) as f64);
                            let s = twin::scores(scores, row);
                            let sum: f64 = s.iter().sum();
                            p.iter_mut().zip(&s).for_each(|(p, s)| *p += s / sum / rows as f64);
                        }
                        0.5 * rows as f64 * experts as f64 * f.iter().zip(&p).map(|(f, p)| f * p).sum::<f64>()
                    },
                    1e-5,
                );
            }
        }
        // Every expert is chosen once by four rows, whatever the scores beside.
        let logits: Vec<f32> = (0..16).map(|i| if i / 4 == i % 4 { 3.0 } else { 0.0 }).collect();
        let (y, _) = check::run_one(&logits, Shape::new(&[4, 4]), |tape, logits| {
            let routes = tape.route(logits, 1)?;
            tape.balance(logits, &routes, Scores::Softmax, 0.25)
        });
        assert!((y[0] - 1.0).abs() < 1e-6, "{y:?}");
    }
}
