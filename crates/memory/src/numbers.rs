//! Numbers outside of a pool, or only their count.

use std::ops::Range;

use crate::Device;

/// f32 numbers; on `Meta` how many there would be. What is done to counted numbers is counted, and reads as empty slices.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    Here(Vec<f32>),
    Counted(usize),
}

impl Default for Numbers {
    fn default() -> Self {
        Self::Here(Vec::new())
    }
}

impl From<Vec<f32>> for Numbers {
    fn from(values: Vec<f32>) -> Self {
        Self::Here(values)
    }
}

impl Numbers {
    #[must_use]
    pub fn zeros(device: Device, len: usize) -> Self {
        Self::of(device, len, || vec![0.0; len])
    }

    /// Those that `values` gives, `len` of them; it is not asked where there are none.
    #[must_use]
    pub fn of(device: Device, len: usize, values: impl FnOnce() -> Vec<f32>) -> Self {
        if device.is_real() { Self::Here(values()) } else { Self::Counted(len) }
    }

    /// How many, here or not.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Here(values) => values.len(),
            Self::Counted(len) => *len,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        4 * self.len() as u64
    }

    /// Empty where they are counted.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Here(values) => values,
            Self::Counted(_) => &[],
        }
    }

    #[must_use]
    pub fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Here(values) => values,
            Self::Counted(_) => &mut [],
        }
    }

    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        match self {
            Self::Here(values) => values,
            Self::Counted(_) => Vec::new(),
        }
    }

    /// A copy of some of them.
    /// # Panics
    /// When `range` is not inside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Here(values) => Self::Here(values[range].to_vec()),
            Self::Counted(len) => {
                assert!(range.end <= *len, "numbers {range:?} of {len}");
                Self::Counted(range.len())
            }
        }
    }

    /// `part` in place of as many numbers from `at` on.
    /// # Panics
    /// When it does not fit.
    pub fn put(&mut self, at: usize, part: &Self) {
        assert!(at + part.len() <= self.len(), "{} numbers at {at} of {}", part.len(), self.len());
        if let (Self::Here(values), Self::Here(part)) = (self, part) {
            values[at..at + part.len()].copy_from_slice(part);
        }
    }

    /// Numbers `range` of `other` behind these; none yet, so they are where those are.
    /// # Panics
    /// When `range` is not inside, or one of the two is counted and the other is not.
    pub fn extend(&mut self, other: &Self, range: Range<usize>) {
        match (&mut *self, other) {
            (Self::Here(values), Self::Here(other)) => values.extend_from_slice(&other[range]),
            (Self::Counted(len), Self::Counted(_)) => *len += range.len(),
            (Self::Here(values), Self::Counted(_)) if values.is_empty() => *self = Self::Counted(range.len()),
            _ => unreachable!("numbers of two devices"),
        }
    }

    /// Cut, or filled with zeros, and no memory held beyond.
    pub fn resize(&mut self, len: usize) {
        match self {
            Self::Here(values) => {
                values.resize(len, 0.0);
                values.shrink_to_fit();
            }
            Self::Counted(counted) => *counted = len,
        }
    }

    /// All zero.
    pub fn clear(&mut self) {
        self.values_mut().fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_to_numbers_counts_alike_where_there_are_none() {
        let done = |device| {
            let whole = Numbers::of(device, 5, || vec![1.0, 2.0, 3.0, 4.0, 5.0]);
            let mut run = Numbers::default();
            run.extend(&whole, 1..4);
            run.extend(&whole, 0..1);
            run.resize(6);
            run.put(4, &whole.part(3..5));
            run
        };
        let (here, counted) = (done(Device::Cpu), done(Device::META));
        assert_eq!(here.values(), [2.0, 3.0, 4.0, 1.0, 4.0, 5.0]);
        assert_eq!((counted.len(), counted.bytes(), counted.values()), (6, 24, &[][..]));
    }

    #[test]
    #[should_panic(expected = "2 numbers at 4 of 5")]
    fn counted_numbers_have_ends_too() {
        Numbers::zeros(Device::META, 5).put(4, &Numbers::Counted(2));
    }
}
