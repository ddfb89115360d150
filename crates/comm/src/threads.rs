//! Ranks that are threads of one process.
//!
//! ```text
//! all-reduce:  each rank puts its array in its slot         | meet
//!              rank r adds part r of all slots, in a tree   | meet
//!              each rank copies all parts                   | meet
//! ```
//! A rank whose communicator is dropped while others wait (an error, a panic) wakes them all with an error that names it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use crate::{CommError, Communicator, Order, part};

/// How long a rank waits for the slowest. Between two collectives the first rank may measure held-out loss or wait for
/// a disk, so this is long; a rank that ends is noticed at once.
const PATIENCE: Duration = Duration::from_mins(15);

/// One rank of a group of threads.
pub struct Threads {
    rank: usize,
    group: Arc<Group>,
    splits: u64,
}

struct Group {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    /// What each rank brought.
    slots: Vec<RwLock<Vec<f32>>>,
    /// Messages on their way: from, to, numbers.
    boxes: Mutex<VecDeque<(usize, usize, Vec<f32>)>>,
    mail: Condvar,
    /// Groups that splits have made and not all members have taken yet.
    children: Mutex<HashMap<(u64, usize), Arc<Group>>>,
}

#[derive(Default)]
struct Meeting {
    arrived: Vec<bool>,
    /// How often all have met.
    rounds: u64,
    gone: Option<usize>,
}

impl Group {
    fn of(ranks: usize) -> Self {
        let meeting = Mutex::new(Meeting { arrived: vec![false; ranks], ..Meeting::default() });
        let slots = (0..ranks).map(|_| RwLock::default()).collect();
        Self { meeting, changed: Condvar::new(), slots, boxes: Mutex::default(), mail: Condvar::new(), children: Mutex::default() }
    }
}

impl Threads {
    /// A group of `ranks`, one communicator for each.
    #[must_use]
    pub fn group(ranks: usize) -> Vec<Self> {
        let group = Arc::new(Group::of(ranks));
        (0..ranks).map(|rank| Self { rank, group: group.clone(), splits: 0 }).collect()
    }

    /// The next message for this rank from `from`, or from anyone.
    fn take(&self, from: Option<usize>, data: &mut [f32]) -> Result<usize, CommError> {
        let fits = |(source, to, values): &(usize, usize, Vec<f32>)| {
            *to == self.rank && from.is_none_or(|from| from == *source) && values.len() == data.len()
        };
        let mut boxes = self.group.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        let since = std::time::Instant::now();
        loop {
            if let Some(at) = boxes.iter().position(fits)
                && let Some((source, _, values)) = boxes.remove(at)
            {
                data.copy_from_slice(&values);
                return Ok(source);
            }
            let failed = |rank, problem: &str| CommError { rank, operation: "recv", problem: problem.into() };
            if let Some(gone) = self.meeting().gone {
                return Err(failed(gone, "it has ended; its own error says why"));
            }
            if since.elapsed() > PATIENCE {
                return Err(failed(from.unwrap_or(0), "no message came"));
            }
            let waited = self.group.mail.wait_timeout(boxes, Duration::from_millis(100));
            boxes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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

    fn all_reduce(&mut self, data: &mut [f32], order: Order) -> Result<(), CommError> {
        let mut mine = vec![0.0; part(data.len(), self.ranks(), self.rank).len()];
        self.reduce_scatter(data, &mut mine, order)?;
        self.all_gather(&mine, data)
    }

    fn reduce_scatter(&mut self, data: &[f32], mine: &mut [f32], _order: Order) -> Result<(), CommError> {
        const OPERATION: &str = "reduce_scatter";
        put(&self.group.slots[self.rank], data);
        self.meet(OPERATION)?;
        let range = part(data.len(), self.ranks(), self.rank);
        let slots: Vec<_> = self.group.slots.iter().map(|slot| slot.read().unwrap_or_else(PoisonError::into_inner)).collect();
        if let Some(short) = slots.iter().position(|slot| slot.len() != data.len()) {
            let problem = format!("it brought {} numbers, rank {} brought {}", slots[short].len(), self.rank, data.len());
            return Err(CommError { rank: short, operation: OPERATION, problem });
        }
        let arrays: Vec<&[f32]> = slots.iter().map(|slot| &slot[range.clone()]).collect();
        mine.copy_from_slice(&tree_sum(&arrays));
        drop(slots);
        // Nobody may bring the next array before all have read this one.
        self.meet(OPERATION)
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CommError> {
        const OPERATION: &str = "all_gather";
        put(&self.group.slots[self.rank], mine);
        self.meet(OPERATION)?;
        for rank in 0..self.ranks() {
            let range = part(all.len(), self.ranks(), rank);
            let brought = self.group.slots[rank].read().unwrap_or_else(PoisonError::into_inner);
            if brought.len() != range.len() {
                let problem = format!("it brought {} numbers where {} were due", brought.len(), range.len());
                return Err(CommError { rank, operation: OPERATION, problem });
            }
            all[range].copy_from_slice(&brought);
        }
        self.meet(OPERATION)
    }

    fn broadcast(&mut self, root: usize, data: &mut [f32]) -> Result<(), CommError> {
        const OPERATION: &str = "broadcast";
        if self.rank == root {
            put(&self.group.slots[root], data);
        }
        self.meet(OPERATION)?;
        data.copy_from_slice(&self.group.slots[root].read().unwrap_or_else(PoisonError::into_inner));
        self.meet(OPERATION)
    }

    fn send(&mut self, to: usize, data: &[f32]) -> Result<(), CommError> {
        let mut boxes = self.group.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        boxes.push_back((self.rank, to, data.to_vec()));
        drop(boxes);
        self.group.mail.notify_all();
        Ok(())
    }

    fn recv(&mut self, from: usize, data: &mut [f32]) -> Result<(), CommError> {
        self.take(Some(from), data).map(drop)
    }

    fn recv_any(&mut self, data: &mut [f32]) -> Result<usize, CommError> {
        self.take(None, data)
    }

    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        let mut colors = vec![0.0; self.ranks()];
        self.all_gather(&[color as f32], &mut colors)?;
        let members: Vec<usize> = (0..self.ranks()).filter(|rank| colors[*rank] == color as f32).collect();
        let mut children = self.group.children.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.splits, color);
        self.splits += 1;
        let place = members.iter().position(|rank| *rank == self.rank).unwrap_or(0);
        let group = children.entry(key).or_insert_with(|| Arc::new(Group::of(members.len()))).clone();
        if Arc::strong_count(&group) > members.len() {
            children.remove(&key);
        }
        Ok(Box::new(Self { rank: place, group, splits: 0 }))
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
                    comm.all_reduce(&mut data, Order::Tree).unwrap();
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
            comm.all_reduce(&mut data, Order::Tree).unwrap();
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
            comm.all_reduce(&mut [1.0], Order::Tree).err().map(|error| (error.rank, error.operation))
        });
        let named = Some((2, "reduce_scatter"));
        assert_eq!(results, [named, named, None, named]);
    }

    #[test]
    fn different_lengths_are_an_error_and_no_hang() {
        let results = on_ranks(2, |mut comm| comm.all_reduce(&mut vec![1.0; comm.rank() + 1], Order::Tree).is_err());
        assert_eq!(results, [true, true]);
    }
}
