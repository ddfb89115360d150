//! The one order in which numbers of several ranks are added: a binary tree over rank numbers.
//!
//! ```text
//! rank   0   1   2   3   4   5   6        split at the largest power of two below the number of ranks
//!         \ /     \ /     \ /    |
//!          +       +       +     |
//!            \   /           \  /
//!              +               +
//!                 \         /
//!                      +
//! ```
//! Whoever adds, and however arrays are cut, an element is added in this order, so its bits are the same.

/// Elements added at a time: what a level of the tree holds in between stays in the nearest cache.
const BLOCK: usize = 1024;

/// `out` = the sum of `arrays` `[rank]`, all of the length of `out`.
pub(crate) fn sum(arrays: &[&[f32]], out: &mut [f32]) {
    for (i, out) in out.chunks_mut(BLOCK).enumerate() {
        add(arrays, i * BLOCK, out);
    }
}

fn add(arrays: &[&[f32]], start: usize, out: &mut [f32]) {
    let block = |rank: usize| &arrays[rank][start..start + out.len()];
    match arrays.len() {
        0 => {}
        1 => out.copy_from_slice(block(0)),
        2 => {
            let (a, b) = (block(0), block(1));
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b);
        }
        4 => {
            let (a, b, c, d) = (block(0), block(1), block(2), block(3));
            let all = out.iter_mut().zip(a).zip(b).zip(c).zip(d);
            all.for_each(|((((out, a), b), c), d)| *out = (a + b) + (c + d));
        }
        ranks => {
            let (left, right) = arrays.split_at(ranks.next_power_of_two() / 2);
            let mut sum = [0.0; BLOCK];
            let sum = &mut sum[..out.len()];
            add(left, start, out);
            add(right, start, sum);
            out.iter_mut().zip(sum).for_each(|(out, right)| *out += *right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as its definition reads.
    fn twin(values: &[f32]) -> f32 {
        match values {
            [] => 0.0,
            [one] => *one,
            _ => {
                let (left, right) = values.split_at(values.len().next_power_of_two() / 2);
                twin(left) + twin(right)
            }
        }
    }

    #[test]
    fn every_element_is_added_in_the_order_of_the_tree() {
        for ranks in 1..=9 {
            for len in [0, 1, 7, BLOCK, 2 * BLOCK + 3] {
                let value = |rank: usize, i: usize| 1.0 / (0.3 + (rank * 31 + i % 97) as f32);
                let arrays: Vec<Vec<f32>> = (0..ranks).map(|rank| (0..len).map(|i| value(rank, i)).collect()).collect();
                let mut out = vec![0.0; len];
                sum(&arrays.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
                for (i, out) in out.iter().enumerate() {
                    let column: Vec<f32> = arrays.iter().map(|array| array[i]).collect();
                    assert_eq!(out.to_bits(), twin(&column).to_bits(), "element {i} of {len} over {ranks} ranks");
                }
            }
        }
    }
}
