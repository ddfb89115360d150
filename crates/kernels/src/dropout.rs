//! Dropout whose mask is a function of key and position.

use rayon::prelude::*;

use crate::{elementwise::CHUNK, rng::uniform};

/// `y = x / (1 - rate)`, or 0 with probability `rate`.
pub fn dropout(x: &[f32], y: &mut [f32], rate: f32, key: u64) {
    run(x, y, rate, key, false);
}

/// `dx = dy` through the same mask.
pub fn backward(dy: &[f32], dx: &mut [f32], rate: f32, key: u64, accumulate: bool) {
    run(dy, dx, rate, key, accumulate);
}

fn run(x: &[f32], y: &mut [f32], rate: f32, key: u64, accumulate: bool) {
    let scale = 1.0 / (1.0 - rate);
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let kept = if uniform(key, (chunk * CHUNK + i) as u64) < rate { 0.0 } else { x * scale };
            *y = if accumulate { *y + kept } else { kept };
        }
    });
}
