//! GroupNorm over images with their channels innermost: mean 0 and variance 1 over the pixels and channels of each group;
//! arXiv:1803.08494. Saves mean and `1 / std` `[batch, groups]` each.

use kernels::group_norm::{Groups, Normed};

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct GroupNorm {
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    fn sizes(&self, x: Shape) -> Groups {
        Groups { pixels: x.rows() / x.dims()[0], channels: x.last(), groups: self.groups }
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        for w in &x[1..] {
            ShapeError::check("group_norm", "channels", ("x", x[0].last()), ("w", w.elements()))?;
        }
        if x[0].dims().len() < 2 || self.groups == 0 || !x[0].last().is_multiple_of(self.groups) {
            return Err(ShapeError::new("group_norm", format!("the channels of {} are no {} equal groups", x[0], self.groups)));
        }
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        // Read for the statistics and once more, for a group of an image is more than a cache holds.
        Cost::elementwise(x[0].elements(), 7, 3)
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], output: false, extras: vec![x[0].dims()[0] * self.groups; 2] }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, w, b] = f.inputs else { unreachable!("three inputs") };
        let [mean, inv_std] = f.extras else { unreachable!("saves asks for two") };
        let sizes = self.sizes(x.shape);
        sizes.forward(x.f32s(), w.f32s(), b.f32s(), self.eps, f.output.f32s(), mean.f32s_mut(), inv_std.f32s_mut());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [mut dx, mut dw, mut db] = b.take_grads();
        for fresh in [&mut dw, &mut db].into_iter().flatten().filter(|g| !g.accumulate) {
            fresh.data.f32s().fill(0.0);
        }
        let accumulate = dx.as_ref().is_some_and(|dx| dx.accumulate);
        let [dx, dw, db] = [&mut dx, &mut dw, &mut db].map(|g| g.as_mut().map_or(&mut [][..], |g| g.data.f32s()));
        let normed = Normed { x: b.inputs[0].f32s(), w: b.inputs[1].f32s(), mean: b.extras[0].f32s(), inv_std: b.extras[1].f32s() };
        self.sizes(b.inputs[0].shape).backward(normed, b.dy.f32s(), dx, dw, db, accumulate);
    }
}

impl Tape<'_> {
    /// `x` `[batch, .., channels]` with mean 0 and variance 1 in each of `groups`, times `w` `[channels]`, plus `b`.
    /// # Errors
    /// When `channels` differ or are no equal groups.
    pub fn group_norm(&mut self, x: &Tensor, w: &Tensor, b: &Tensor, groups: usize, eps: f32) -> Result<Tensor, EngineError> {
        self.apply(GroupNorm { groups, eps }, &[x, w, b])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for (batch, pixels, channels, groups) in [(1, 2, 1, 1), (2, 5, 6, 3), (3, 4, 8, 8), (2, 9, 10, 1)] {
            let twin = move |x: &[f64], w: &[f64], b: &[f64]| {
                let mut y = vec![0.0; x.len()];
                let width = channels / groups;
                for (n, g) in (0..batch).flat_map(|n| (0..groups).map(move |g| (n, g))) {
                    let places = || (0..pixels).flat_map(|p| (0..width).map(move |c| ((n * pixels + p) * channels + g * width + c, g * width + c)));
                    let count = (pixels * width) as f64;
                    let mean = places().map(|(at, _)| x[at]).sum::<f64>() / count;
                    let std = (places().map(|(at, _)| (x[at] - mean).powi(2)).sum::<f64>() / count + 1e-5).sqrt();
                    places().for_each(|(at, c)| y[at] = w[c] * (x[at] - mean) / std + b[c]);
                }
                y
            };
            let (x, w) = (Shape::new(&[batch, pixels, channels]), Shape::new(&[channels]));
            check::gradients(&[x, w, w], |tape, [x, w, b]| tape.group_norm(x, w, b, groups, 1e-5), |[x, w, b]| twin(x, w, b), 3e-4);
        }
    }
}
