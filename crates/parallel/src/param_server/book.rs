//! Who does what where no worker waits for a common step: the first rank's server gives out the parts of each step, one at
//! a time, to whoever asks.
//!
//! ```text
//! step 7  | done | done | done | at work     the slow worker has it
//! step 8  | done | done | done | done
//! step 9  | done | at work | at work |       given out while 9 <= whole (6) + 1 + staleness (2); step 10 waits for step 7
//! ```
//! So a fast worker does more of a step than a slow one, one that asks no more is not waited for, and parameters that are
//! given to a part of step `s` have in them all of the steps up to `s - 1 - staleness`: the bound of *More Effective
//! Distributed ML via a Stale Synchronous Parallel Parameter Server*, Ho et al. 2013, whoever the workers are.

use std::collections::BTreeMap;

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The part of that number of a step.
    Part { step: u64, part: usize },
    /// Everybody has come to the end of this step: parameters are the same for all, and nothing is at work.
    Meet(u64),
}

/// How a part went, and by [`Book::finished`] a step: the means over its parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    pub step: u64,
    /// Mean over tokens, in nats.
    pub loss: f32,
    pub norm: f32,
    /// Its update, or that of one of its parts, was left out.
    pub is_skipped: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Book {
    /// Of each step.
    parts: usize,
    staleness: u64,
    /// All steps up to this one are done.
    whole: u64,
    /// The part that is given out next, and its step.
    next: (u64, usize),
    /// What was told of the steps after `whole`.
    told: BTreeMap<u64, Vec<Report>>,
    /// Somebody was asked to stop: no other step is begun.
    is_stopped: bool,
    finished: Vec<Report>,
}

impl Book {
    pub(super) fn new(parts: usize, staleness: u64) -> Self {
        Self { parts, staleness, whole: 0, next: (1, 0), told: BTreeMap::new(), is_stopped: false, finished: Vec::new() }
    }

    /// All steps up to this one were done before.
    pub(super) fn go_on_from(&mut self, step: u64) {
        *self = Self { whole: step, next: (step + 1, 0), ..Self::new(self.parts, self.staleness) };
    }

    /// What a worker that asks does next, on the way to the step `until`; nothing while it has to wait.
    pub(super) fn turn(&mut self, until: u64, is_stopped: bool) -> Option<Turn> {
        self.is_stopped |= is_stopped;
        let (step, part) = self.next;
        let begun = if part == 0 { step - 1 } else { step };
        let last = if self.is_stopped { begun.min(until) } else { until };
        if step > last {
            return (self.whole >= last).then_some(Turn::Meet(last));
        }
        (step <= self.whole + 1 + self.staleness).then(|| {
            self.next = if part + 1 == self.parts { (step + 1, 0) } else { (step, part + 1) };
            Turn::Part { step, part }
        })
    }

    /// A part is done, and every server has moved by it.
    pub(super) fn done(&mut self, report: Report) {
        self.told.entry(report.step).or_default().push(report);
        while let Some(parts) = self.told.get(&(self.whole + 1)).filter(|parts| parts.len() == self.parts) {
            let mean = |of: fn(&Report) -> f32| parts.iter().map(of).sum::<f32>() / self.parts as f32;
            let is_skipped = parts.iter().any(|part| part.is_skipped);
            self.finished.push(Report { step: self.whole + 1, loss: mean(|p| p.loss), norm: mean(|p| p.norm), is_skipped });
            self.whole += 1;
            self.told.remove(&self.whole);
        }
    }

    /// The steps that were finished since this was last asked, in order.
    pub(super) fn finished(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.finished)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Workers ask and finish in any order that chance gives.
        #[test]
        fn every_part_is_done_once_and_none_begins_beyond_the_bound(
            parts in 1..5_usize,
            staleness in 0..4_u64,
            first in 0..3_u64,
            stops_at in 0..200_usize,
            order in proptest::collection::vec(0..5_usize, 300),
        ) {
            const UNTIL: u64 = 12;
            let mut book = Book::new(parts, staleness);
            book.go_on_from(first);
            let mut at_work: Vec<Option<(u64, usize)>> = vec![None; parts];
            let mut met = vec![None; parts];
            let (mut given, mut done, mut finished) = (Vec::new(), Vec::new(), Vec::new());
            // Enough for all to end after chance has had its say.
            for (moment, worker) in order.into_iter().chain((0..1000).map(|i| i % parts)).enumerate() {
                let worker = worker % parts;
                if let Some(part) = at_work[worker].take() {
                    book.done(Report { step: part.0, loss: part.1 as f32, norm: 1.0, is_skipped: false });
                    done.push(part);
                    finished.extend(book.finished());
                } else if met[worker].is_none() {
                    match book.turn(UNTIL, moment >= stops_at) {
                        Some(Turn::Part { step, part }) => {
                            let older = (first + 1..=UNTIL).flat_map(|s| (0..parts).map(move |p| (s, p)));
                            let mut missing = older.filter(|part| part.0 + staleness < step && !done.contains(part));
                            prop_assert_eq!(missing.next(), None, "step {} is given out too early", step);
                            given.push((step, part));
                            at_work[worker] = Some((step, part));
                        }
                        Some(Turn::Meet(step)) => met[worker] = Some(step),
                        None => {}
                    }
                }
            }
            let end = met[0].unwrap();
            prop_assert!(met.iter().all(|step| *step == Some(end)), "all meet at one step: {:?}", met);
            prop_assert!(end == UNTIL || stops_at < 300);
            let all: Vec<_> = (first + 1..=end).flat_map(|s| (0..parts).map(move |p| (s, p))).collect();
            prop_assert_eq!(&given, &all, "in order, each once");
            prop_assert_eq!(done.len(), all.len());
            prop_assert_eq!(finished.iter().map(|f| f.step).collect::<Vec<_>>(), (first + 1..=end).collect::<Vec<_>>());
            let mean = (parts - 1) as f32 / 2.0;
            prop_assert!(finished.iter().all(|step| (step.loss - mean).abs() < 1e-6));
        }
    }
}
