//! Ranks that are threads of one process.
//!
//! ```text
//! all-reduce:  each rank puts its array in its slot         | meet
//!              rank r adds part r of all slots, in a tree   | meet
//!              each rank copies all parts                   | meet
//! ```
//! A rank whose communicator is dropped while others wait (an error, a panic) wakes them all with an error that names it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use crate::{CommError, Communicator};

/// How long a rank waits for the slowest. Between two collectives the first rank may measure held-out loss or wait for
/// a disk, so this is long; a rank that ends is noticed at once.
const PATIENCE: Duration = Duration::from_mins(15);

/// One rank of a group of threads.
pub struct Threads {
    rank: usize,
    group: Arc<Group>,
}

struct Group {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    /// What each rank brought, and the part that each rank added up.
    slots: Vec<RwLock<Vec<f32>>>,
    parts: Vec<RwLock<Vec<f32>>>,
}

#[derive(Default)]
struct Meeting {
    arrived: Vec<bool>,
    /// How often all have met.
    rounds: u64,
    gone: Option<usize>,
}

impl Threads {
    /// A group of `ranks`, one communicator for each.
    #[must_use]
    pub fn group(ranks: usize) -> Vec<Self> {
        let slots = || (0..ranks).map(|_| RwLock::default()).collect();
        let meeting = Mutex::new(Meeting { arrived: vec![false; ranks], ..Meeting::default() });
        let group = Arc::new(Group { meeting, changed: Condvar::new(), slots: slots(), parts: slots() });
        (0..ranks).map(|rank| Self { rank, group: group.clone() }).collect()
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        self.group.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until all ranks are here.
    fn meet(&self, operation: &'static str) -> Result<(), CommError> {
        let failed = |rank: usize, problem: &str| CommError { rank, operation, problem: problem.into() };
        let mut meeting = self.meeting();
        let round = meeting.rounds;
        meeting.arrived[self.rank] = true;
        if meeting.arrived.iter().all(|here| *here) {
            meeting.arrived.fill(false);
            meeting.rounds += 1;
            self.group.changed.notify_all();
            return Ok(());
        }
        let is_early = |meeting: &mut Meeting| meeting.rounds == round && meeting.gone.is_none();
        let waited = self.group.changed.wait_timeout_while(meeting, PATIENCE, is_early);
        let (meeting, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if meeting.rounds != round {
            return Ok(());
        }
        match meeting.gone {
            Some(rank) => Err(failed(rank, "it has ended; its own error says why")),
            None if timeout.timed_out() => {
                let missing = meeting.arrived.iter().position(|here| !here).unwrap_or(0);
                Err(failed(missing, &format!("no answer in {} s", PATIENCE.as_secs())))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut meeting = self.meeting();
        meeting.gone.get_or_insert(self.rank);
        drop(meeting);
        self.group.changed.notify_all();
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.group.slots.len()
    }

    fn all_reduce_sum(&mut self, data: &mut [f32]) -> Result<(), CommError> {
        const OPERATION: &str = "all_reduce_sum";
        let ranks = self.ranks();
        let part = data.len().div_ceil(ranks);
        put(&self.group.slots[self.rank], data);
        self.meet(OPERATION)?;
        let (start, end) = ((self.rank * part).min(data.len()), ((self.rank + 1) * part).min(data.len()));
        let slots: Vec<_> = self.group.slots.iter().map(|slot| slot.read().unwrap_or_else(PoisonError::into_inner)).collect();
        if let Some(short) = slots.iter().position(|slot| slot.len() != data.len()) {
            let problem = format!("it brought {} numbers, rank {} brought {}", slots[short].len(), self.rank, data.len());
            return Err(CommError { rank: short, operation: OPERATION, problem });
        }
        let arrays: Vec<&[f32]> = slots.iter().map(|slot| &slot[start..end]).collect();
        put(&self.group.parts[self.rank], &tree_sum(&arrays));
        drop(slots);
        self.meet(OPERATION)?;
        for (data, sum) in data.chunks_mut(part.max(1)).zip(&self.group.parts) {
            data.copy_from_slice(&sum.read().unwrap_or_else(PoisonError::into_inner)[..data.len()]);
        }
        // Nobody may bring the next array before all have copied this one.
        self.meet(OPERATION)
    }
}

fn put(slot: &RwLock<Vec<f32>>, data: &[f32]) {
    let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
    slot.clear();
    slot.extend_from_slice(data);
}

/// The sum of `arrays` in the tree that splits them at the largest power of two below their number.
fn tree_sum(arrays: &[&[f32]]) -> Vec<f32> {
    match arrays {
        [] => Vec::new(),
        [one] => one.to_vec(),
        [left, right] => left.iter().zip(*right).map(|(a, b)| a + b).collect(),
        _ => {
            let (left, right) = arrays.split_at(arrays.len().next_power_of_two() / 2);
            let (mut sum, right) = (tree_sum(left), tree_sum(right));
            sum.iter_mut().zip(right).for_each(|(a, b)| *a += b);
            sum
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run `work` on every rank of a group and give what each returned.
    fn on_ranks<T: Send>(ranks: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = Threads::group(ranks).into_iter().map(|comm| scope.spawn(move || work(comm))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_the_sum_at_every_length_one_after_another() {
        for ranks in [1, 2, 3, 4, 7, 8] {
            let results = on_ranks(ranks, |mut comm| {
                let lengths = [0, 1, 3, ranks, 1000, 1001];
                lengths.map(|n| {
                    let mut data: Vec<f32> = (0..n).map(|i| (i * (comm.rank() + 1)) as f32).collect();
                    comm.all_reduce_sum(&mut data).unwrap();
                    data
                })
            });
            let factor = ranks * (ranks + 1) / 2;
            for result in &results {
                for data in result {
                    assert!(data.iter().enumerate().all(|(i, x)| *x == (i * factor) as f32), "{ranks} ranks");
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_additions_is_a_tree_over_ranks() {
        // With 1e8 in f32, adding 3 is lost and adding 6 is not: the order shows.
        let values = [1e8_f32, 3.0, 3.0, 3.0];
        let sums = on_ranks(4, |mut comm| {
            let mut data = [values[comm.rank()]];
            comm.all_reduce_sum(&mut data).unwrap();
            data[0]
        });
        assert_eq!(sums, [(1e8 + 3.0) + (3.0 + 3.0); 4]);
    }

    #[test]
    fn a_rank_that_ends_early_is_named_to_all_who_wait() {
        let results = on_ranks(4, |mut comm| {
            if comm.rank() == 2 {
                return None;
            }
            comm.all_reduce_sum(&mut [1.0]).err().map(|error| (error.rank, error.operation))
        });
        let named = Some((2, "all_reduce_sum"));
        assert_eq!(results, [named, named, None, named]);
    }

    #[test]
    fn different_lengths_are_an_error_and_no_hang() {
        let results = on_ranks(2, |mut comm| comm.all_reduce_sum(&mut vec![1.0; comm.rank() + 1]).is_err());
        assert_eq!(results, [true, true]);
    }
}
