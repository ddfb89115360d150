//! Patches of images as rows of a matrix, and back: with them a convolution is a product of matrices.
//!
//! An image is `[height, width, channels]`, so that the pixels of one line of a patch lie together, and a product's row is
//! already a pixel of the output.

use std::ops::Range;

use rayon::prelude::*;

/// A square window that goes over images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Side of the window in pixels, and how far it goes at a time.
    pub side: usize,
    pub stride: usize,
    /// Zeros above and left of an image, and below and right of it.
    pub pad: [usize; 2],
}

impl Window {
    /// Lines and columns of places where the window stops; zero where it is larger than the image.
    #[must_use]
    pub fn stops(&self) -> [usize; 2] {
        let pad = self.pad[0] + self.pad[1];
        [self.height, self.width].map(|n| (n + pad).checked_sub(self.side).map_or(0, |n| n / self.stride.max(1) + 1))
    }

    /// Numbers of one patch.
    #[must_use]
    pub fn patch(&self) -> usize {
        self.side * self.side * self.channels
    }

    /// The patches at the lines `lines` of stops, counted over all images of `x`: `[lines, columns, patch]`.
    pub fn unfold(&self, x: &[f32], lines: Range<usize>, patches: &mut [f32]) {
        let [_, columns] = self.stops();
        let line = |(line, patches): (usize, &mut [f32])| {
            for (column, patch) in patches.chunks_exact_mut(self.patch()).enumerate() {
                for (part, to) in patch.chunks_exact_mut(self.side * self.channels).enumerate() {
                    match self.run(lines.start + line, column, part) {
                        Some((from, _, len)) if len == to.len() => to.copy_from_slice(&x[from..from + len]),
                        Some((from, at, len)) => {
                            to.fill(0.0);
                            to[at..at + len].copy_from_slice(&x[from..from + len]);
                        }
                        None => to.fill(0.0),
                    }
                }
            }
        };
        patches[..lines.len() * columns * self.patch()].par_chunks_mut(columns * self.patch()).enumerate().for_each(line);
    }

    /// Add each patch to where it was taken from. A line of an image is one task's: patches overlap, and the order of sums is fixed.
    pub fn fold_add(&self, patches: &[f32], lines: Range<usize>, x: &mut [f32]) {
        let ([down, columns], length, step) = (self.stops(), self.width * self.channels, self.stride.max(1));
        if lines.is_empty() {
            return;
        }
        let first = lines.start / down * self.height;
        let touched = first..((lines.end - 1) / down + 1) * self.height;
        x[touched.start * length..touched.end * length].par_chunks_mut(length).enumerate().for_each(|(at, x)| {
            let (image, y) = ((first + at) / self.height, (first + at) % self.height + self.pad[0]);
            // The stops whose window covers this line.
            let stops = image * down + (y + 1).saturating_sub(self.side).div_ceil(step)..image * down + (y / step + 1).min(down);
            for line in stops.start.max(lines.start)..stops.end.min(lines.end) {
                let part = y - (line - image * down) * step;
                let patches = &patches[(line - lines.start) * columns * self.patch()..][..columns * self.patch()];
                for (column, patch) in patches.chunks_exact(self.patch()).enumerate() {
                    let Some((to, from, len)) = self.run(line, column, part) else { continue };
                    let patch = &patch[part * self.side * self.channels + from..][..len];
                    crate::elementwise::axpy(1.0, patch, &mut x[to - (first + at) * length..][..len]);
                }
            }
        });
    }

    /// Of line `part` of the patch at a stop: where its pixels inside the image begin in all images, where in the line, and
    /// how many numbers they are.
    fn run(&self, line: usize, column: usize, part: usize) -> Option<(usize, usize, usize)> {
        let down = self.stops()[0];
        let (image, top) = (line / down, line % down * self.stride);
        let y = (top + part).checked_sub(self.pad[0]).filter(|y| *y < self.height)?;
        let left = column * self.stride;
        let skipped = self.pad[0].saturating_sub(left);
        let x = left + skipped - self.pad[0];
        let pixels = self.side.saturating_sub(skipped).min(self.width.saturating_sub(x));
        let from = ((image * self.height + y) * self.width + x) * self.channels;
        (pixels > 0).then_some((from, skipped * self.channels, pixels * self.channels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_its_pixels_and_zeros_beyond_the_edge() {
        // Two images of 2 by 3 pixels with one channel.
        let x: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let window = Window { height: 2, width: 3, channels: 1, side: 3, stride: 2, pad: [1, 1] };
        assert_eq!(window.stops(), [1, 2]);
        let mut patches = vec![f32::NAN; 2 * 2 * 9];
        window.unfold(&x, 0..2, &mut patches);
        assert_eq!(patches[..9], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 4.0, 5.0]);
        assert_eq!(patches[9..18], [0.0, 0.0, 0.0, 2.0, 3.0, 0.0, 5.0, 6.0, 0.0]);
        assert_eq!(patches[18..27], [0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 0.0, 10.0, 11.0]);
    }

    #[test]
    fn folding_adds_a_pixel_as_often_as_it_was_taken() {
        for (side, stride, pad) in [(1, 1, [0, 0]), (2, 2, [0, 0]), (3, 1, [1, 1]), (3, 2, [0, 1])] {
            let window = Window { height: 4, width: 6, channels: 2, side, stride, pad };
            let lines = 3 * window.stops()[0];
            let x: Vec<f32> = (0..3 * 48).map(|v| v as f32).collect();
            let (mut patches, mut back, mut times) =
                (vec![0.0; lines * window.stops()[1] * window.patch()], vec![0.0; x.len()], vec![0.0; x.len()]);
            window.unfold(&x, 0..lines, &mut patches);
            // In two runs, one of which ends inside an image.
            let (cut, columns) = (lines / 2, window.stops()[1] * window.patch());
            window.fold_add(&patches, 0..cut, &mut back);
            window.fold_add(&patches[cut * columns..], cut..lines, &mut back);
            window.unfold(&vec![1.0; x.len()], 0..lines, &mut patches);
            window.fold_add(&patches, 0..lines, &mut times);
            assert!(x.iter().zip(&times).zip(&back).all(|((x, n), back)| x * n == *back), "{window:?}");
        }
    }
}
