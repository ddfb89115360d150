//! Heads put together of parts, and made wider or narrower: what latent attention (arXiv:2405.04434, section 2.1) lays out before
//! attention reads it.
//!
//! ```text
//! join    [.., heads * a], [.., heads * b] or [.., b] -> [.., heads * (a + b)]     of each head its own, or one for all
//! resize  [.., heads * from] -> [.., heads * to]                                   zeros behind, or the end left out
//! ```

use super::{Backward, Class, Cost, Forward, GradOut, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Join {
    widths: [usize; 2],
}

struct Resize {
    from: usize,
    to: usize,
}

fn heads(op: &'static str, x: Shape, width: usize) -> Result<usize, ShapeError> {
    if width == 0 || !x.last().is_multiple_of(width) {
        return Err(ShapeError::new(op, format!("{x} is not [.., heads * {width}]")));
    }
    Ok(x.last() / width)
}

/// Reads and writes each number once.
fn copied(elements: usize) -> Cost {
    let bytes = 8 * elements as u64;
    Cost { forward_bytes: bytes, backward_bytes: bytes, ..Cost::default() }
}

impl Op for Join {
    fn name(&self) -> &'static str {
        "join_heads"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let [a, b] = self.widths;
        let count = heads("join_heads", x[0], a)?;
        ShapeError::check("join_heads", "rows", ("a", x[0].rows()), ("b", x[1].rows()))?;
        if x[1].last() != b {
            ShapeError::check("join_heads", "heads", ("a", count), ("b", heads("join_heads", x[1], b)?))?;
        }
        Ok(x[0].with_last(count * (a + b)))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        copied(x[0].elements() / self.widths[0] * (self.widths[0] + self.widths[1]))
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [a, b] = self.widths;
        let (count, is_shared) = (f.inputs[0].shape.last() / a, f.inputs[1].shape.last() == b);
        for (head, y) in f.output.f32s().chunks_exact_mut(a + b).enumerate() {
            let of_b = if is_shared { head / count } else { head };
            y[..a].copy_from_slice(&f.inputs[0].f32s()[head * a..][..a]);
            y[a..].copy_from_slice(&f.inputs[1].f32s()[of_b * b..][..b]);
        }
    }
    fn backward(&self, back: &mut Backward<'_>) {
        let [a, b] = self.widths;
        let (count, is_shared) = (back.inputs[0].shape.last() / a, back.inputs[1].shape.last() == b);
        let mut grads = back.take_grads::<2>();
        for grad in grads.iter_mut().flatten().filter(|grad| !grad.accumulate) {
            grad.data.f32s().fill(0.0);
        }
        let [mut da, mut db] = grads;
        for (head, dy) in back.dy.f32s().chunks_exact(a + b).enumerate() {
            let of_b = if is_shared { head / count } else { head };
            let add = |grad: &mut Option<GradOut<'_>>, at: usize, dy: &[f32]| {
                if let Some(grad) = grad {
                    grad.data.f32s()[at..at + dy.len()].iter_mut().zip(dy).for_each(|(d, dy)| *d += dy);
                }
            };
            add(&mut da, head * a, &dy[..a]);
            add(&mut db, of_b * b, &dy[a..]);
        }
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize_heads"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(x[0].with_last(heads("resize_heads", x[0], self.from)? * self.to))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        copied(x[0].elements() / self.from * self.to)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let both = self.from.min(self.to);
        for (y, x) in f.output.f32s().chunks_exact_mut(self.to).zip(f.inputs[0].f32s().chunks_exact(self.from)) {
            y[..both].copy_from_slice(&x[..both]);
            y[both..].fill(0.0);
        }
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let both = self.from.min(self.to);
        if let [Some(mut dx)] = b.take_grads() {
            for (dx_of, dy) in dx.data.f32s().chunks_exact_mut(self.from).zip(b.dy.f32s().chunks_exact(self.to)) {
                if !dx.accumulate {
                    dx_of.fill(0.0);
                }
                dx_of[..both].iter_mut().zip(&dy[..both]).for_each(|(dx, dy)| *dx += dy);
            }
        }
    }
}

impl Tape<'_> {
    /// Heads `a` and `b` wide side by side: of `x` `[.., heads * a]` and of `y` `[.., heads * b]`, or `[.., b]` for all heads alike.
    /// # Errors
    /// When they have other rows or heads.
    pub fn join_heads(&mut self, x: &Tensor, y: &Tensor, widths: [usize; 2]) -> Result<Tensor, EngineError> {
        self.apply(Join { widths }, &[x, y])
    }

    /// `x` `[.., heads * from]` as `[.., heads * to]`; `x` itself where that is the same.
    /// # Errors
    /// When `x` has no whole heads.
    pub fn resize_heads(&mut self, x: &Tensor, from: usize, to: usize) -> Result<Tensor, EngineError> {
        if from == to { Ok(x.clone()) } else { self.apply(Resize { from, to }, &[x]) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn each_agrees_with_its_differences() {
        for (rows, heads, a, b) in [(1, 1, 1, 1), (3, 2, 5, 4), (7, 4, 16, 3)] {
            for of_b in [heads, 1] {
                check::gradients(
                    &[Shape::new(&[rows, heads * a]), Shape::new(&[rows, of_b * b])],
                    |tape, [x, y]| tape.join_heads(x, y, [a, b]),
                    |[x, y]| {
                        let head = |at: usize| {
                            let (row, head) = (at / heads, at % heads);
                            let second = if of_b == 1 { row } else { row * heads + head };
                            [&x[at * a..][..a], &y[second * b..][..b]].concat()
                        };
                        (0..rows * heads).flat_map(head).collect()
                    },
                    1e-5,
                );
            }
            for to in [a, a + 3, a.div_ceil(2)] {
                check::gradients(
                    &[Shape::new(&[rows, heads * a])],
                    |tape, [x]| tape.resize_heads(x, a, to),
                    |[x]| x.chunks(a).flat_map(|x| (0..to).map(|i| x.get(i).copied().unwrap_or(0.0)).collect::<Vec<_>>()).collect(),
                    1e-5,
                );
            }
        }
    }
}
