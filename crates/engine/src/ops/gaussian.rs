//! A draw from a normal distribution that a model says: `z = mean + exp(log_variance / 2) noise`, of moments `[.., 2 channels]` whose last
//! axis holds means and then log variances; *Auto-Encoding Variational Bayes*, arXiv:1312.6114, section 2.4. Log variances are kept in
//! [`LOG_VARIANCES`], as the code of arXiv:2112.10752 keeps them; beyond, they get no gradient. Reads both inputs again.

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

/// Bounds of a log variance.
pub const LOG_VARIANCES: [f32; 2] = [-30.0, 20.0];

struct Gaussian;

impl Op for Gaussian {
    fn name(&self) -> &'static str {
        "gaussian"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        ShapeError::check("gaussian", "channels", ("moments", x[0].last()), ("twice those of the noise", 2 * x[1].last()))?;
        ShapeError::check("gaussian", "rows", ("moments", x[0].rows()), ("noise", x[1].rows()))?;
        Ok(x[1])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[1].elements(), 6, 4)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1], ..Saves::default() }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 1 { Gradient::None } else { Gradient::Computed }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [moments, noise] = f.inputs else { unreachable!("two inputs") };
        let width = noise.shape.last();
        let rows = moments.f32s().chunks_exact(2 * width).zip(noise.f32s().chunks_exact(width));
        for ((moments, noise), z) in rows.zip(f.output.f32s().chunks_exact_mut(width)) {
            let (mean, log_variance) = moments.split_at(width);
            for i in 0..width {
                z[i] = mean[i] + deviation(log_variance[i]) * noise[i];
            }
        }
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let Some(mut dmoments) = b.grads[0].take() else { return };
        let width = b.inputs[1].shape.last();
        let rows = b.inputs[0].f32s().chunks_exact(2 * width).zip(b.inputs[1].f32s().chunks_exact(width));
        let out = dmoments.data.f32s().chunks_exact_mut(2 * width).zip(b.dy.f32s().chunks_exact(width));
        for ((moments, noise), (to, dy)) in rows.zip(out) {
            for i in 0..width {
                let l = moments[width + i];
                let dl = if is_within(l) { 0.5 * deviation(l) * noise[i] * dy[i] } else { 0.0 };
                (to[i], to[width + i]) = if dmoments.accumulate { (to[i] + dy[i], to[width + i] + dl) } else { (dy[i], dl) };
            }
        }
    }
}

/// `exp(l / 2)`.
fn deviation(log_variance: f32) -> f32 {
    (0.5 * log_variance.clamp(LOG_VARIANCES[0], LOG_VARIANCES[1])).exp()
}

/// Whether a log variance is where a gradient reaches it.
pub(super) fn is_within(log_variance: f32) -> bool {
    (LOG_VARIANCES[0]..=LOG_VARIANCES[1]).contains(&log_variance)
}

impl Tape<'_> {
    /// A draw by `moments` `[.., 2 channels]` and `noise` `[.., channels]`, which takes no gradient: `[.., channels]`.
    /// # Errors
    /// When the shapes do not fit.
    pub fn gaussian(&mut self, moments: &Tensor, noise: &Tensor) -> Result<Tensor, EngineError> {
        self.apply(Gaussian, &[moments, noise])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn agrees_with_its_differences() {
        for [rows, channels] in [[1, 1], [3, 5], [2, 16], [17, 67]] {
            let noise = check::noise(5, rows * channels);
            let of = check::f64s(&noise);
            check::gradients(
                &[Shape::new(&[rows, 2 * channels])],
                |tape, [moments]| {
                    let noise = tape.constant(Shape::new(&[rows, channels]), &noise)?;
                    tape.gaussian(moments, &noise)
                },
                |[moments]| {
                    let z = |i: usize| {
                        let (row, column) = (i / channels * 2 * channels, i % channels);
                        moments[row + column] + (0.5 * moments[row + channels + column]).exp() * of[i]
                    };
                    (0..rows * channels).map(z).collect()
                },
                1e-5,
            );
        }
    }

    #[test]
    fn a_log_variance_beyond_its_bounds_counts_as_the_bound_and_gets_no_gradient() {
        let (z, gradient) = check::run_one(&[0.5, 200.0, -0.5, -200.0], Shape::new(&[2, 2]), |tape, moments| {
            let noise = tape.constant(Shape::new(&[2, 1]), &[1.0, 1.0])?;
            tape.gaussian(moments, &noise)
        });
        assert!((z[0] - (0.5 + 10.0_f32.exp())).abs() < 0.1 && (z[1] + 0.5).abs() < 1e-6, "{z:?}");
        assert_eq!([gradient[1], gradient[3]], [0.0, 0.0]);
    }
}
