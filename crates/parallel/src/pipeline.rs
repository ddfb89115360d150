//! The pipeline: contiguous runs of blocks on stages, and the order in which each stage runs its micro-batches.
//!
//! ```text
//! fill_drain  stage 0  F0 F1 F2 F3 .. .. B0 B1 B2 B3         arXiv:1811.06965; holds all micro-batches
//! one_f_one_b stage 0  F0 F1 .. .. B0 F2 B1 F3 B2 B3         arXiv:2104.04473, section 2.2; holds at most `stages`
//!             stage 1  .. F0 F1 .. B0 ... (the last stage: F0 B0 F1 B1 ...)
//! interleaved          each stage has several runs of blocks, so that a pipeline fills in less time
//! ```
//! The cut into stages is the best there is for its objective: the slowest stage is as fast as it can be, with memory
//! on every stage enough (arXiv:2111.05972 weighs the same two; there by a heuristic over a tree of modules).

use std::ops::Range;

/// In which order a stage runs its micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// All forward passes, then all backward ones (GPipe, arXiv:1811.06965).
    FillDrain,
    /// One forward and one backward in turn: least memory (PipeDream, arXiv:2104.04473).
    OneFOneB,
    /// As many runs of blocks on each stage as `parallel.chunks` says.
    Interleaved,
}

/// One thing for a stage to do: a pass of a micro-batch through its `chunk`th run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Forward { micro_batch: usize, chunk: usize },
    Backward { micro_batch: usize, chunk: usize },
}

impl Schedule {
    /// What `stage` of `stages` does, in order; `chunks` is 1 unless interleaved, and then the stages divide
    /// `micro_batches`.
    #[must_use]
    pub fn actions(self, stage: usize, stages: usize, micro_batches: usize, chunks: usize) -> Vec<Action> {
        let total = micro_batches * chunks;
        // Micro-batches go through a stage's runs in groups as large as the pipeline.
        let forward = |i: usize| {
            let (round, within) = (i / (stages * chunks), i % (stages * chunks));
            if chunks == 1 {
                return Action::Forward { micro_batch: i, chunk: 0 };
            }
            Action::Forward { micro_batch: round * stages + within % stages, chunk: within / stages }
        };
        let backward = |i: usize| match forward(i) {
            Action::Forward { micro_batch, chunk } | Action::Backward { micro_batch, chunk } => {
                Action::Backward { micro_batch, chunk: chunks - 1 - chunk }
            }
        };
        let ahead = match self {
            Self::FillDrain => total,
            Self::OneFOneB => stages - 1 - stage,
            Self::Interleaved => 2 * (stages - 1 - stage) + (chunks - 1) * stages,
        }
        .min(total);
        let mut actions: Vec<Action> = (0..ahead).map(forward).collect();
        for i in ahead..total {
            actions.extend([forward(i), backward(i - ahead)]);
        }
        actions.extend((total - ahead..total).map(backward));
        actions
    }
}

/// The most micro-batches that a stage has at work at one time, each in one of its runs of blocks.
#[must_use]
pub fn at_work(actions: &[Action]) -> usize {
    let mut now = 0_usize;
    let after = |action: &Action| {
        now = if matches!(action, Action::Forward { .. }) { now + 1 } else { now - 1 };
        now
    };
    actions.iter().map(after).max().unwrap_or(0)
}

/// What a block costs: seconds of one micro-batch, and bytes that a stage holds for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockCost {
    pub secs: f64,
    pub bytes: u64,
}

/// Cut blocks into `stages` contiguous runs, none empty, so that the slowest stage is as fast as it can be and none holds
/// more than `bytes`. Dynamic programming over all cuts, `stages * blocks^2`; the result is the best there is.
/// # Errors
/// The bytes that the leanest cut's largest stage needs, when no cut fits.
pub fn cut(blocks: &[BlockCost], stages: usize, bytes: u64) -> Result<Vec<Range<usize>>, u64> {
    // Leanest first: the largest stage of the best cut by memory alone.
    let by = |of: &dyn Fn(&BlockCost) -> f64, allowed: &dyn Fn(Range<usize>) -> bool| -> Option<(f64, Vec<Range<usize>>)> {
        let n = blocks.len();
        let mut sums = vec![0.0];
        sums.extend(blocks.iter().scan(0.0, |sum, block| {
            *sum += of(block);
            Some(*sum)
        }));
        // best[s][i]: the slowest of `s + 1` stages over blocks `0..i`, and where the last one begins.
        let mut best = vec![vec![(f64::INFINITY, 0); n + 1]; stages];
        for i in 1..=n {
            if allowed(0..i) {
                best[0][i] = (sums[i], 0);
            }
            for s in 1..stages.min(i) {
                for from in s..i {
                    let slowest = best[s - 1][from].0.max(sums[i] - sums[from]);
                    if slowest < best[s][i].0 && allowed(from..i) {
                        best[s][i] = (slowest, from);
                    }
                }
            }
        }
        let (slowest, _) = *best.get(stages.checked_sub(1)?)?.get(n)?;
        let (mut ranges, mut end) = (Vec::new(), n);
        for s in (0..stages).rev() {
            let from = best[s][end].1;
            ranges.push(from..end);
            end = from;
        }
        ranges.reverse();
        slowest.is_finite().then_some((slowest, ranges))
    };
    let held = |range: Range<usize>| blocks[range].iter().map(|block| block.bytes).sum::<u64>();
    if let Some((_, ranges)) = by(&|block| block.secs, &|range| held(range) <= bytes) {
        return Ok(ranges);
    }
    Err(by(&|block| block.bytes as f64, &|_| true).map_or(u64::MAX, |(largest, _)| largest as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Run all stages' actions as far as what each needs is there; the most micro-batches that a stage ever holds, or
    /// `None` if all wait.
    fn play(schedule: Schedule, stages: usize, micro_batches: usize, chunks: usize) -> Option<Vec<usize>> {
        let actions: Vec<_> = (0..stages).map(|stage| schedule.actions(stage, stages, micro_batches, chunks)).collect();
        let (mut at, mut done, mut held, mut most) = (vec![0; stages], HashSet::new(), vec![0_usize; stages], vec![0; stages]);
        while (0..stages).any(|stage| at[stage] < actions[stage].len()) {
            let mut moved = false;
            for stage in 0..stages {
                let Some(action) = actions[stage].get(at[stage]) else { continue };
                let last = stages * chunks - 1;
                let (place, ready) = match *action {
                    Action::Forward { micro_batch, chunk } => {
                        let place = chunk * stages + stage;
                        (place, place == 0 || done.contains(&(true, micro_batch, place - 1)))
                    }
                    Action::Backward { micro_batch, chunk } => {
                        let place = chunk * stages + stage;
                        let after = if place == last { (true, micro_batch, place) } else { (false, micro_batch, place + 1) };
                        (place, done.contains(&after))
                    }
                };
                if ready {
                    let is_forward = matches!(action, Action::Forward { .. });
                    let (Action::Forward { micro_batch, .. } | Action::Backward { micro_batch, .. }) = *action;
                    done.insert((is_forward, micro_batch, place));
                    held[stage] = if is_forward { held[stage] + 1 } else { held[stage] - 1 };
                    most[stage] = most[stage].max(held[stage]);
                    at[stage] += 1;
                    moved = true;
                }
            }
            if !moved {
                return None;
            }
        }
        Some(most)
    }

    #[test]
    fn every_schedule_runs_to_its_end_and_holds_what_it_promises() {
        for stages in 1..6 {
            for rounds in 1..4 {
                let micro_batches = rounds * stages;
                assert_eq!(play(Schedule::FillDrain, stages, micro_batches, 1), Some(vec![micro_batches; stages]));
                let want = (0..stages).map(|stage| (stages - stage).min(micro_batches)).collect();
                assert_eq!(play(Schedule::OneFOneB, stages, micro_batches, 1), Some(want));
                for chunks in 1..4 {
                    assert!(play(Schedule::Interleaved, stages, micro_batches, chunks).is_some(), "{stages} {micro_batches} {chunks}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_other_cut_is_faster(secs in proptest::collection::vec(1..50_u32, 1..9), stages in 1..5_usize, room in 1..9_u64) {
            let blocks: Vec<BlockCost> = secs.iter().map(|s| BlockCost { secs: f64::from(*s), bytes: 1 }).collect();
            let slowest = |ranges: &[Range<usize>]| {
                ranges.iter().map(|r| blocks[r.clone()].iter().map(|b| b.secs).sum::<f64>()).fold(0.0, f64::max)
            };
            // Every cut there is: a bit for each border between two blocks.
            let all = (0..1_u32 << (blocks.len() - 1)).filter(|bits| bits.count_ones() as usize == stages - 1).map(|bits| {
                let borders = (1..blocks.len()).filter(|i| bits >> (i - 1) & 1 == 1).chain([blocks.len()]);
                borders.scan(0, |from, to| Some(std::mem::replace(from, to)..to)).collect::<Vec<_>>()
            });
            let best = all.filter(|ranges| ranges.iter().all(|r| r.len() as u64 <= room)).map(|r| slowest(&r)).fold(f64::INFINITY, f64::min);
            match cut(&blocks, stages, room) {
                Ok(ranges) => {
                    prop_assert_eq!(slowest(&ranges), best);
                    prop_assert_eq!((ranges[0].start, ranges[stages - 1].end), (0, blocks.len()));
                    prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                }
                Err(_) => prop_assert_eq!(best, f64::INFINITY),
            }
        }
    }
}
