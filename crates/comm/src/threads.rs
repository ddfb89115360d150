//! Ranks that are threads of one process: arrays are lent, not sent.
//!
//! ```text
//! reduce-scatter:  each rank lends its array to all  | meet |  rank r adds part r of all, in a tree
//! all-gather:      each rank lends its part to all   | meet |  each copies all parts
//! all-reduce:      both, one after the other; a short array is added by every rank itself
//! message:         the array moves into the box of its receiver
//! ```
//! A rank whose communicator is dropped while others wait for it (an error, a panic) wakes them with an error that names
//! it; one that hangs is found by its [`Pulse`].

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
    time::{Duration, Instant},
};

use memory::Numbers;

use crate::{
    CommError, Communicator, Job, Patience, Pulse,
    hierarchical::ranks_on_machine,
    part,
    pulse::{Vitals, Watch},
    tree,
};

/// Up to this length an all-reduce is one meeting, in which every rank adds all.
const SHORT: usize = 4096;
/// How long a rank looks for the others before it sleeps: less than a sleep and a wake cost.
const SPIN: Duration = Duration::from_micros(5);
/// How often a rank that sleeps looks for signs of life.
const LOOK: Duration = Duration::from_millis(200);

/// One rank of a group of threads.
pub struct Threads {
    rank: usize,
    room: Arc<Room>,
    seat: Arc<Seat>,
}

/// Where the ranks of a group meet.
struct Room {
    /// Numbers of its ranks among all ranks of the job, of which so many share a machine.
    members: Vec<usize>,
    on_machine: usize,
    meeting: Mutex<Meeting>,
    met: Condvar,
    /// How often all have met; also kept outside the lock, to be looked at.
    rounds: AtomicU64,
    boxes: Vec<MailBox>,
}

#[derive(Default)]
struct Meeting {
    brought: Vec<Option<Brought>>,
    /// What all brought to the last round, for those who have not taken it yet.
    last: Option<Arc<[Brought]>>,
    takers: usize,
    rounds: u64,
    left: Vec<bool>,
}

#[derive(Default)]
struct MailBox {
    mail: Mutex<Mail>,
    came: Condvar,
}

#[derive(Default)]
struct Mail {
    /// From, and the numbers.
    messages: VecDeque<(usize, Vec<f32>)>,
    left: Vec<bool>,
}

impl Mail {
    /// The first message that fits, by who sent it and what it is.
    fn take(&mut self, fits: impl Fn(usize, &[f32]) -> bool) -> Option<(usize, Vec<f32>)> {
        let at = self.messages.iter().position(|(source, values)| fits(*source, values))?;
        self.messages.remove(at)
    }
}

/// What a rank lends to the others, under the name of the call, which must be the same for all.
#[derive(Clone)]
struct Brought {
    call: Call,
    lent: Lent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Call {
    operation: &'static str,
    len: usize,
    root: usize,
}

#[derive(Clone)]
enum Lent {
    Numbers(Arc<Vec<f32>>),
    Color(usize),
    Room(Option<Arc<Room>>),
}

impl Lent {
    fn numbers(&self) -> &[f32] {
        match self {
            Self::Numbers(values) => values,
            _ => &[],
        }
    }
}

/// A rank among all of the job, over all its groups.
struct Seat(Pulse);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.vitals().ranks[self.0.rank()].ended.store(true, Relaxed);
    }
}

impl Room {
    fn of(members: Vec<usize>, on_machine: usize) -> Self {
        let ranks = members.len();
        let meeting = Meeting { brought: vec![None; ranks], left: vec![false; ranks], ..Meeting::default() };
        let mail_box = || MailBox { mail: Mutex::new(Mail { left: vec![false; ranks], ..Mail::default() }), ..MailBox::default() };
        let boxes = (0..ranks).map(|_| mail_box()).collect();
        Self { members, on_machine, meeting: Mutex::new(meeting), met: Condvar::new(), rounds: AtomicU64::new(0), boxes }
    }
}

impl Threads {
    /// A group of `ranks`, one communicator for each.
    #[must_use]
    pub fn group(ranks: usize) -> Vec<Self> {
        Self::patient(ranks, Patience::default())
    }

    /// The same, with another patience.
    #[must_use]
    pub fn patient(ranks: usize, patience: Patience) -> Vec<Self> {
        Self::seated(ranks, ranks, patience)
    }

    /// The same as if each `on_machine` ranks had a machine of their own: what levels do shows without a second machine.
    #[must_use]
    pub fn on_machines(ranks: usize, on_machine: usize) -> Vec<Self> {
        Self::seated(ranks, on_machine, Patience::default())
    }

    fn seated(ranks: usize, on_machine: usize, patience: Patience) -> Vec<Self> {
        let (room, vitals) = (Arc::new(Room::of((0..ranks).collect(), on_machine)), Arc::new(Vitals::new(ranks, patience)));
        let seat = |rank| Arc::new(Seat(Pulse::new(&vitals, rank)));
        (0..ranks).map(|rank| Self { rank, room: room.clone(), seat: seat(rank) }).collect()
    }

    /// An error, with the number among all ranks of the job for one in this group.
    fn failed<T>(&self, operation: &'static str, rank: usize, problem: String) -> Result<T, CommError> {
        let (rank, problem) = self.seat.0.vitals().blame(self.room.members[rank], problem);
        Err(CommError { rank, operation, problem })
    }

    fn left<T>(&self, operation: &'static str, rank: usize) -> Result<T, CommError> {
        let (rank, problem) = self.seat.0.vitals().blame_left(self.room.members[rank]);
        Err(CommError { rank, operation, problem })
    }

    /// Lend something and get what all lend, once all are here.
    fn meet(&self, call: Call, lent: Lent) -> Result<Arc<[Brought]>, CommError> {
        let mut meeting = lock(&self.room.meeting);
        if let Some(gone) = meeting.left.iter().position(|left| *left) {
            return self.left(call.operation, gone);
        }
        let round = meeting.rounds;
        meeting.brought[self.rank] = Some(Brought { call, lent });
        if meeting.brought.iter().all(Option::is_some) {
            let ranks = meeting.brought.len();
            let all: Vec<Brought> = meeting.brought.iter_mut().filter_map(Option::take).collect();
            (meeting.last, meeting.takers) = (Some(all.into()), ranks);
            meeting.rounds += 1;
            self.room.rounds.store(meeting.rounds, Release);
            self.room.met.notify_all();
        } else {
            drop(meeting);
            meeting = self.until_met(round, call.operation)?;
        }
        meeting.takers -= 1;
        let all = if meeting.takers == 0 { meeting.last.take() } else { meeting.last.clone() };
        drop(meeting);
        let Some(all) = all else { unreachable!("a round is kept until all have taken it") };
        // The call of most is taken to be right, that of the first of them when it is a draw.
        let votes = |call: Call| all.iter().filter(|other| other.call == call).count();
        if votes(call) < all.len() {
            let right = all.iter().rev().max_by_key(|brought| votes(brought.call)).map_or(call, |brought| brought.call);
            let wrong = all.iter().position(|brought| brought.call != right).unwrap_or(0);
            let Call { operation, len, root } = all[wrong].call;
            let problem = format!(
                "it called {operation} of {len} numbers (root {root}) where others called {} of {} (root {})",
                right.operation, right.len, right.root
            );
            return self.failed(call.operation, wrong, problem);
        }
        Ok(all)
    }

    /// Wait for the end of `round`: look for a moment, then sleep.
    fn until_met(&self, round: u64, operation: &'static str) -> Result<MutexGuard<'_, Meeting>, CommError> {
        let _waiting = self.seat.0.wait();
        let since = Instant::now();
        while self.room.rounds.load(Acquire) == round && since.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        let mut meeting = lock(&self.room.meeting);
        let mut watch = None;
        while meeting.rounds == round {
            if let Some(gone) = meeting.left.iter().position(|left| *left) {
                return self.left(operation, gone);
            }
            let (woken, timeout) = self.room.met.wait_timeout(meeting, LOOK).unwrap_or_else(PoisonError::into_inner);
            meeting = woken;
            if timeout.timed_out() {
                let missing = meeting.brought.iter().position(Option::is_none).unwrap_or(0);
                let watch = watch.get_or_insert_with(|| Watch::new(&self.seat.0));
                if let Some((rank, problem)) = watch.fault(self.room.members[missing]) {
                    return Err(CommError { rank, operation, problem });
                }
            }
        }
        Ok(meeting)
    }

    /// The next message for this rank from `from`.
    fn take(&self, from: usize, len: usize) -> Result<Vec<f32>, CommError> {
        let operation = "recv";
        let mail_box = &self.room.boxes[self.rank];
        let (mut waiting, mut watch) = (None, None);
        let mut mail = lock(&mail_box.mail);
        loop {
            if let Some((_, values)) = mail.take(|source, _| source == from) {
                if values.len() != len {
                    let problem = format!("it sent {} numbers where {len} were due", values.len());
                    return self.failed(operation, from, problem);
                }
                return Ok(values);
            }
            if mail.left[from] {
                return self.left(operation, from);
            }
            waiting.get_or_insert_with(|| self.seat.0.wait());
            let (woken, timeout) = mail_box.came.wait_timeout(mail, LOOK).unwrap_or_else(PoisonError::into_inner);
            mail = woken;
            if timeout.timed_out() {
                let watch = watch.get_or_insert_with(|| Watch::new(&self.seat.0));
                if let Some((rank, problem)) = watch.fault(self.room.members[from]) {
                    return Err(CommError { rank, operation, problem });
                }
            }
        }
    }

    fn sum_part(&self, call: Call, lent: Arc<Vec<f32>>) -> Result<Vec<f32>, CommError> {
        let all = self.meet(call, Lent::Numbers(lent))?;
        let range = part(call.len, self.ranks(), self.rank);
        let arrays: Vec<&[f32]> = all.iter().map(|brought| &brought.lent.numbers()[range.clone()]).collect();
        let mut mine = vec![0.0; range.len()];
        tree::sum(&arrays, &mut mine);
        Ok(mine)
    }

    fn gather_parts(&self, call: Call, mine: Vec<f32>) -> Result<Arc<[Brought]>, CommError> {
        let all = self.meet(call, Lent::Numbers(mine.into()))?;
        for (rank, brought) in all.iter().enumerate() {
            let (is, due) = (brought.lent.numbers().len(), part(call.len, all.len(), rank).len());
            if is != due {
                return self.failed(call.operation, rank, format!("it brought {is} numbers where {due} were due"));
            }
        }
        Ok(all)
    }

    fn sum_whole(&self, call: Call, values: Vec<f32>) -> Result<Vec<f32>, CommError> {
        let lent = Arc::new(values);
        if call.len <= SHORT {
            let all = self.meet(call, Lent::Numbers(lent))?;
            let arrays: Vec<&[f32]> = all.iter().map(|brought| brought.lent.numbers()).collect();
            let mut sum = vec![0.0; call.len];
            tree::sum(&arrays, &mut sum);
            return Ok(sum);
        }
        let mine = self.sum_part(call, lent.clone())?;
        let parts = self.gather_parts(call, mine)?;
        // All have added by now, so nobody reads this rank's array any more.
        let mut sum = Arc::try_unwrap(lent).unwrap_or_else(|_| vec![0.0; call.len]);
        for (rank, brought) in parts.iter().enumerate() {
            sum[part(call.len, parts.len(), rank)].copy_from_slice(brought.lent.numbers());
        }
        Ok(sum)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.room.meeting).left[self.rank] = true;
        self.room.met.notify_all();
        for mail_box in &self.room.boxes {
            lock(&mail_box.mail).left[self.rank] = true;
            mail_box.came.notify_all();
        }
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.room.members.len()
    }

    fn ranks_on_machine(&self) -> usize {
        let machines: Vec<usize> = self.room.members.iter().map(|rank| rank / self.room.on_machine).collect();
        ranks_on_machine(&machines)
    }

    fn pulse(&self) -> Pulse {
        self.seat.0.clone()
    }

    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        let call = |operation, len, root| Call { operation, len, root };
        match job {
            Job::AllReduce(array, _) => self.sum_whole(call("all_reduce", array.len(), 0), array.into_values()).map(Numbers::from),
            Job::ReduceScatter(array, _) => {
                self.sum_part(call("reduce_scatter", array.len(), 0), array.into_values().into()).map(Numbers::from)
            }
            Job::AllGather(mine, len) => {
                let parts = self.gather_parts(call("all_gather", len, 0), mine.into_values())?;
                let mut all = Vec::with_capacity(len);
                parts.iter().for_each(|brought| all.extend_from_slice(brought.lent.numbers()));
                Ok(all.into())
            }
            Job::Broadcast(root, array) => {
                let (call, len) = (call("broadcast", array.len(), root), array.len());
                let mut values = if self.rank == root { array.into_values() } else { Vec::new() };
                let lent = Arc::new(std::mem::take(&mut values));
                let all = self.meet(call, Lent::Numbers(lent.clone()))?;
                if self.rank != root {
                    return Ok(all[root].lent.numbers().to_vec().into());
                }
                drop(all);
                // The others may still be copying.
                Ok(Arc::try_unwrap(lent).unwrap_or_else(|lent| lent[..len].to_vec()).into())
            }
            Job::Send(to, array) => {
                let mail_box = &self.room.boxes[to];
                lock(&mail_box.mail).messages.push_back((self.rank, array.into_values()));
                mail_box.came.notify_one();
                Ok(Numbers::default())
            }
            Job::Recv(from, len) => self.take(from, len).map(Numbers::from),
        }
    }

    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        let mail_box = &self.room.boxes[self.rank];
        let mut mail = lock(&mail_box.mail);
        loop {
            if let Some((source, values)) = mail.take(|_, values| values.len() == data.len()) {
                data.copy_from_slice(&values);
                return Ok(Some(source));
            }
            let have_left = (0..mail.left.len()).filter(|rank| *rank != self.rank).all(|rank| mail.left[rank]);
            if have_left || until() || self.seat.0.vitals().fault().is_some() {
                return Ok(None);
            }
            mail = mail_box.came.wait_timeout(mail, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        let call = Call { operation: "split", len: 0, root: 0 };
        let all = self.meet(call, Lent::Color(color))?;
        let same = |brought: &Brought| matches!(brought.lent, Lent::Color(other) if other == color);
        let members: Vec<usize> = (0..all.len()).filter(|rank| same(&all[*rank])).collect();
        // The first of a group makes the room for all of it.
        let room = || Arc::new(Room::of(members.iter().map(|rank| self.room.members[*rank]).collect(), self.room.on_machine));
        let all = self.meet(call, Lent::Room((members[0] == self.rank).then(room)))?;
        let Lent::Room(Some(room)) = &all[members[0]].lent else { unreachable!("the first member brings the room") };
        let rank = members.iter().position(|rank| *rank == self.rank).unwrap_or(0);
        Ok(Box::new(Self { rank, room: room.clone(), seat: self.seat.clone() }))
    }
}

/// A rank that panicked has left, which the others learn from [`Drop`]; what it held is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
