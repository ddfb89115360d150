//! Arrays side by side and one below the other, and some columns of one: what skip connections, class tokens and projections
//! that serve several ends are made with.

use std::ops::Range;

use kernels::elementwise::put;
use rayon::prelude::*;

use super::{Backward, Class, Cost, Forward, GradOut, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

/// Rows in one task, at least.
const ROWS: usize = 64;

/// Along the innermost axis.
struct Concat;

/// All rows of the first, then all of the second.
struct Stack;

struct Columns(Range<usize>);

/// Read and write it once.
fn copied(elements: usize) -> Cost {
    let bytes = 8 * elements as u64;
    Cost { forward_bytes: bytes, backward_bytes: bytes, ..Cost::default() }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("concat", "rows", ("a", x[0].rows()), ("b", x[1].rows()))?;
        Ok(x[0].with_last(x[0].last() + x[1].last()))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        copied(x[0].elements() + x[1].elements())
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [a, b] = f.inputs else { unreachable!("two inputs") };
        let (left, right) = (a.shape.last(), b.shape.last());
        let rows = a.f32s().par_chunks_exact(left).zip(b.f32s().par_chunks_exact(right));
        f.output.f32s().par_chunks_exact_mut(left + right).zip(rows).with_min_len(ROWS).for_each(|(y, (a, b))| {
            y[..left].copy_from_slice(a);
            y[left..].copy_from_slice(b);
        });
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let (left, right) = (b.inputs[0].shape.last(), b.inputs[1].shape.last());
        for (grad, columns) in b.grads.iter_mut().zip([0..left, left..left + right]) {
            let Some(GradOut { mut data, accumulate }) = grad.take() else { continue };
            let rows = data.f32s().par_chunks_exact_mut(columns.len()).zip(b.dy.f32s().par_chunks_exact(left + right));
            rows.with_min_len(ROWS).for_each(|(to, dy)| put(&dy[columns.clone()], to, accumulate));
        }
    }
}

impl Op for Stack {
    fn name(&self) -> &'static str {
        "stack"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("stack", "model", ("a", x[0].last()), ("b", x[1].last()))?;
        Ok(Shape::new(&[x[0].rows() + x[1].rows(), x[0].last()]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        copied(x[0].elements() + x[1].elements())
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let (above, below) = f.output.f32s().split_at_mut(f.inputs[0].shape.elements());
        above.copy_from_slice(f.inputs[0].f32s());
        below.copy_from_slice(f.inputs[1].f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let (above, below) = b.dy.f32s().split_at(b.inputs[0].shape.elements());
        for (grad, dy) in b.grads.iter_mut().zip([above, below]) {
            if let Some(mut grad) = grad.take() {
                put(dy, grad.data.f32s(), grad.accumulate);
            }
        }
    }
}

impl Op for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if self.0.is_empty() || self.0.end > x[0].last() {
            return Err(ShapeError::new("columns", format!("{} has no columns {:?}", x[0], self.0)));
        }
        Ok(x[0].with_last(self.0.len()))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        copied(x[0].rows() * self.0.len())
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let rows = f.inputs[0].f32s().chunks_exact(f.inputs[0].shape.last());
        f.output.f32s().chunks_exact_mut(self.0.len()).zip(rows).for_each(|(y, x)| y.copy_from_slice(&x[self.0.clone()]));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            if !dx.accumulate {
                dx.data.f32s().fill(0.0);
            }
            for (to, dy) in dx.data.f32s().chunks_exact_mut(b.inputs[0].shape.last()).zip(b.dy.f32s().chunks_exact(self.0.len())) {
                put(dy, &mut to[self.0.clone()], true);
            }
        }
    }
}

impl Tape<'_> {
    /// `a` `[.., left]` and `b` `[.., right]` side by side: `[.., left + right]`.
    /// # Errors
    /// When their rows differ.
    pub fn concat(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Concat, &[a, b])
    }

    /// The rows of `a` and below them those of `b`, both `[.., model]`: `[rows, model]`, to be picked from by
    /// [`Tape::embedding`].
    /// # Errors
    /// When `model` differs.
    pub fn stack(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Stack, &[a, b])
    }

    /// Some columns of `x`.
    /// # Errors
    /// When it has none such.
    pub fn columns(&mut self, x: &Tensor, columns: Range<usize>) -> Result<Tensor, EngineError> {
        self.apply(Columns(columns), &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn each_agrees_with_its_differences() {
        let (left, right) = (Shape::new(&[2, 3, 5]), Shape::new(&[2, 3, 4]));
        check::gradients(
            &[left, right],
            |tape, [a, b]| tape.concat(a, b),
            |[a, b]| a.chunks(5).zip(b.chunks(4)).flat_map(|(a, b)| [a, b].concat()).collect(),
            1e-5,
        );
        check::gradients(
            &[Shape::new(&[2, 4]), Shape::new(&[1, 3, 4])],
            |tape, [a, b]| tape.stack(a, b),
            |[a, b]| [&a[..], &b[..]].concat(),
            1e-5,
        );
        check::gradients(
            &[left],
            |tape, [x]| {
                let (a, b) = (tape.columns(x, 1..3)?, tape.columns(x, 3..5)?);
                tape.add(&a, &b)
            },
            |[x]| x.chunks(5).flat_map(|x| [x[1] + x[3], x[2] + x[4]]).collect(),
            1e-5,
        );
    }

    #[test]
    fn columns_that_are_not_there_are_refused() {
        let run = |columns: std::ops::Range<usize>| std::panic::catch_unwind(|| check::run_one(&[1.0, 2.0], Shape::new(&[1, 2]), |tape, x| tape.columns(x, columns.clone())));
        assert!(run(1..3).is_err() && run(0..2).is_ok());
    }
}
