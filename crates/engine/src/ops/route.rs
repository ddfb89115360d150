//! Route: each row's choice of experts, those with its largest logits, as a table that the other ops of a mixture read. None is
//! dropped, so the table and all that follows from it have one size however rows fall. The choice has no gradient.

use kernels::experts;

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{Dtype, EngineError, Shape, ShapeError, Tape, Tensor};

/// Where rows go, for the ops of one mixture.
#[derive(Clone)]
pub struct Routes {
    pub(super) table: Tensor,
    pub(super) plan: Plan,
}

/// The sizes of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub rows: usize,
    pub experts: usize,
    pub per_row: usize,
}

impl Plan {
    /// As many as choices: a run of them for each expert.
    pub fn slots(self) -> usize {
        self.rows * self.per_row
    }

    /// That `logits` are those that were routed, or as many.
    pub fn fits(self, op: &'static str, logits: Shape) -> Result<(), ShapeError> {
        ShapeError::check(op, "experts", ("logits", logits.last()), ("routes", self.experts))?;
        ShapeError::check(op, "rows", ("logits", logits.rows()), ("routes", self.rows))
    }

    pub fn read(self, words: &[u32]) -> experts::Routes<'_> {
        experts::Routes::new(words, self.experts, self.per_row)
    }
}

struct Route {
    plan: Plan,
    limit: Option<experts::Limit>,
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, _x: &[Shape]) -> Result<Shape, ShapeError> {
        let Plan { experts, per_row, .. } = self.plan;
        if !(1..=experts).contains(&per_row) {
            return Err(ShapeError::new("route", format!("a row cannot go to {per_row} of {experts} `experts`")));
        }
        if let Some(limit) = self.limit
            && (limit.groups == 0 || experts % limit.groups != 0 || !(1..=limit.groups).contains(&limit.top_groups))
        {
            let problem = format!("a row cannot go to {} of {} groups of {experts} `experts`", limit.top_groups, limit.groups);
            return Err(ShapeError::new("route", problem));
        }
        Ok(Shape::new(&[experts::Routes::words(self.plan.slots(), experts)]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost { forward_bytes: x[0].bytes() + 24 * self.plan.slots() as u64, ..Cost::default() }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn writes(&self) -> Option<Dtype> {
        Some(Dtype::U32)
    }
    fn gradient(&self, _input: usize) -> Gradient {
        Gradient::None
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let bias = f.inputs.get(1).map_or(&[][..], |bias| bias.f32s());
        let limit = self.limit.map(|limit| (limit, bias));
        experts::route(f.inputs[0].f32s(), self.plan.experts, self.plan.per_row, limit, bytemuck::cast_slice_mut(f.output.f32s()));
    }
    fn backward(&self, _b: &mut Backward<'_>) {}
}

impl Tape<'_> {
    /// Send each row of `logits` `[.., experts]` to the `per_row` experts with the largest.
    /// # Errors
    /// When there are not so many experts.
    pub fn route(&mut self, logits: &Tensor, per_row: usize) -> Result<Routes, EngineError> {
        self.routed(&[logits], per_row, None)
    }

    /// The same by `limit`, with `bias` `[experts]` on the scores, which has no gradient.
    /// # Errors
    /// When there are not so many experts or groups.
    pub fn route_limited(&mut self, logits: &Tensor, per_row: usize, limit: experts::Limit, bias: Option<&Tensor>) -> Result<Routes, EngineError> {
        match bias {
            Some(bias) => self.routed(&[logits, bias], per_row, Some(limit)),
            None => self.routed(&[logits], per_row, Some(limit)),
        }
    }

    fn routed(&mut self, inputs: &[&Tensor], per_row: usize, limit: Option<experts::Limit>) -> Result<Routes, EngineError> {
        let logits = inputs[0].shape();
        let plan = Plan { rows: logits.rows(), experts: logits.last(), per_row };
        Ok(Routes { table: self.apply(Route { plan, limit }, inputs)?, plan })
    }
}

/// The choice and its scores in f64, for the tests of the ops that read a table.
#[cfg(test)]
pub(super) mod twin {
    use kernels::experts::Scores;

    pub fn chosen<T: PartialOrd + Copy>(logits: &[T], per_row: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap());
        order.truncate(per_row);
        order
    }

    pub fn scores(scores: Scores, logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        logits.iter().map(|l| if scores == Scores::Softmax { l.exp() / sum } else { 1.0 / (1.0 + (-l).exp()) }).collect()
    }

    /// Of each slot its expert, its row, and which of the row's choices it is.
    pub fn slots(logits: &[f32], experts: usize, per_row: usize) -> Vec<(usize, usize, usize)> {
        let of_row = |(row, logits): (usize, &[f32])| chosen(logits, per_row).into_iter().enumerate().map(move |(i, e)| (e, row, i)).collect::<Vec<_>>();
        let mut slots: Vec<_> = logits.chunks(experts).enumerate().flat_map(of_row).collect();
        slots.sort_by_key(|(expert, row, _)| (*expert, *row));
        slots
    }
}

#[cfg(test)]
mod tests {
    use crate::{Device, NoParams, Options, ParamTable, Pool, Precision, Shape, Tape};

    #[test]
    fn more_experts_than_there_are_is_refused_by_the_shape_rule() {
        let (table, mut store, pool) = (ParamTable::default(), NoParams, Pool::new(Device::Cpu, 1 << 16));
        let options = Options { precision: Precision::F32, recompute: false, train: true, key: 0, trace: false };
        let mut tape = Tape::new(&pool, &mut store, &table, options);
        let logits = tape.leaf(Shape::new(&[1, 3]), &[0.0; 3], true).unwrap();
        let error = tape.route(&logits, 4).err().unwrap().to_string();
        assert_eq!(error, "route: a row cannot go to 4 of 3 `experts`");
    }
}
