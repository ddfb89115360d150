//! Rotary positions: pairs `(i, i + dim / 2)` of each head turn by `position * frequency[i]`, usually `theta^(-2i / dim)`;
//! *RoFormer*, arXiv:2104.09864, in the half-split order of Llama. The backward pass turns the other way; nothing is saved.

use std::sync::Arc;

use kernels::Element;

use super::{Advance, Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

/// Where tokens `[batch, seq]` stand in their sequences.
#[derive(Debug, Clone)]
pub enum Places {
    /// Each row begins here.
    From(usize),
    /// After those in a cache.
    After(Advance),
}

/// How heads turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Of each pair, radians a position.
    pub frequencies: Arc<[f64]>,
    /// What sines and cosines are multiplied by; 1 unless long contexts are stretched.
    pub factor: f32,
}

impl Rotary {
    /// The first `dim` numbers of a head, in pairs, by powers of `theta`.
    #[must_use]
    pub fn plain(dim: usize, theta: f32) -> Self {
        let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / dim as f64);
        Self { frequencies: (0..dim / 2).map(frequency).collect(), factor: 1.0 }
    }
}

struct Rope {
    head_dim: usize,
    places: Places,
    rotary: Rotary,
}

impl Rope {
    fn kernel(&self, x: Shape) -> kernels::rope::Rope<'_> {
        let [_, seq, width] = *x.dims() else { unreachable!("the shape rule wants three axes") };
        let (heads, head_dim) = (width / self.head_dim, self.head_dim);
        let places = match &self.places {
            Places::From(first) => kernels::rope::Places::From(*first),
            Places::After(advance) => kernels::rope::Places::Each(advance.places()),
        };
        kernels::rope::Rope { seq, heads, head_dim, places, frequencies: &self.rotary.frequencies, factor: self.rotary.factor }
    }
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        match *x[0].dims() {
            _ if 2 * self.rotary.frequencies.len() > self.head_dim => {
                Err(ShapeError::new("rope", format!("`head_dim` is {}, and {} pairs turn", self.head_dim, self.rotary.frequencies.len())))
            }
            [_, _, width] if width % self.head_dim == 0 => Ok(x[0]),
            _ => Err(ShapeError::new("rope", format!("x is {}, not [batch, seq, heads * {}]", x[0], self.head_dim))),
        }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let n = x[0].elements() as u64;
        Cost { forward_flops: 3 * n, backward_flops: 3 * n, forward_bytes: 8 * n, backward_bytes: 8 * n }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn reads_bf16(&self) -> &'static [usize] {
        &[0]
    }
    fn forward(&self, f: &mut Forward<'_>) {
        by_dtype!(self.turned(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        by_dtype!(self.turned_back(b));
    }
}

impl Rope {
    fn turned<T: Element>(&self, f: &mut Forward<'_>) {
        self.kernel(f.inputs[0].shape).run::<T>(f.inputs[0].of(), f.output.of(), false, false);
    }

    fn turned_back<T: Element>(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            self.kernel(b.inputs[0].shape).run::<T>(b.dy.of(), dx.data.of(), true, dx.accumulate);
        }
    }
}

impl Tape<'_> {
    /// Turn `x` `[batch, seq, heads * head_dim]`, whose rows stand at `places`.
    /// # Errors
    /// When `head_dim` has fewer pairs than turn, or does not divide the last axis.
    pub fn rope(&mut self, x: &Tensor, head_dim: usize, places: &Places, rotary: &Rotary) -> Result<Tensor, EngineError> {
        self.apply(Rope { head_dim, places: places.clone(), rotary: rotary.clone() }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, Rotary};
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for (batch, seq, heads, head_dim, turned, offset) in [(1, 1, 1, 2, 2, 0), (2, 5, 3, 6, 6, 0), (1, 3, 2, 16, 16, 7), (2, 3, 2, 16, 6, 2)] {
            check::gradients(
                &[Shape::new(&[batch, seq, heads * head_dim])],
                move |tape, [x]| tape.rope(x, head_dim, &Places::From(offset), &Rotary::plain(turned, 100.0)),
                |[x]| {
                    let mut y = x.clone();
                    for (r, row) in x.chunks(heads * head_dim).enumerate() {
                        let position = (r % seq + offset) as f64;
                        for h in 0..heads {
                            for i in 0..turned / 2 {
                                let angle = position * 100f64.powf(-2.0 * i as f64 / turned as f64);
                                let at = h * head_dim + i;
                                let (a, b) = (row[at], row[at + turned / 2]);
                                let out = &mut y[r * heads * head_dim..];
                                out[at] = a * angle.cos() - b * angle.sin();
                                out[at + turned / 2] = b * angle.cos() + a * angle.sin();
                            }
                        }
                    }
                    y
                },
                1e-4,
            );
        }
    }
}
