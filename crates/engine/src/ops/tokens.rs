//! Tokens shared out among the ranks of a tensor cut, and brought together: sequence parallelism, *Reducing Activation
//! Recomputation in Large Transformer Models*, arXiv:2205.05198, section 4.2.
//!
//! ```text
//! norm, residual: a run of the tokens on each rank   --gather_tokens-->   all tokens: products cut by heads, ffn, vocab
//!                                                    <--sum_tokens-----   partial sums of all tokens
//! ```
//! Each is the other's gradient. Without a cut both are their input itself.

use kernels::elementwise::add_assign;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{Axis, EngineError, Move, Shape, ShapeError, Tape, Tensor, Pass};

struct Gather {
    parts: usize,
}

struct Sum {
    parts: usize,
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather_tokens"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let [batch, seq, model] = axes(x[0])?;
        Ok(Shape::new(&[batch, seq * self.parts, model]))
    }
    fn cost(&self, _x: &[Shape]) -> Cost {
        Cost::default()
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn scratch(&self, x: &[Shape], _pass: Pass) -> usize {
        x[0].elements() * self.parts
    }
    fn moves(&self, x: &[Shape], pass: Pass) -> Option<(Axis, Move, usize)> {
        Some((Axis::Tensor, if pass == Pass::Backward { Move::Scatter } else { Move::Gather }, x[0].elements()))
    }
    fn forward(&self, f: &mut Forward<'_>) {
        f.partition.gather(Axis::Tensor, f.inputs[0].f32s(), f.scratch);
        turn(f.inputs[0].shape, self.parts, f.scratch, f.output.f32s(), Way::ToTokens, copy);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            turn(b.inputs[0].shape, self.parts, b.dy.f32s(), b.scratch, Way::ToRanks, copy);
            if dx.accumulate {
                // What is there goes along in this rank's own share of the sum.
                let (place, len) = (b.partition.place(Axis::Tensor).0, dx.data.f32s().len());
                add_assign(dx.data.f32s(), &mut b.scratch[place * len..][..len]);
            }
            b.partition.scatter(Axis::Tensor, b.scratch, dx.data.f32s());
        }
    }
}

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum_tokens"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let [batch, seq, model] = axes(x[0])?;
        if seq % self.parts != 0 {
            let problem = format!("`seq` is {seq}, no multiple of the {} ranks of the tensor axis", self.parts);
            return Err(ShapeError::new("sum_tokens", problem));
        }
        Ok(Shape::new(&[batch, seq / self.parts, model]))
    }
    fn cost(&self, _x: &[Shape]) -> Cost {
        Cost::default()
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn scratch(&self, x: &[Shape], _pass: Pass) -> usize {
        x[0].elements()
    }
    fn moves(&self, x: &[Shape], pass: Pass) -> Option<(Axis, Move, usize)> {
        Some((Axis::Tensor, if pass == Pass::Backward { Move::Gather } else { Move::Scatter }, x[0].elements() / self.parts))
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let part = self.part(f.inputs[0].shape);
        turn(part, self.parts, f.inputs[0].f32s(), f.scratch, Way::ToRanks, copy);
        f.partition.scatter(Axis::Tensor, f.scratch, f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            b.partition.gather(Axis::Tensor, b.dy.f32s(), b.scratch);
            let put = if dx.accumulate { add_assign } else { copy };
            turn(self.part(b.inputs[0].shape), self.parts, b.scratch, dx.data.f32s(), Way::ToTokens, put);
        }
    }
}

impl Sum {
    fn part(&self, whole: Shape) -> Shape {
        let [batch, seq, model] = *whole.dims() else { unreachable!("the shape rule wants three axes") };
        Shape::new(&[batch, seq / self.parts, model])
    }
}

fn axes(x: Shape) -> Result<[usize; 3], ShapeError> {
    x.dims().try_into().map_err(|_| ShapeError::new("tokens", format!("{x} is not [batch, seq, model]")))
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// `[rank, batch, seq / ranks, model]` to `[batch, seq, model]`
    ToTokens,
    ToRanks,
}

fn copy(from: &[f32], to: &mut [f32]) {
    to.copy_from_slice(from);
}

/// `part` is the shape of one rank's tokens; `put` brings a run of them to its place.
fn turn(part: Shape, parts: usize, from: &[f32], to: &mut [f32], way: Way, put: fn(&[f32], &mut [f32])) {
    let [batch, seq, model] = *part.dims() else { unreachable!("the shape rule wants three axes") };
    let run = seq * model;
    for (rank, b) in (0..parts).flat_map(|rank| (0..batch).map(move |b| (rank, b))) {
        let (by_rank, by_token) = ((rank * batch + b) * run, (b * parts + rank) * run);
        let (from_at, to_at) = if way == Way::ToTokens { (by_rank, by_token) } else { (by_token, by_rank) };
        put(&from[from_at..from_at + run], &mut to[to_at..to_at + run]);
    }
}

impl Tape<'_> {
    /// All tokens, from this rank's `x` `[batch, seq / ranks, model]`: `[batch, seq, model]`.
    /// # Errors
    /// When `x` has not three axes.
    pub fn gather_tokens(&mut self, x: &Tensor) -> Result<Tensor, EngineError> {
        match self.place(Axis::Tensor).1 {
            1 => Ok(x.clone()),
            parts => self.apply(Gather { parts }, &[x]),
        }
    }

    /// The sum over ranks of `x` `[batch, seq, model]`, this rank's tokens of it: `[batch, seq / ranks, model]`.
    /// # Errors
    /// When `x` has not three axes, or the ranks do not divide `seq`.
    pub fn sum_tokens(&mut self, x: &Tensor) -> Result<Tensor, EngineError> {
        match self.place(Axis::Tensor).1 {
            1 => Ok(x.clone()),
            parts => self.apply(Sum { parts }, &[x]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_ranks_are_put_in_the_order_of_sequences_and_back() {
        // Two ranks, two sequences of four tokens, one number each: sequence, token.
        let by_rank = [0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0];
        let (mut by_token, mut again) = ([0.0; 8], [0.0; 8]);
        let part = Shape::new(&[2, 2, 1]);
        turn(part, 2, &by_rank, &mut by_token, Way::ToTokens, copy);
        assert_eq!(by_token, [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
        turn(part, 2, &by_token, &mut again, Way::ToRanks, copy);
        assert_eq!(again, by_rank);
        turn(part, 2, &by_token, &mut again, Way::ToRanks, add_assign);
        assert_eq!(again, by_rank.map(|x| 2.0 * x));
    }
}
