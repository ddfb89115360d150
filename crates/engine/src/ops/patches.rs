//! An image cut into square patches, each a row: `[batch, height, width, channels]` to `[batch, tokens, side * side * channels]`,
//! the patches in reading order and their pixels too. A linear layer on it is the patch embedding of arXiv:2010.11929, eq. 1.

use kernels::conv::Window;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Patches {
    side: usize,
}

impl Patches {
    fn window(&self, x: Shape) -> Window {
        let [_, height, width, channels] = *x.dims() else { unreachable!("the shape rule wants four axes") };
        Window { height, width, channels, side: self.side, stride: self.side, pad: [0, 0] }
    }
}

impl Op for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let problem = || ShapeError::new("patches", format!("{} is no [batch, height, width, channels] of whole patches of {}", x[0], self.side));
        match *x[0].dims() {
            [batch, height, width, channels] if self.side > 0 && height % self.side == 0 && width % self.side == 0 => {
                Ok(Shape::new(&[batch, height / self.side * (width / self.side), self.side * self.side * channels]))
            }
            _ => Err(problem()),
        }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost { forward_bytes: 2 * x[0].bytes(), backward_bytes: 3 * x[0].bytes(), ..Cost::default() }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let (window, shape) = (self.window(f.inputs[0].shape), f.inputs[0].shape);
        window.unfold(f.inputs[0].f32s(), 0..shape.dims()[0] * window.stops()[0], f.output.f32s());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let [Some(mut dx)] = b.take_grads() {
            if !dx.accumulate {
                dx.data.f32s().fill(0.0);
            }
            let (window, shape) = (self.window(b.inputs[0].shape), b.inputs[0].shape);
            window.fold_add(b.dy.f32s(), 0..shape.dims()[0] * window.stops()[0], dx.data.f32s());
        }
    }
}

impl Tape<'_> {
    /// Patches of `side` by `side` pixels of `x` `[batch, height, width, channels]`.
    /// # Errors
    /// When patches do not fill the image.
    pub fn patches(&mut self, x: &Tensor, side: usize) -> Result<Tensor, EngineError> {
        self.apply(Patches { side }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        check::gradients(
            &[Shape::new(&[2, 4, 6, 3])],
            |tape, [x]| tape.patches(x, 2),
            |[x]| {
                let at = |n: usize, y: usize, x: usize| ((n * 4 + y) * 6 + x) * 3;
                let corners = (0..2).flat_map(|n| (0..2).flat_map(move |i| (0..3).map(move |j| (n, 2 * i, 2 * j))));
                let pixels = corners.flat_map(|(n, y, x)| [at(n, y, x), at(n, y, x + 1), at(n, y + 1, x), at(n, y + 1, x + 1)]);
                pixels.flat_map(|at| x[at..at + 3].to_vec()).collect()
            },
            1e-5,
        );
    }
}
