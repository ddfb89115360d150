//! Convolution over images `[batch, height, width, channels]`: patches become rows, and the rest is a product with
//! `W` `[out, side * side * channels]`, the channels of a pixel together. A run of rows at a time, so that patches, which
//! are `side^2` times the image, are never all in memory.
//!
//! Backward: `dW += dy^T patches`, the patches made again; `dpatches = dy W`, each added to where it was taken from.
//! A window of one pixel is [`Tape::linear`].

use std::ops::Range;

use kernels::{
    conv::Window,
    gemm::{Gemm, Mat, Rhs},
};

use super::{Backward, Class, Cost, Forward, Op, Saves, linear::{packs, rhs}};
use crate::{EngineError, Form, Precision, Shape, ShapeError, Tape, Tensor, Pass};

/// How the window goes over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Pixels of the square window's side, and between its stops.
    pub side: usize,
    pub stride: usize,
    /// Zeros above and left of the image, and below and right of it.
    pub pad: [usize; 2],
}

/// Rows of patches in memory at one time, at least.
const ROWS: usize = 512;

struct Conv2d(ConvOptions);

impl Conv2d {
    fn window(&self, x: Shape) -> Window {
        let [_, height, width, channels] = *x.dims() else { unreachable!("the shape rule wants four axes") };
        Window { height, width, channels, side: self.0.side, stride: self.0.stride, pad: self.0.pad }
    }

    /// Rows of the product.
    fn rows(&self, x: Shape) -> usize {
        x.dims()[0] * self.window(x).stops().iter().product::<usize>()
    }

    /// Runs of lines, each of at least [`ROWS`] rows but for the last.
    fn runs(&self, x: Shape) -> impl Iterator<Item = Range<usize>> + use<> {
        let [down, columns] = self.window(x).stops();
        let (lines, step) = (x.dims()[0] * down, ROWS.div_ceil(columns));
        (0..lines).step_by(step).map(move |first| first..(first + step).min(lines))
    }

    fn scratch_len(&self, x: Shape) -> usize {
        let window = self.window(x);
        self.runs(x).next().map_or(0, |run| run.len() * window.stops()[1] * window.patch())
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn class(&self) -> Class {
        Class::Convolution
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let ([batch, .., channels], [out, patch]) = (x[0].dims(), x[1].dims()) else {
            return Err(ShapeError::new("conv2d", format!("x is {} and w is {}", x[0], x[1])));
        };
        if x[0].dims().len() != 4 || self.0.stride == 0 || self.0.side == 0 {
            return Err(ShapeError::new("conv2d", format!("x is {}, not [batch, height, width, channels]", x[0])));
        }
        ShapeError::check("conv2d", "side * side * channels", ("x", self.0.side * self.0.side * channels), ("w", *patch))?;
        if let Some(b) = x.get(2) {
            ShapeError::check("conv2d", "out", ("w", *out), ("b", b.elements()))?;
        }
        match self.window(x[0]).stops() {
            [0, _] | [_, 0] => Err(ShapeError::new("conv2d", format!("a window of {} pixels is larger than {}", self.0.side, x[0]))),
            [down, columns] => Ok(Shape::new(&[*batch, down, columns, *out])),
        }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let (m, n, k) = (self.rows(x[0]) as u64, x[1].rows() as u64, x[1].last() as u64);
        let bytes = x[0].bytes() + x[1].bytes() + 4 * m * n;
        Cost { forward_flops: 2 * m * n * k, backward_flops: 4 * m * n * k, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([self.rows(x[0]), x[1].rows(), x[1].last()])
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn scratch(&self, x: &[Shape], _pass: Pass) -> usize {
        self.scratch_len(x[0])
    }
    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        let rows = self.scratch_len(x[0]) / x[1].last().max(1);
        packs(rows, x[1], precision, pass == Pass::Backward)
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, w, ..] = f.inputs else { unreachable!("at least two inputs") };
        let (window, bias) = (self.window(x.shape), f.inputs.get(2).map(|b| b.f32s()));
        let (n, k, columns) = (w.shape.rows(), w.shape.last(), window.stops()[1]);
        for run in self.runs(x.shape) {
            let gemm = Gemm { m: run.len() * columns, n, k, precision: f.precision, accumulate: false };
            window.unfold(x.f32s(), run.clone(), f.scratch);
            let y = &mut f.output.f32s()[run.start * columns * n..][..gemm.m * n];
            gemm.run(Mat::rows(f.scratch, k), rhs(w, Form::Forward, f.precision), bias, y);
        }
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [x, w, ..] = b.inputs else { unreachable!("at least two inputs") };
        let (window, out, patch) = (self.window(x.shape), w.shape.rows(), w.shape.last());
        let columns = window.stops()[1];
        let mut grads: Vec<_> = b.grads.iter_mut().map(Option::take).collect();
        for fresh in grads.iter_mut().flatten().filter(|g| !g.accumulate) {
            fresh.data.f32s().fill(0.0);
        }
        for run in self.runs(x.shape) {
            let rows = run.len() * columns;
            let dy = Mat::rows(&b.dy.f32s()[run.start * columns * out..][..rows * out], out);
            if let Some(dw) = &mut grads[1] {
                window.unfold(x.f32s(), run.clone(), b.scratch);
                let gemm = Gemm { m: out, n: patch, k: rows, precision: b.precision, accumulate: true };
                gemm.run(dy.transposed(), Rhs::Plain(Mat::rows(b.scratch, patch)), None, dw.data.f32s());
            }
            if let Some(dx) = &mut grads[0] {
                let gemm = Gemm { m: rows, n: patch, k: out, precision: b.precision, accumulate: false };
                gemm.run(dy, rhs(w, Form::Backward, b.precision), None, b.scratch);
                window.fold_add(b.scratch, run.clone(), dx.data.f32s());
            }
        }
        if let Some(db) = grads.get_mut(2).and_then(Option::as_mut) {
            kernels::elementwise::add_rows(b.dy.f32s(), db.data.f32s());
        }
    }
}

impl Tape<'_> {
    /// `x` `[batch, height, width, channels]` under a window with weights `w` `[out, side * side * channels]`, plus `b`
    /// `[out]`: `[batch, lines, columns, out]`.
    /// # Errors
    /// When sizes differ, or the window is larger than the image.
    pub fn conv2d(&mut self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, options: ConvOptions) -> Result<Tensor, EngineError> {
        match b {
            Some(b) => self.apply(Conv2d(options), &[x, w, b]),
            None => self.apply(Conv2d(options), &[x, w]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    /// By definition, one output at a time.
    fn twin(o: ConvOptions, x_shape: [usize; 4], x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let [batch, height, width, channels] = x_shape;
        let stops = |n: usize| (n + o.pad[0] + o.pad[1] - o.side) / o.stride + 1;
        let mut y = Vec::new();
        for (n, i, j, out) in (0..batch)
            .flat_map(|n| (0..stops(height)).flat_map(move |i| (0..stops(width)).map(move |j| (n, i, j))))
            .flat_map(|(n, i, j)| (0..b.len()).map(move |out| (n, i, j, out)))
        {
            let mut sum = b[out];
            for (p, q, c) in (0..o.side).flat_map(|p| (0..o.side).flat_map(move |q| (0..channels).map(move |c| (p, q, c)))) {
                let (line, column) = (i * o.stride + p, j * o.stride + q);
                if (o.pad[0]..height + o.pad[0]).contains(&line) && (o.pad[0]..width + o.pad[0]).contains(&column) {
                    let at = ((n * height + line - o.pad[0]) * width + column - o.pad[0]) * channels + c;
                    sum += x[at] * w[((out * o.side + p) * o.side + q) * channels + c];
                }
            }
            y.push(sum);
        }
        y
    }

    #[test]
    fn agrees_with_its_differences_at_every_stride_and_edge() {
        let cases = [
            (ConvOptions { side: 3, stride: 1, pad: [1, 1] }, [2, 4, 5, 3], 4),
            (ConvOptions { side: 3, stride: 2, pad: [1, 1] }, [2, 5, 4, 2], 3),
            (ConvOptions { side: 3, stride: 2, pad: [0, 1] }, [1, 6, 6, 2], 2),
            (ConvOptions { side: 2, stride: 2, pad: [0, 0] }, [3, 4, 2, 3], 5),
            (ConvOptions { side: 1, stride: 1, pad: [0, 0] }, [1, 1, 1, 1], 1),
            // More rows than are unfolded at one time, in runs that end inside an image.
            (ConvOptions { side: 2, stride: 1, pad: [1, 0] }, [3, 20, 17, 1], 2),
        ];
        for (options, x, out) in cases {
            let shapes = [Shape::new(&x), Shape::new(&[out, options.side * options.side * x[3]]), Shape::new(&[out])];
            check::gradients(&shapes, |tape, [x, w, b]| tape.conv2d(x, w, Some(b), options), |[a, w, b]| twin(options, x, a, w, b), 2e-4);
        }
        let (options, x) = (ConvOptions { side: 3, stride: 1, pad: [1, 1] }, [1, 3, 3, 2]);
        let without = |[a, w]: [&Vec<f64>; 2]| twin(options, x, a, w, &[0.0; 2]);
        check::gradients(&[Shape::new(&x), Shape::new(&[2, 18])], |tape, [x, w]| tape.conv2d(x, w, None, options), without, 2e-4);
    }

    #[test]
    fn a_window_that_does_not_fit_is_refused() {
        let options = ConvOptions { side: 5, stride: 1, pad: [0, 0] };
        let error = Conv2d(options).shape(&[Shape::new(&[1, 4, 4, 1]), Shape::new(&[1, 25])]).unwrap_err();
        assert_eq!(error.to_string(), "conv2d: a window of 5 pixels is larger than [1, 4, 4, 1]");
    }
}
