//! Dropout whose mask is a function of key and position, also where only a run of each sequence is here.

use rayon::prelude::*;

use crate::{Element, elementwise::CHUNK, rng::uniform};

/// What `x` is of the whole: runs of `len` numbers, each the `place`th of `parts` that make a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    pub len: usize,
    pub place: usize,
    pub parts: usize,
}

/// `y = x / (1 - rate)`, or 0 with probability `rate`.
pub fn dropout<T: Element>(x: &[T], y: &mut [T], rate: f32, key: u64, runs: Runs) {
    run(x, y, rate, key, runs, false);
}

/// `dx = dy` through the same mask.
pub fn backward<T: Element>(dy: &[T], dx: &mut [T], rate: f32, key: u64, runs: Runs, accumulate: bool) {
    run(dy, dx, rate, key, runs, accumulate);
}

fn run<T: Element>(x: &[T], y: &mut [T], rate: f32, key: u64, Runs { len, place, parts }: Runs, accumulate: bool) {
    let scale = 1.0 / (1.0 - rate);
    for (sequence, (y, x)) in y.chunks_mut(len).zip(x.chunks(len)).enumerate() {
        let first = (sequence * parts + place) * len;
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
            for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                let kept = if uniform(key, (first + chunk * CHUNK + i) as u64) < rate { 0.0 } else { x.wide() * scale };
                *y = T::rounded(if accumulate { y.wide() + kept } else { kept });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_the_mask_of_the_whole() {
        let (sequences, len, parts) = (3, CHUNK / 2 + 7, 4);
        let ones = vec![1.0; sequences * len * parts];
        let mut whole = vec![0.0; ones.len()];
        dropout(&ones, &mut whole, 0.3, 5, Runs { len: ones.len(), place: 0, parts: 1 });
        for place in 0..parts {
            let mut mine = vec![0.0; sequences * len];
            dropout(&ones[..mine.len()], &mut mine, 0.3, 5, Runs { len, place, parts });
            let of_whole: Vec<f32> = whole.chunks(len * parts).flat_map(|sequence| &sequence[place * len..][..len]).copied().collect();
            assert_eq!(mine, of_whole, "part {place}");
        }
    }
}
