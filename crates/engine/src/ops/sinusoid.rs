//! A number as waves of many lengths: `[cos(t f_0), .., sin(t f_0), ..]` with `f_i = 10000^(-i / (half - shift))`, as diffusion models are
//! told the time; arXiv:1706.03762, section 3.5, and arXiv:2006.11239.

use super::{Backward, Class, Cost, Forward, Gradient, Op, Saves};
use crate::{EngineError, Shape, ShapeError, Tape, Tensor};

struct Sinusoid {
    width: usize,
    shift: usize,
}

impl Op for Sinusoid {
    fn name(&self) -> &'static str {
        "sinusoid"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if self.width == 0 || !self.width.is_multiple_of(2) {
            return Err(ShapeError::new("sinusoid", format!("{} columns are no pairs of sine and cosine", self.width)));
        }
        if self.shift >= self.width / 2 {
            return Err(ShapeError::new("sinusoid", format!("a shift of {} leaves none of {} waves", self.shift, self.width / 2)));
        }
        Ok(Shape::new(&[x[0].elements(), self.width]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let n = (x[0].elements() * self.width) as u64;
        Cost { forward_flops: 4 * n, forward_bytes: 4 * n, ..Cost::default() }
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn gradient(&self, _input: usize) -> Gradient {
        Gradient::None
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let half = self.width / 2;
        for (y, t) in f.output.f32s().chunks_exact_mut(self.width).zip(f.inputs[0].f32s()) {
            for i in 0..half {
                let angle = f64::from(*t) * (-(10_000_f64.ln()) * i as f64 / (half - self.shift) as f64).exp();
                (y[i], y[half + i]) = (angle.cos() as f32, angle.sin() as f32);
            }
        }
    }
    fn backward(&self, _b: &mut Backward<'_>) {}
}

impl Tape<'_> {
    /// Waves of each of `t` `[batch]`: `[batch, width]`. With a `shift` of 1 the last of them has the length that is named.
    /// # Errors
    /// When `width` is odd, or `shift` leaves no wave.
    pub fn sinusoid(&mut self, t: &Tensor, width: usize, shift: usize) -> Result<Tensor, EngineError> {
        self.apply(Sinusoid { width, shift }, &[t])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Shape, check};

    #[test]
    fn time_zero_is_all_cosine_and_the_first_pair_turns_once_in_two_pi() {
        let (y, _) = check::run_one(&[0.0, std::f32::consts::PI], Shape::new(&[2]), |tape, t| tape.sinusoid(t, 4, 0));
        let slow = std::f64::consts::PI / 100.0;
        check::assert_close("waves", &y, &[1.0, 1.0, 0.0, 0.0, -1.0, slow.cos(), 0.0, slow.sin()], 1e-6);
    }
}
