//! Mixtures of experts: which experts a row goes to, what their gates weigh, and rows brought to their experts and back.
//!
//! ```text
//! row 0 chooses experts 2, 0       slots, expert after expert:  | 0: row 0, row 1 | 1: | 2: row 0 | 3: row 1 |
//! row 1 chooses experts 0, 3
//! ```
//! Every row has the same number of choices and none is dropped: there are as many slots as choices however they fall, so
//! that memory is known before a number is.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    elementwise::{axpy, put},
    gemv::dot,
};

/// Rows in one task, and in one partial sum.
const ROWS: usize = 64;

/// A table of who goes where, as [`route`] writes it.
#[derive(Debug, Clone, Copy)]
pub struct Routes<'a> {
    /// Of each choice, row after row, likeliest first: its expert.
    pub expert: &'a [u32],
    /// And its slot.
    pub slot: &'a [u32],
    /// Of each slot, expert after expert: its choice.
    pub choice: &'a [u32],
    /// Where the slots of each expert end.
    end: &'a [u32],
    per_row: usize,
}

impl<'a> Routes<'a> {
    /// How many words the table takes.
    #[must_use]
    pub const fn words(choices: usize, experts: usize) -> usize {
        3 * choices + experts
    }

    /// The table in `words`, with so many choices to a row.
    #[must_use]
    pub fn new(words: &'a [u32], experts: usize, per_row: usize) -> Self {
        let (lists, end) = words.split_at(words.len() - experts);
        let choices = lists.len() / 3;
        Self { expert: &lists[..choices], slot: &lists[choices..2 * choices], choice: &lists[2 * choices..], end, per_row }
    }

    /// The slots of one expert.
    #[must_use]
    pub fn slots(&self, expert: usize) -> Range<usize> {
        let start = if expert == 0 { 0 } else { self.end[expert - 1] };
        start as usize..self.end[expert] as usize
    }

    fn experts(&self) -> usize {
        self.end.len()
    }
}

/// Fill the table `words` from `logits` `[rows, experts]`: each row goes to the `per_row` experts with the largest, of equal
/// ones to the first, or by `limit`, with a bias for each expert. Slots of an expert are in the order of the rows.
pub fn route(logits: &[f32], experts: usize, per_row: usize, limit: Option<(Limit, &[f32])>, words: &mut [u32]) {
    let (lists, end) = words.split_at_mut(words.len() - experts);
    let choices = lists.len() / 3;
    let (expert, lists) = lists.split_at_mut(choices);
    let (slot, choice) = lists.split_at_mut(choices);
    expert.par_chunks_mut(ROWS * per_row).zip(logits.par_chunks(ROWS * experts)).for_each(|(chosen, logits)| {
        let mut p = vec![0.0; if limit.is_some() { experts } else { 0 }];
        for (chosen, logits) in chosen.chunks_exact_mut(per_row).zip(logits.chunks_exact(experts)) {
            match limit {
                Some((limit, bias)) => {
                    limit.of(logits, bias, &mut p);
                    largest(&p, chosen);
                }
                None => largest(logits, chosen),
            }
        }
    });
    end.fill(0);
    expert.iter().for_each(|e| end[*e as usize] += 1);
    let mut start = 0;
    for end in &mut *end {
        (*end, start) = (start, start + *end);
    }
    for (i, (e, slot)) in expert.iter().zip(slot).enumerate() {
        let end = &mut end[*e as usize];
        *slot = *end;
        choice[*end as usize] = i as u32;
        *end += 1;
    }
}

/// The places of the largest numbers, in falling order.
fn largest(x: &[f32], places: &mut [u32]) {
    let mut count = 0;
    for (i, v) in x.iter().enumerate() {
        let mut at = count;
        while at > 0 && *v > x[places[at - 1] as usize] {
            at -= 1;
        }
        if at < places.len() {
            count = places.len().min(count + 1);
            places.copy_within(at..count - 1, at + 1);
            places[at] = i as u32;
        }
    }
}

/// What a router's logits become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// Over all experts.
    Softmax,
    /// Each by itself; arXiv:2412.19437, eq. 15.
    Sigmoid,
}

impl Scores {
    fn of(self, logits: &[f32], p: &mut [f32]) {
        match self {
            Self::Softmax => {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                p.iter_mut().zip(logits).for_each(|(p, l)| *p = (l - most).exp());
                let sum: f32 = p.iter().sum();
                p.iter_mut().for_each(|p| *p /= sum);
            }
            Self::Sigmoid => p.iter_mut().zip(logits).for_each(|(p, l)| *p = 1.0 / (1.0 + (-l).exp())),
        }
    }

    /// From the gradient of scores `p` to that of the logits.
    fn backward(self, p: &[f32], dp: &mut [f32]) {
        match self {
            Self::Softmax => {
                let mean: f32 = p.iter().zip(&*dp).map(|(p, dp)| p * dp).sum();
                dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean));
            }
            Self::Sigmoid => dp.iter_mut().zip(p).for_each(|(dp, p)| *dp *= p * (1.0 - p)),
        }
    }
}

/// A choice by scores, with a bias for each expert, among the experts of a few groups; *DeepSeek-V2*, arXiv:2405.04434, section 2.2.2,
/// and *DeepSeek-V3*, arXiv:2412.19437, section 2.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub scores: Scores,
    /// Groups of equal size, one expert after the other, and how many of them a row may go to.
    pub groups: usize,
    pub top_groups: usize,
    /// A group counts as the sum of so many of its largest scores.
    pub largest: usize,
}

impl Limit {
    /// What the choice goes by; `bias` may be empty.
    fn of(&self, logits: &[f32], bias: &[f32], p: &mut [f32]) {
        self.scores.of(logits, p);
        p.iter_mut().zip(bias).for_each(|(p, bias)| *p += bias);
        let size = p.len() / self.groups;
        let mut places = vec![0; self.largest.min(size)];
        let weigh = |group: &[f32]| {
            largest(group, &mut places);
            places.iter().map(|at| group[*at as usize]).sum::<f32>()
        };
        let weights: Vec<f32> = p.chunks_exact(size).map(weigh).collect();
        let mut kept = vec![0; self.top_groups];
        largest(&weights, &mut kept);
        for (group, scores) in p.chunks_exact_mut(size).enumerate() {
            if !kept.contains(&(group as u32)) {
                scores.fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// How scores become the weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gating {
    pub scores: Scores,
    /// Those of one row are divided by their sum.
    pub is_normalised: bool,
    /// And multiplied by this.
    pub scale: f32,
}

/// `gates` `[rows, per_row]`, the weight of each choice.
pub fn gates(gating: Gating, logits: &[f32], routes: Routes<'_>, gates: &mut [f32]) {
    let (experts, k) = (routes.experts(), routes.per_row);
    let rows = gates.par_chunks_mut(ROWS * k).zip(logits.par_chunks(ROWS * experts)).zip(routes.expert.par_chunks(ROWS * k));
    rows.for_each(|((gates, logits), chosen)| {
        let mut p = vec![0.0; experts];
        for ((gates, logits), chosen) in gates.chunks_exact_mut(k).zip(logits.chunks_exact(experts)).zip(chosen.chunks_exact(k)) {
            gating.scores.of(logits, &mut p);
            gates.iter_mut().zip(chosen).for_each(|(gate, e)| *gate = p[*e as usize]);
            let scale = gating.scale / if gating.is_normalised { gates.iter().sum() } else { 1.0 };
            gates.iter_mut().for_each(|gate| *gate *= scale);
        }
    });
}

/// `dlogits` `[rows, experts]` from `dgates` `[rows, per_row]`.
pub fn gates_backward(gating: Gating, logits: &[f32], routes: Routes<'_>, dgates: &[f32], dlogits: &mut [f32], accumulate: bool) {
    let (experts, k) = (routes.experts(), routes.per_row);
    let rows = dlogits.par_chunks_mut(experts).zip(logits.par_chunks(experts)).zip(routes.expert.par_chunks(k)).zip(dgates.par_chunks(k));
    rows.with_min_len(ROWS).for_each_init(
        || (vec![0.0; experts], vec![0.0; experts]),
        |(p, dp), (((dlogits, logits), chosen), dgates)| {
            gating.scores.of(logits, p);
            let chosen = || chosen.iter().map(|e| *e as usize).zip(dgates);
            let (mut sum, mut mean) = (1.0, 0.0);
            if gating.is_normalised {
                sum = chosen().map(|(e, _)| p[e]).sum();
                mean = chosen().map(|(e, d)| d * p[e]).sum::<f32>() / sum;
            }
            dp.fill(0.0);
            chosen().for_each(|(e, d)| dp[e] = gating.scale * (d - mean) / sum);
            gating.scores.backward(p, dp);
            put(dp, dlogits, accumulate);
        },
    );
}

/// Of each expert how many choices fell to it, then of each the sum over rows of its scores, which add to one over the experts:
/// `sums` `[2, experts]`.
pub fn loads(scores: Scores, logits: &[f32], routes: Routes<'_>, sums: &mut [f32]) {
    let experts = routes.experts();
    let partial = |logits: &[f32]| {
        let (mut sums, mut p) = (vec![0.0; experts], vec![0.0; experts]);
        for logits in logits.chunks_exact(experts) {
            scores.of(logits, &mut p);
            let all: f32 = if scores == Scores::Sigmoid { p.iter().sum() } else { 1.0 };
            sums.iter_mut().zip(&p).for_each(|(sum, p)| *sum += p / all);
        }
        sums
    };
    let partials: Vec<Vec<f32>> = logits.par_chunks(ROWS * experts).map(partial).collect();
    let (counts, sums) = sums.split_at_mut(experts);
    for e in 0..experts {
        counts[e] = routes.slots(e).len() as f32;
        sums[e] = partials.iter().map(|sums| f64::from(sums[e])).sum::<f64>() as f32;
    }
}

/// `dlogits` where the sum of each expert's scores, as in [`loads`], has the gradient that `slopes` says.
pub fn loads_backward(scores: Scores, logits: &[f32], slopes: &[f32], dlogits: &mut [f32], accumulate: bool) {
    let experts = slopes.len();
    dlogits.par_chunks_mut(experts).zip(logits.par_chunks(experts)).with_min_len(ROWS).for_each_init(
        || (vec![0.0; experts], vec![0.0; experts]),
        |(p, dp), (dlogits, logits)| {
            scores.of(logits, p);
            dp.copy_from_slice(slopes);
            if scores == Scores::Sigmoid {
                let sum: f32 = p.iter().sum();
                let mean = p.iter().zip(slopes).map(|(p, s)| p * s).sum::<f32>() / sum;
                dp.iter_mut().for_each(|d| *d = (*d - mean) / sum);
            }
            scores.backward(p, dp);
            put(dp, dlogits, accumulate);
        },
    );
}

/// `y` `[slots, width]`: to each slot its row of `x` `[rows, width]`.
pub fn dispatch(x: &[f32], width: usize, routes: Routes<'_>, y: &mut [f32]) {
    y.par_chunks_mut(width).zip(routes.choice).with_min_len(ROWS).for_each(|(y, choice)| {
        y.copy_from_slice(&x[*choice as usize / routes.per_row * width..][..width]);
    });
}

/// `dx[row] = sum over its choices of dy[slot]`, in their order.
pub fn dispatch_backward(dy: &[f32], width: usize, routes: Routes<'_>, dx: &mut [f32], accumulate: bool) {
    dx.par_chunks_mut(width).zip(routes.slot.par_chunks(routes.per_row)).with_min_len(ROWS).for_each(|(dx, slots)| {
        if !accumulate {
            dx.fill(0.0);
        }
        slots.iter().for_each(|slot| axpy(1.0, &dy[*slot as usize * width..][..width], dx));
    });
}

/// `y[row] = sum over its choices of gate x[slot]`, in their order: `x` `[slots, width]`, `gates` `[rows, per_row]`.
pub fn combine(x: &[f32], gates: &[f32], width: usize, routes: Routes<'_>, y: &mut [f32]) {
    let choices = routes.slot.par_chunks(routes.per_row).zip(gates.par_chunks(routes.per_row));
    y.par_chunks_mut(width).zip(choices).with_min_len(ROWS).for_each(|(y, (slots, gates))| {
        y.fill(0.0);
        slots.iter().zip(gates).for_each(|(slot, gate)| axpy(*gate, &x[*slot as usize * width..][..width], y));
    });
}

/// `dx[slot] = gate dy[row]`.
pub fn combine_backward(dy: &[f32], gates: &[f32], width: usize, routes: Routes<'_>, dx: &mut [f32], accumulate: bool) {
    dx.par_chunks_mut(width).zip(routes.choice).with_min_len(ROWS).for_each(|(dx, choice)| {
        if !accumulate {
            dx.fill(0.0);
        }
        let choice = *choice as usize;
        axpy(gates[choice], &dy[choice / routes.per_row * width..][..width], dx);
    });
}

/// `dgates[choice] = x[slot] . dy[row]`.
pub fn combine_gates(x: &[f32], dy: &[f32], width: usize, routes: Routes<'_>, dgates: &mut [f32], accumulate: bool) {
    let k = routes.per_row;
    dgates.par_chunks_mut(k).zip(routes.slot.par_chunks(k)).zip(dy.par_chunks(width)).with_min_len(ROWS).for_each(
        |((dgates, slots), dy)| {
            for (dgate, slot) in dgates.iter_mut().zip(slots) {
                let new = dot(&x[*slot as usize * width..][..width], dy);
                *dgate = if accumulate { *dgate + new } else { new };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::noise;

    #[test]
    fn every_choice_has_a_slot_with_its_expert_and_rows_stay_in_order() {
        for (rows, experts, per_row) in [(1, 1, 1), (5, 4, 2), (130, 8, 3), (67, 7, 7)] {
            let logits = noise(1, rows * experts);
            let mut words = vec![9; Routes::words(rows * per_row, experts)];
            route(&logits, experts, per_row, None, &mut words);
            let routes = Routes::new(&words, experts, per_row);
            for (row, (chosen, logits)) in routes.expert.chunks(per_row).zip(logits.chunks(experts)).enumerate() {
                let mut order: Vec<u32> = (0..experts as u32).collect();
                order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
                assert_eq!(chosen, &order[..per_row], "row {row}");
            }
            let mut seen = 0;
            for e in 0..experts {
                let slots = routes.slots(e);
                seen += slots.len();
                assert!(routes.choice[slots.clone()].is_sorted(), "rows of expert {e} are in order");
                for slot in slots {
                    let choice = routes.choice[slot] as usize;
                    assert_eq!((routes.expert[choice] as usize, routes.slot[choice] as usize), (e, slot));
                }
            }
            assert_eq!(seen, rows * per_row, "none is dropped");
        }
    }

    #[test]
    fn a_limit_keeps_to_the_best_groups_and_a_bias_moves_the_choice() {
        let limit = Limit { scores: Scores::Sigmoid, groups: 3, top_groups: 1, largest: 2 };
        // The largest logit is in the first group, and the second has the largest two.
        let logits = [2.0, -3.0, 1.5, 1.4, -1.0, -1.0];
        let chosen = |limit, bias: &[f32]| {
            let mut words = vec![9; Routes::words(2, 6)];
            route(&logits, 6, 2, Some((limit, bias)), &mut words);
            words[..2].to_vec()
        };
        assert_eq!(chosen(limit, &[]), [2, 3]);
        assert_eq!(chosen(Limit { largest: 1, ..limit }, &[]), [0, 1]);
        assert_eq!(chosen(Limit { top_groups: 3, ..limit }, &[]), [0, 2]);
        assert_eq!(chosen(limit, &[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]), [5, 4]);
    }

    #[test]
    fn equal_logits_go_to_the_first_and_no_number_at_all_still_goes_somewhere() {
        let mut places = [7; 3];
        largest(&[1.0, 2.0, 1.0, 2.0, 0.0], &mut places);
        assert_eq!(places, [1, 3, 0]);
        largest(&[f32::NAN; 5], &mut places);
        assert_eq!(places, [0, 1, 2]);
    }
}
