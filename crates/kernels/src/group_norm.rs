//! GroupNorm over images whose channels lie innermost. Sums over pixels are made per image in f64 and added in order.

use rayon::prelude::*;

/// Sizes: `pixels` of one image, each of `channels`, normalised together with the others of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    pub pixels: usize,
    pub channels: usize,
    pub groups: usize,
}

impl Groups {
    fn width(&self) -> usize {
        self.channels / self.groups
    }

    /// A sum for each channel of one image.
    fn sums(&self, x: &[f32], mut of: impl FnMut(usize, f32) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        for pixel in x.chunks_exact(self.channels) {
            for (c, (sum, x)) in sums.iter_mut().zip(pixel).enumerate() {
                *sum += of(c, *x);
            }
        }
        sums
    }

    /// The mean over each group, of sums over each channel.
    fn means(&self, sums: &[f64]) -> Vec<f64> {
        let count = (self.width() * self.pixels) as f64;
        sums.chunks_exact(self.width()).map(|sums| sums.iter().sum::<f64>() / count).collect()
    }

    /// `y = w (x - mean) inv_std + b`, with mean and `inv_std` `[images, groups]` kept.
    pub fn forward(&self, x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], inv_std: &mut [f32]) {
        let (image, width) = (self.pixels * self.channels, self.width());
        let stats = mean.par_chunks_mut(self.groups).zip(inv_std.par_chunks_mut(self.groups));
        y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(stats).for_each(|((y, x), (mean, inv_std))| {
            for (to, m) in mean.iter_mut().zip(self.means(&self.sums(x, |_, x| f64::from(x)))) {
                *to = m as f32;
            }
            let squares = self.sums(x, |c, x| f64::from(x - mean[c / width]).powi(2));
            for (to, variance) in inv_std.iter_mut().zip(self.means(&squares)) {
                *to = 1.0 / (variance as f32 + eps).sqrt();
            }
            let scale: Vec<f32> = (0..self.channels).map(|c| w[c] * inv_std[c / width]).collect();
            let means: Vec<f32> = (0..self.channels).map(|c| mean[c / width]).collect();
            for (y, x) in y.chunks_exact_mut(self.channels).zip(x.chunks_exact(self.channels)) {
                for c in 0..self.channels {
                    y[c] = (x[c] - means[c]) * scale[c] + b[c];
                }
            }
        });
    }

    /// With `h = (x - mean) s` and `g = w dy`: `dx = s (g - mean(g) - h mean(g h))`, `dw += h dy`, `db += dy`. An empty `dx`
    /// is not wanted.
    pub fn backward(&self, norm: Normed<'_>, dy: &[f32], dx: &mut [f32], dw: &mut [f32], db: &mut [f32], accumulate_dx: bool) {
        let (image, width) = (self.pixels * self.channels, self.width());
        let images = dy.len() / image;
        // Of each image and channel: the sums of dy and of dy h.
        let sums: Vec<[Vec<f64>; 2]> = (0..images)
            .into_par_iter()
            .map(|n| {
                let (x, dy) = (&norm.x[n * image..][..image], &dy[n * image..][..image]);
                let mut sums = [vec![0.0; self.channels], vec![0.0; self.channels]];
                for (x, dy) in x.chunks_exact(self.channels).zip(dy.chunks_exact(self.channels)) {
                    for c in 0..self.channels {
                        let at = n * self.groups + c / width;
                        sums[0][c] += f64::from(dy[c]);
                        sums[1][c] += f64::from(dy[c] * (x[c] - norm.mean[at]) * norm.inv_std[at]);
                    }
                }
                sums
            })
            .collect();
        for [of_dy, of_dy_h] in &sums {
            dw.iter_mut().zip(of_dy_h).for_each(|(dw, sum)| *dw += *sum as f32);
            db.iter_mut().zip(of_dy).for_each(|(db, sum)| *db += *sum as f32);
        }
        dx.par_chunks_mut(image).enumerate().for_each(|(n, dx)| {
            let [g, g_h] =
                [0, 1].map(|i| self.means(&(0..self.channels).map(|c| f64::from(norm.w[c]) * sums[n][i][c]).collect::<Vec<_>>()));
            let (x, dy) = (&norm.x[n * image..][..image], &dy[n * image..][..image]);
            for ((dx, x), dy) in dx.chunks_exact_mut(self.channels).zip(x.chunks_exact(self.channels)).zip(dy.chunks_exact(self.channels)) {
                for c in 0..self.channels {
                    let (group, at) = (c / width, n * self.groups + c / width);
                    let h = (x[c] - norm.mean[at]) * norm.inv_std[at];
                    let new = norm.inv_std[at] * (norm.w[c] * dy[c] - g[group] as f32 - h * g_h[group] as f32);
                    dx[c] = if accumulate_dx { dx[c] + new } else { new };
                }
            }
        });
    }
}

/// What the forward pass read and kept.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub mean: &'a [f32],
    pub inv_std: &'a [f32],
}
