//! Rotary positions on `[rows, heads, head_dim]`: see `engine`'s op for the source.

use rayon::prelude::*;

use crate::Element;

/// Row `r` stands where row `r % seq` does.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    pub seq: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub places: Places<'a>,
    /// Of each pair, radians a position; of twice as many first numbers of a head. The rest of it is not turned.
    pub frequencies: &'a [f64],
    /// What sines and cosines are multiplied by.
    pub factor: f32,
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
    pub fn run<T: Element>(&self, x: &[T], y: &mut [T], inverse: bool, accumulate: bool) {
        let (half, width) = (self.frequencies.len(), self.heads * self.head_dim);
        let rows = x.len() / width;
        // One sine and cosine per position and pair, shared by heads and sequences.
        let turns: Vec<(Vec<f32>, Vec<f32>)> = (0..self.seq.min(rows))
            .into_par_iter()
            .map(|p| {
                let angle = |f: &f64| (self.places.of(p) as f64 * f).sin_cos();
                let sign = if inverse { -1.0 } else { 1.0 };
                self.frequencies.iter().map(angle).map(|(sin, cos)| (self.factor * cos as f32, self.factor * (sign * sin) as f32)).unzip()
            })
            .collect();
        y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().with_min_len(16).for_each(|(r, (y, x))| {
            let (cos, sin) = &turns[r % self.seq];
            for (y, x) in y.chunks_exact_mut(self.head_dim).zip(x.chunks_exact(self.head_dim)) {
                let ((y, y_rest), (x, x_rest)) = (y.split_at_mut(2 * half), x.split_at(2 * half));
                for (y, x) in y_rest.iter_mut().zip(x_rest) {
                    *y = if accumulate { T::rounded(y.wide() + x.wide()) } else { *x };
                }
                let ((ya, yb), (xa, xb)) = (y.split_at_mut(half), x.split_at(half));
                for i in 0..half {
                    let (a, b) = (xa[i].wide(), xb[i].wide());
                    let (a, b) = (a * cos[i] - b * sin[i], b * cos[i] + a * sin[i]);
                    ya[i] = T::rounded(if accumulate { ya[i].wide() + a } else { a });
                    yb[i] = T::rounded(if accumulate { yb[i].wide() + b } else { b });
                }
            }
        });
    }
}
