//! A scale and a shift for each sample and channel: `y = (base + scale) x + shift`; FiLM, arXiv:1709.07871. With base 1 it is
//! the adaptive norm of diffusion transformers (arXiv:2212.09748), with base 0 their gate, and with a shift alone the way in
//! which a U-Net is told the time.

use rayon::prelude::*;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Modulate {
    base: f32,
    has_scale: bool,
    has_shift: bool,
}

impl Modulate {
    /// Places of scale and shift among the inputs.
    fn places(&self) -> [Option<usize>; 2] {
        [self.has_scale.then_some(1), self.has_shift.then_some(1 + usize::from(self.has_scale))]
    }
}

impl Op for Modulate {
    fn name(&self) -> &'static str {
        "modulate"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        for of in &x[1..] {
            ShapeError::check("modulate", "batch", ("x", x[0].dims()[0]), ("scale or shift", of.dims()[0]))?;
            ShapeError::check("modulate", "channels", ("x", x[0].dims()[0] * x[0].last()), ("scale or shift", of.elements()))?;
        }
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), x.len() as u64 - 1, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        // A shift alone reads nothing again.
        Saves { inputs: if self.has_scale { &[0, 1] } else { &[] }, ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let (x, shape, base) = (f.inputs[0].f32s(), f.inputs[0].shape, self.base);
        let [scale, shift] = self.places().map(|at| at.map(|at| f.inputs[at].f32s()));
        let (sample, channels) = (shape.elements() / shape.dims()[0], shape.last());
        f.output.f32s().par_chunks_mut(sample).zip(x.par_chunks(sample)).enumerate().for_each(|(n, (y, x))| {
            let [scale, shift] = [scale, shift].map(|of| of.map(|of| &of[n * channels..][..channels]));
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    y[c] = (base + scale.map_or(0.0, |s| s[c])) * x[c] + shift.map_or(0.0, |s| s[c]);
                }
            }
        });
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let (shape, base, dy) = (b.inputs[0].shape, self.base, b.dy.f32s());
        let (sample, channels) = (shape.elements() / shape.dims()[0], shape.last());
        let x = b.inputs[0].f32s();
        let [scale_at, shift_at] = self.places();
        let scale = scale_at.map(|at| b.inputs[at].f32s());
        if let Some(mut dx) = b.grads[0].take() {
            dx.data.f32s().par_chunks_mut(sample).zip(dy.par_chunks(sample)).enumerate().for_each(|(n, (to, dy))| {
                let factors: Vec<f32> = (0..channels).map(|c| base + scale.map_or(0.0, |s| s[n * channels + c])).collect();
                for (to, dy) in to.chunks_exact_mut(channels).zip(dy.chunks_exact(channels)) {
                    for ((to, dy), factor) in to.iter_mut().zip(dy).zip(&factors) {
                        let new = factor * dy;
                        *to = if dx.accumulate { *to + new } else { new };
                    }
                }
            });
        }
        // Sums over the pixels of each sample, in their order.
        for (at, is_scale) in [(scale_at, true), (shift_at, false)] {
            let Some(mut grad) = at.and_then(|at| b.grads[at].take()) else { continue };
            if !grad.accumulate {
                grad.data.f32s().fill(0.0);
            }
            grad.data.f32s().par_chunks_mut(channels).enumerate().for_each(|(n, to)| {
                let own = n * sample..(n + 1) * sample;
                if is_scale {
                    for (dy, x) in dy[own.clone()].chunks_exact(channels).zip(x[own].chunks_exact(channels)) {
                        to.iter_mut().zip(dy).zip(x).for_each(|((to, dy), x)| *to += dy * x);
                    }
                } else {
                    dy[own].chunks_exact(channels).for_each(|dy| to.iter_mut().zip(dy).for_each(|(to, dy)| *to += dy));
                }
            });
        }
    }
}

impl Tape<'_> {
    /// `(base + scale) x + shift`: `x` `[batch, .., channels]`, `scale` and `shift` `[batch, channels]` or none.
    /// # Errors
    /// When `batch` or `channels` differ.
    pub fn modulate(&mut self, x: &Tensor, base: f32, scale: Option<&Tensor>, shift: Option<&Tensor>) -> Result<Tensor, EngineError> {
        let op = Modulate { base, has_scale: scale.is_some(), has_shift: shift.is_some() };
        let inputs: Vec<&Tensor> = [Some(x), scale, shift].into_iter().flatten().collect();
        self.apply(op, &inputs)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences_with_and_without_each() {
        for (batch, pixels, channels) in [(1, 1, 1), (2, 3, 5), (3, 4, 16)] {
            let (x, s) = (Shape::new(&[batch, pixels, channels]), Shape::new(&[batch, channels]));
            let of = move |at: usize| at / (pixels * channels) * channels + at % channels;
            check::gradients(
                &[x, s, s],
                |tape, [x, scale, shift]| tape.modulate(x, 1.0, Some(scale), Some(shift)),
                |[x, scale, shift]| x.iter().enumerate().map(|(at, x)| (1.0 + scale[of(at)]) * x + shift[of(at)]).collect(),
                2e-5,
            );
            check::gradients(
                &[x, s],
                |tape, [x, gate]| tape.modulate(x, 0.0, Some(gate), None),
                |[x, gate]| x.iter().enumerate().map(|(at, x)| gate[of(at)] * x).collect(),
                2e-5,
            );
            check::gradients(
                &[x, s],
                |tape, [x, shift]| tape.modulate(x, 1.0, None, Some(shift)),
                |[x, shift]| x.iter().enumerate().map(|(at, x)| x + shift[of(at)]).collect(),
                2e-5,
            );
        }
    }
}
