//! Lanes: virtual shards of the global batch, and the one fixed tree in which their gradients are added.
//!
//! ```text
//! lane   0   1   2   3        a lane's gradient is summed over its micro-batches, in order;
//!         \ /     \ /         then pairs, pairs of pairs, ...
//!          +       +
//!            \   /
//!              +
//! ```
//! Whoever computes a lane, the additions are the same, so the sum has the same bits at any number of ranks that
//! divides the lanes. Lanes come one after another and are added like the digits of a binary counter, so at most
//! `log2(lanes) + 1` gradients are held.

use engine::{Device, Numbers};

/// The gradient of one parameter over the lanes of one step.
#[derive(Debug, Default)]
pub struct LaneSum {
    /// The lane at work, once something was added to it.
    current: Option<Numbers>,
    /// Sums of `2^level` lanes, largest first.
    sums: Vec<(u32, Numbers)>,
    spare: Vec<Numbers>,
    arrays: u64,
}

impl LaneSum {
    /// Forget the last step's sum.
    pub fn clear(&mut self) {
        self.spare.extend(self.sums.drain(..).map(|(_, sum)| sum));
        self.spare.extend(self.current.take());
    }

    /// Give all memory back.
    pub fn free(&mut self) {
        *self = Self::default();
    }

    /// The accumulator of the lane at work, zero at its start.
    pub fn take(&mut self, device: Device, len: usize) -> Numbers {
        if let Some(current) = self.current.take() {
            return current;
        }
        if let Some(mut spare) = self.spare.pop() {
            spare.clear();
            return spare;
        }
        self.arrays += 1;
        Numbers::zeros(device, len)
    }

    pub fn put(&mut self, grad: Numbers) {
        self.current = Some(grad);
    }

    /// The lane at work is this, which came from elsewhere; what is spare goes.
    pub fn bring(&mut self, grad: Numbers) {
        self.arrays += 1;
        self.arrays -= self.spare.drain(..).count() as u64;
        self.current = Some(grad);
    }

    /// The lane at work is complete: add it to the tree.
    pub fn end_lane(&mut self, device: Device, len: usize) {
        let mut sum = self.take(device, len);
        let mut level = 0;
        while let Some((_, mut left)) = self.sums.pop_if(|(l, _)| *l == level) {
            kernels::elementwise::add_assign(sum.values(), left.values_mut());
            self.spare.push(std::mem::replace(&mut sum, left));
            level += 1;
        }
        self.sums.push((level, sum));
    }

    /// How many arrays it holds, or has given out and will get back.
    #[must_use]
    pub fn arrays(&self) -> u64 {
        self.arrays
    }

    /// All lanes are complete: add what is left where their number is no power of two.
    pub fn finish(&mut self) {
        while self.sums.len() > 1 {
            let Some((_, right)) = self.sums.pop() else { return };
            if let Some((_, left)) = self.sums.last_mut() {
                kernels::elementwise::add_assign(right.values(), left.values_mut());
            }
            self.spare.push(right);
        }
    }

    /// The sum of all lanes, once all are complete.
    pub fn total(&self) -> Option<&Numbers> {
        self.sums.first().map(|(_, sum)| sum)
    }

    /// Nothing was added to it.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// The sum itself, on its way to other ranks and counted there; [`LaneSum::set_total`] brings what came of it.
    pub fn take_total(&mut self) -> Option<Numbers> {
        let (_, sum) = self.sums.pop()?;
        self.arrays -= 1;
        Some(sum)
    }

    pub fn set_total(&mut self, sum: Numbers) {
        self.arrays += 1;
        self.sums = vec![(0, sum)];
    }

    pub fn total_mut(&mut self) -> &mut [f32] {
        self.sums.first_mut().map_or(&mut [], |(_, sum)| sum.values_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(values: &[f32]) -> (f32, usize) {
        let mut lanes = LaneSum::default();
        let mut most = 0;
        for value in values {
            let mut grad = lanes.take(Device::Cpu, 1);
            grad.values_mut()[0] += value;
            lanes.put(grad);
            most = most.max(lanes.sums.len() + 1);
            lanes.end_lane(Device::Cpu, 1);
        }
        (lanes.total().unwrap().values()[0], most)
    }

    #[test]
    fn lanes_are_added_in_pairs_and_pairs_of_pairs() {
        // With 1e8 in f32, adding 3 is lost and adding 4 is not: the order shows.
        let (sum, most) = sum_of(&[1e8, 3.0, 3.0, 3.0]);
        assert_eq!(sum, (1e8 + 3.0) + (3.0 + 3.0));
        assert_ne!(sum, ((1e8_f32 + 3.0) + 3.0) + 3.0);
        assert_eq!(most, 3, "log2(lanes) + 1 arrays");
    }

    #[test]
    fn any_number_of_lanes_is_added() {
        for n in 1..12_usize {
            let mut lanes = LaneSum::default();
            for i in 0..n {
                lanes.put(vec![i as f32].into());
                lanes.end_lane(Device::Cpu, 1);
            }
            lanes.finish();
            assert_eq!(lanes.total().unwrap().values(), [(n * (n - 1) / 2) as f32]);
        }
    }

    #[test]
    fn the_sum_of_halves_is_the_sum_of_the_whole() {
        let values: Vec<f32> = (0..8).map(|i| 1.0 / (i as f32 + 0.3)).collect();
        let (left, right) = (sum_of(&values[..4]).0, sum_of(&values[4..]).0);
        assert_eq!((left + right).to_bits(), sum_of(&values).0.to_bits());
    }
}
