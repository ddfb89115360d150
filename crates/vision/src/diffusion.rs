//! Diffusion: how noise is mixed into images, what a model is asked for, and how an image comes back out of noise.
//!
//! With `a` the share of the image and `s` that of the noise `e` at a time: `x_t = a x + s e`. A model is asked for
//! - `noise`: `e` (arXiv:2006.11239)
//! - `velocity`: `a e - s x` (arXiv:2202.00512, appendix D)
//! - `flow`: `e - x`, along the straight line `a = 1 - t`, `s = t` (arXiv:2209.03003)

use serde::{Deserialize, Serialize};

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    #[default]
    Noise,
    Velocity,
    Flow,
}

/// How much noise there is at each step; `flow` has its own straight line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Its variance grows linearly from step to step: arXiv:2006.11239, section 4.
    #[default]
    Linear,
    /// arXiv:2102.09672, equation 17.
    Cosine,
}

/// Steps of the noise; of `flow`, what a time in 0..1 is multiplied by.
pub const STEPS: usize = 1000;
const BETAS: [f64; 2] = [1e-4, 0.02];
const COSINE_OFFSET: f64 = 0.008;
const MOST_BETA: f64 = 0.999;

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Diffusion {
    pub target: Target,
    /// `prod (1 - beta)` up to each step.
    kept: Vec<f64>,
}

impl Diffusion {
    #[must_use]
    pub fn new(target: Target, schedule: Schedule) -> Self {
        let angle =
            |step: usize| ((step as f64 / STEPS as f64 + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * std::f64::consts::FRAC_PI_2).cos();
        let beta = |step: usize| match schedule {
            Schedule::Linear => BETAS[0] + (BETAS[1] - BETAS[0]) * step as f64 / (STEPS - 1) as f64,
            Schedule::Cosine => (1.0 - (angle(step + 1) / angle(step)).powi(2)).min(MOST_BETA),
        };
        let kept = (0..STEPS).scan(1.0, |product, step| {
            *product *= 1.0 - beta(step);
            Some(*product)
        });
        Self { target, kept: kept.collect() }
    }

    /// A time by a draw in 0..1, as a model is told it: 0 is an image, [`STEPS`] is noise.
    #[must_use]
    pub fn time(&self, drawn: f64) -> f64 {
        let time = drawn * STEPS as f64;
        if self.target == Target::Flow { time } else { time.floor().min((STEPS - 1) as f64) }
    }

    /// Shares of the image and of the noise.
    #[must_use]
    pub fn shares(&self, time: f64) -> [f64; 2] {
        if self.target == Target::Flow {
            let share = time / STEPS as f64;
            return [1.0 - share, share];
        }
        let kept = self.kept[(time as usize).min(STEPS - 1)];
        [kept.sqrt(), (1.0 - kept).sqrt()]
    }

    /// What a model is asked for, of a pixel and its noise.
    #[must_use]
    pub fn wanted(&self, time: f64, pixel: f64, noise: f64) -> f64 {
        let [image, rest] = self.shares(time);
        match self.target {
            Target::Noise => noise,
            Target::Velocity => image * noise - rest * pixel,
            Target::Flow => noise - pixel,
        }
    }

    /// The pixel and the noise that a mixed pixel is made of, by what a model said of it.
    fn parts(&self, time: f64, mixed: f64, said: f64) -> [f64; 2] {
        let [image, rest] = self.shares(time);
        match self.target {
            Target::Noise => [(mixed - rest * said) / image, said],
            Target::Velocity => [image * mixed - rest * said, rest * mixed + image * said],
            Target::Flow => [mixed - rest * said, mixed + image * said],
        }
    }

    /// The times of a sampler of `steps` steps, from noise to the image, the last not among them.
    #[must_use]
    pub fn times(&self, steps: usize) -> Vec<f64> {
        let steps = steps.clamp(1, STEPS);
        match self.target {
            Target::Flow => (0..steps).map(|i| STEPS as f64 * (1.0 - i as f64 / steps as f64)).collect(),
            // The last of as many equal runs of steps, as "trailing" of arXiv:2305.08891, table 2: it begins at pure noise.
            _ => (0..steps).map(|i| (STEPS as f64 * (1.0 - i as f64 / steps as f64)).round() - 1.0).collect(),
        }
    }

    /// One step of the sampler, from `time` to `next` (absent: to the image itself): of `flow` Euler's, of the others DDIM's without new
    /// noise (arXiv:2010.02502, equation 12), the numbers of the image it aims at kept within `bound`: of pixels 1.
    pub fn step(&self, time: f64, next: Option<f64>, x: &mut [f32], said: &[f32], bound: f64) {
        let [image, rest] = next.map_or([1.0, 0.0], |next| self.shares(next));
        for (x, said) in x.iter_mut().zip(said) {
            if self.target == Target::Flow {
                let length = (next.unwrap_or(0.0) - time) / STEPS as f64;
                *x = (f64::from(*x) + length * f64::from(*said)) as f32;
                continue;
            }
            let [pixel, _] = self.parts(time, f64::from(*x), f64::from(*said));
            let pixel = pixel.clamp(-bound, bound);
            // The noise that goes with the pixel as it is now.
            let [had, had_rest] = self.shares(time);
            let noise = (f64::from(*x) - had * pixel) / had_rest.max(1e-12);
            *x = (image * pixel + rest * noise) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_those_of_the_papers() {
        // By PyTorch's own arithmetic: xtask/python/diffusion.py.
        for (schedule, want) in [
            (Schedule::Linear, [0.9999, 0.521_423, 0.077_796_7, 4.035_83e-5]),
            (Schedule::Cosine, [0.999_959, 0.845_888, 0.492_285, 2.428_77e-9]),
        ] {
            let kept = Diffusion::new(Target::Noise, schedule).kept;
            for (at, want) in [0, 250, 500, 999].into_iter().zip(want) {
                assert!((kept[at] / want - 1.0).abs() < 2e-6, "{schedule:?} {at}: {} {want}", kept[at]);
            }
        }
    }

    #[test]
    fn what_is_asked_for_gives_the_image_and_the_noise_back() {
        for target in [Target::Noise, Target::Velocity, Target::Flow] {
            let diffusion = Diffusion::new(target, Schedule::Linear);
            for time in [10.0, 400.0, 900.0] {
                let ([image, rest], pixel, noise) = (diffusion.shares(time), 0.3, -1.7);
                let parts = diffusion.parts(time, image * pixel + rest * noise, diffusion.wanted(time, pixel, noise));
                assert!((parts[0] - pixel).abs() < 1e-9 && (parts[1] - noise).abs() < 1e-9, "{target:?} {time}: {parts:?}");
            }
        }
    }

    #[test]
    fn a_model_that_knows_the_image_leads_to_it_from_any_noise() {
        let pixel = 0.25;
        for target in [Target::Noise, Target::Velocity, Target::Flow] {
            let diffusion = Diffusion::new(target, Schedule::Cosine);
            let mut x = vec![1.4_f32];
            let times = diffusion.times(7);
            for (i, time) in times.iter().enumerate() {
                let [image, rest] = diffusion.shares(*time);
                let noise = (f64::from(x[0]) - image * pixel) / rest;
                let said = vec![diffusion.wanted(*time, pixel, noise) as f32];
                diffusion.step(*time, times.get(i + 1).copied(), &mut x, &said, 1.0);
            }
            assert!((f64::from(x[0]) - pixel).abs() < 1e-3, "{target:?}: {x:?}");
        }
    }
}
