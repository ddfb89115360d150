//! The sampler: a keyed permutation of window numbers, so that the window at any (epoch, position) is known at once.
//!
//! A Feistel network of four rounds over the smallest even number of bits that holds all windows; numbers beyond the
//! last are sent through again until they land inside (cycle walking; Black and Rogaway, *Ciphers with Arbitrary Finite
//! Domains*, 2002). No state: a run resumes at any position with any number of ranks.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A permutation of `0..windows` for each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    windows: u64,
}

impl Sampler {
    /// # Panics
    /// When there are no windows: whoever has none cannot sample.
    #[must_use]
    pub fn new(seed: u64, windows: u64) -> Self {
        assert!(windows > 0, "a sampler needs a window");
        Self { seed, windows }
    }

    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// The window that stands at sample number `sample`, counted over epochs.
    #[must_use]
    pub fn at(&self, sample: u64) -> u64 {
        self.index(sample / self.windows, sample % self.windows)
    }

    /// The window at `position` (below `windows`) of `epoch`.
    #[must_use]
    pub fn index(&self, epoch: u64, position: u64) -> u64 {
        let half_bits = (64 - (self.windows - 1).leading_zeros()).div_ceil(2).max(1);
        let mask = (1_u64 << half_bits) - 1;
        let mut at = position;
        loop {
            let (mut left, mut right) = (at >> half_bits, at & mask);
            for round in 0..4_u64 {
                let key = [self.seed, epoch, round, right].map(u64::to_le_bytes).concat();
                (left, right) = (right, left ^ (xxh3_64_with_seed(&key, 0) & mask));
            }
            at = (left << half_bits) | right;
            if at < self.windows {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_comes_once_an_epoch_and_epochs_differ() {
        for windows in [1, 2, 3, 17, 256, 1000] {
            let sampler = Sampler::new(7, windows);
            let order = |epoch| (0..windows).map(|p| sampler.index(epoch, p)).collect::<Vec<_>>();
            let mut sorted = order(0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..windows).collect::<Vec<_>>());
            if windows > 16 {
                assert_ne!(order(0), order(1));
                assert_ne!(order(0), sorted);
            }
        }
    }
}
