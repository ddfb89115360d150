//! Rotary positions on `[rows, heads, head_dim]`: see `engine`'s op for the source.

use rayon::prelude::*;

/// Row `r` stands where row `r % seq` does.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    pub seq: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub places: Places<'a>,
    pub theta: f32,
}

/// Positions of rows.
#[derive(Debug, Clone, Copy)]
pub enum Places<'a> {
    /// One after the other from here.
    From(usize),
    Each(&'a [u32]),
}

impl Places<'_> {
    fn of(&self, row: usize) -> usize {
        match self {
            Self::From(first) => first + row,
            Self::Each(places) => places[row] as usize,
        }
    }
}

impl Rope<'_> {
    /// `y = turned x`; the other way with `inverse`; added to what `y` holds with `accumulate`.
    pub fn run(&self, x: &[f32], y: &mut [f32], inverse: bool, accumulate: bool) {
        let (half, width) = (self.head_dim / 2, self.heads * self.head_dim);
        let rows = x.len() / width;
        // One sine and cosine per position and pair, shared by heads and sequences.
        let frequency: Vec<f64> = (0..half).map(|i| f64::from(self.theta).powf(-2.0 * i as f64 / self.head_dim as f64)).collect();
        let turns: Vec<(Vec<f32>, Vec<f32>)> = (0..self.seq.min(rows))
            .into_par_iter()
            .map(|p| {
                let angle = |f: &f64| (self.places.of(p) as f64 * f).sin_cos();
                let sign = if inverse { -1.0 } else { 1.0 };
                frequency.iter().map(angle).map(|(sin, cos)| (cos as f32, (sign * sin) as f32)).unzip()
            })
            .collect();
        y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().with_min_len(16).for_each(|(r, (y, x))| {
            let (cos, sin) = &turns[r % self.seq];
            for (y, x) in y.chunks_exact_mut(self.head_dim).zip(x.chunks_exact(self.head_dim)) {
                let ((ya, yb), (xa, xb)) = (y.split_at_mut(half), x.split_at(half));
                for i in 0..half {
                    let (a, b) = (xa[i] * cos[i] - xb[i] * sin[i], xb[i] * cos[i] + xa[i] * sin[i]);
                    if accumulate {
                        ya[i] += a;
                        yb[i] += b;
                    } else {
                        ya[i] = a;
                        yb[i] = b;
                    }
                }
            }
        });
    }
}
