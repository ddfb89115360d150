//! GroupNorm over images whose channels lie innermost. Sums over pixels are made per image in f64 and added in order.

use rayon::prelude::*;

use crate::simd::Vector;

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

    /// The mean over each group, of sums over each channel.
    fn means(&self, sums: &[f64]) -> Vec<f64> {
        let count = (self.width() * self.pixels) as f64;
        sums.chunks_exact(self.width()).map(|sums| sums.iter().sum::<f64>() / count).collect()
    }

    /// What belongs to each group, for each of its channels.
    fn spread(&self, of: &[f32]) -> Vec<f32> {
        (0..self.channels).map(|c| of[c / self.width()]).collect()
    }

    /// `y = w (x - mean) inv_std + b`, with mean and `inv_std` `[images, groups]` kept.
    pub fn forward(&self, x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], inv_std: &mut [f32]) {
        let image = self.pixels * self.channels;
        let stats = mean.par_chunks_mut(self.groups).zip(inv_std.par_chunks_mut(self.groups));
        y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(stats).for_each(|((y, x), (mean, inv_std))| {
            let mut sums = vec![0.0; self.channels];
            sum_channels(x, &mut sums);
            mean.iter_mut().zip(self.means(&sums)).for_each(|(to, m)| *to = m as f32);
            let means = self.spread(mean);
            sums.fill(0.0);
            sum_squares(x, &means, &mut sums);
            for (to, variance) in inv_std.iter_mut().zip(self.means(&sums)) {
                *to = 1.0 / (variance as f32 + eps).sqrt();
            }
            let scale: Vec<f32> = self.spread(inv_std).iter().zip(w).map(|(s, w)| w * s).collect();
            norm_pixels(x, &means, &scale, b, y);
        });
    }

    /// With `h = (x - mean) s` and `g = w dy`: `dx = s (g - mean(g) - h mean(g h))`, `dw += h dy`, `db += dy`. An empty `dx`
    /// is not wanted.
    pub fn backward(&self, norm: Normed<'_>, dy: &[f32], dx: &mut [f32], dw: &mut [f32], db: &mut [f32], accumulate_dx: bool) {
        let image = self.pixels * self.channels;
        let spread = |of: &[f32], n: usize| self.spread(&of[n * self.groups..][..self.groups]);
        // Of each image and channel: the sums of dy and of dy h.
        let sums: Vec<[Vec<f64>; 2]> = (norm.x.par_chunks(image).zip(dy.par_chunks(image)).enumerate())
            .map(|(n, (x, dy))| {
                let [mut of_dy, mut of_dy_h] = [vec![0.0; self.channels], vec![0.0; self.channels]];
                sum_products(x, dy, &spread(norm.mean, n), &spread(norm.inv_std, n), &mut of_dy, &mut of_dy_h);
                [of_dy, of_dy_h]
            })
            .collect();
        for [of_dy, of_dy_h] in &sums {
            dw.iter_mut().zip(of_dy_h).for_each(|(dw, sum)| *dw += *sum as f32);
            db.iter_mut().zip(of_dy).for_each(|(db, sum)| *db += *sum as f32);
        }
        dx.par_chunks_mut(image).enumerate().for_each(|(n, dx)| {
            let weighted = |i: usize| self.means(&sums[n][i].iter().zip(norm.w).map(|(sum, w)| f64::from(*w) * sum).collect::<Vec<_>>());
            let [g, g_h] = [0, 1].map(|i| self.spread(&weighted(i).into_iter().map(|mean| mean as f32).collect::<Vec<_>>()));
            let (mean, inv_std) = (spread(norm.mean, n), spread(norm.inv_std, n));
            let (x, dy) = (&norm.x[n * image..][..image], &dy[n * image..][..image]);
            let of = Channels { mean: &mean, inv_std: &inv_std, w: norm.w, g: &g, g_h: &g_h };
            gradient_pixels(x, dy, of, dx, accumulate_dx);
        });
    }
}

/// A number for each channel of one image.
#[derive(Clone, Copy)]
struct Channels<'a> {
    mean: &'a [f32],
    inv_std: &'a [f32],
    w: &'a [f32],
    g: &'a [f32],
    g_h: &'a [f32],
}

// Loops over plain slices, which compilers turn into vectors of each level: sums in f64 have no vector of their own.
simd_fn! { fn sum_channels(x: &[f32], sums: &mut [f64]) = sum_channels_body; }
simd_fn! { fn sum_squares(x: &[f32], mean: &[f32], sums: &mut [f64]) = sum_squares_body; }
simd_fn! { fn norm_pixels(x: &[f32], mean: &[f32], scale: &[f32], b: &[f32], y: &mut [f32]) = norm_pixels_body; }
simd_fn! {
    fn sum_products(x: &[f32], dy: &[f32], mean: &[f32], inv_std: &[f32], of_dy: &mut [f64], of_dy_h: &mut [f64]) = sum_products_body;
}
simd_fn! { fn gradient_pixels(x: &[f32], dy: &[f32], of: Channels<'_>, dx: &mut [f32], accumulate: bool) = gradient_pixels_body; }

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn sum_channels_body<V: Vector>(x: &[f32], sums: &mut [f64]) {
    for pixel in x.chunks_exact(sums.len()) {
        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += f64::from(*x));
    }
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn sum_squares_body<V: Vector>(x: &[f32], mean: &[f32], sums: &mut [f64]) {
    for pixel in x.chunks_exact(sums.len()) {
        for ((sum, x), mean) in sums.iter_mut().zip(pixel).zip(mean) {
            let off = f64::from(x - mean);
            *sum += off * off;
        }
    }
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn norm_pixels_body<V: Vector>(x: &[f32], mean: &[f32], scale: &[f32], b: &[f32], y: &mut [f32]) {
    let channels = b.len();
    assert!(mean.len() == channels && scale.len() == channels, "group norm: a number for each channel");
    for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
        for c in 0..channels {
            y[c] = (x[c] - mean[c]) * scale[c] + b[c];
        }
    }
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn sum_products_body<V: Vector>(x: &[f32], dy: &[f32], mean: &[f32], inv_std: &[f32], of_dy: &mut [f64], of_dy_h: &mut [f64]) {
    let channels = mean.len();
    assert!(inv_std.len() == channels && of_dy.len() == channels && of_dy_h.len() == channels, "group norm: a number for each channel");
    for (x, dy) in x.chunks_exact(channels).zip(dy.chunks_exact(channels)) {
        for c in 0..channels {
            of_dy[c] += f64::from(dy[c]);
            of_dy_h[c] += f64::from(dy[c] * (x[c] - mean[c]) * inv_std[c]);
        }
    }
}

#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
fn gradient_pixels_body<V: Vector>(x: &[f32], dy: &[f32], of: Channels<'_>, dx: &mut [f32], accumulate: bool) {
    let Channels { mean, inv_std, w, g, g_h } = of;
    let channels = w.len();
    let all = [mean, inv_std, g, g_h];
    assert!(all.iter().all(|of| of.len() == channels), "group norm: a number for each channel");
    for ((dx, x), dy) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(dy.chunks_exact(channels)) {
        for c in 0..channels {
            let h = (x[c] - mean[c]) * inv_std[c];
            let new = inv_std[c] * (w[c] * dy[c] - g[c] - h * g_h[c]);
            dx[c] = if accumulate { dx[c] + new } else { new };
        }
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
