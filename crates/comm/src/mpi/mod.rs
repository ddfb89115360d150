//! Ranks that are processes, on one machine or many, over a real MPI.
//!
//! ```text
//! Order::Tree:  part r of every array goes to rank r (all-to-all), which adds them in the tree of all backends;
//!               then an all-gather. As many bytes as the best all-reduce moves, and the same bits everywhere.
//! Order::Any:   MPI's own sums
//! ```
//! Each transfer is non-blocking and looked at until it is done, so that a rank that dies or hangs is noticed: by a
//! thread beside ([`heart`]). Each collective tells all ranks what was called, in a transfer beside its own.
//!
//! **Absent on purpose:** any recovery inside MPI. Who finds a fault returns an error and ends without ending MPI, which
//! makes `mpirun` end the rest.

mod heart;
mod raw;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use mpi::environment::Universe;

use memory::Numbers;

use crate::{
    CommError, Communicator, Job, Order, Patience, Pulse,
    hierarchical::ranks_on_machine,
    launched, part,
    pulse::{Vitals, Watch},
    tree,
};
use heart::Heart;
use raw::{Counts, Message, Processes, Transfer};

/// Up to this length a sum in the order of the tree is one all-gather, after which every rank adds all.
const SHORT: usize = 1024;
/// Longest sleep between two looks at a transfer.
const NAP: Duration = Duration::from_micros(200);
const RECV: &str = "recv";
/// How often a rank that waits looks for signs of life.
const LOOK: Duration = Duration::from_millis(50);

/// One rank of a group of processes.
pub struct Mpi {
    group: Processes,
    /// Numbers of its ranks among all ranks of the job.
    members: Vec<usize>,
    process: Arc<Process>,
    /// Memory for what other ranks bring to a sum: fresh memory costs more than the sum.
    slices: Vec<f32>,
}

/// What this process holds once. The last group that goes ends MPI.
struct Process {
    pulse: Pulse,
    /// Where each rank of the job runs.
    machines: Vec<usize>,
    heart: Option<Heart>,
    universe: Mutex<Option<Universe>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let universe = self.universe.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(heart) = self.heart.take() else { return };
        if self.pulse.vitals().fault().is_some() || std::thread::panicking() {
            // To end MPI is to wait for all, and one of them is gone.
            std::mem::forget(universe);
            // Who is at fault can be said before the others have found it too.
            *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(heart);
        }
    }
}

/// Of a process that found a fault: still tells the others.
static FAREWELL: Mutex<Option<Heart>> = Mutex::new(None);

/// Stay until the other processes know of a fault that was found here; at once where there was none. To be called last:
/// `mpirun` ends all when one ends.
pub fn farewell() {
    drop(FAREWELL.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Mpi {
    /// All processes that `mpirun` started; `None` when none did.
    /// # Errors
    /// When MPI does not begin, or was begun before in this process.
    pub fn world() -> Result<Option<Self>, CommError> {
        Self::patient(Patience::default())
    }

    /// The same, with another patience.
    /// # Errors
    /// As [`Mpi::world`].
    pub fn patient(patience: Patience) -> Result<Option<Self>, CommError> {
        if launched().is_none() {
            return Ok(None);
        }
        Self::begin(patience).map(Some).map_err(|problem| CommError { rank: 0, operation: "begin", problem })
    }

    fn begin(patience: Patience) -> Result<Self, String> {
        let universe = raw::initialise()?;
        let group = Processes::world(&universe)?;
        let vitals = Arc::new(Vitals::new(group.ranks(), patience));
        let pulse = Pulse::new(&vitals, group.rank());
        let places = heart::places(group)?;
        let machines = places.iter().map(|place| place.links as usize).collect();
        let heart = Some(Heart::begin(group.copy()?, places, vitals)?);
        let process = Arc::new(Process { pulse, machines, heart, universe: Mutex::new(Some(universe)) });
        Ok(Self { group, members: (0..group.ranks()).collect(), process, slices: Vec::new() })
    }

    fn failed(&self, operation: &'static str, rank: usize, problem: String) -> CommError {
        let (rank, problem) = self.process.pulse.vitals().blame(self.members[rank], problem);
        CommError { rank, operation, problem }
    }

    /// What MPI itself refuses is laid to this rank's own door.
    fn own(&self, operation: &'static str) -> impl Fn(String) -> CommError {
        move |problem| self.failed(operation, self.rank(), problem)
    }

    /// Look again and again, ever more slowly, until `done` gives something; `missing` is a rank that it hangs on.
    fn until<T>(
        &self,
        operation: &'static str,
        missing: Option<usize>,
        mut done: impl FnMut() -> Result<Option<T>, String>,
    ) -> Result<T, CommError> {
        let (mut waiting, mut watch, mut looked, mut looks) = (None, None, Instant::now(), 0);
        let since = looked;
        let pulse = &self.process.pulse;
        loop {
            if let Some(result) = done().map_err(self.own(operation))? {
                return Ok(result);
            }
            waiting.get_or_insert_with(|| pulse.wait());
            if looked.elapsed() > LOOK {
                (looked, looks) = (Instant::now(), looks + 1);
                let watch = watch.get_or_insert_with(|| Watch::new(pulse));
                // In a collective it may hang on anyone: one that has ended, or the next.
                let vitals = pulse.vitals();
                let ended = |rank: &usize| self.has_ended(*rank);
                let others = (0..self.ranks()).filter(|rank| *rank != self.rank());
                let gone = missing.map_or_else(|| others.clone().find(ended), |rank| Some(rank).filter(ended));
                // Its last message may be on its way still; looks, not seconds, as the whole job may have been suspended.
                if let Some(gone) = gone.filter(|_| looks > 20) {
                    let (rank, problem) = vitals.blame_left(self.members[gone]);
                    return Err(CommError { rank, operation, problem });
                }
                let missing = missing.or_else(|| others.clone().next()).unwrap_or(0);
                if let Some((rank, problem)) = vitals.fault().or_else(|| watch.fault(self.members[missing])) {
                    return Err(CommError { rank, operation, problem });
                }
            }
            nap(since);
        }
    }

    fn finish(&self, operation: &'static str, missing: Option<usize>, mut transfer: Transfer) -> Result<(Vec<f32>, Vec<f32>), CommError> {
        self.until(operation, missing, || Ok(transfer.test()?.then_some(())))?;
        if let Some(heart) = &self.process.heart {
            heart.see_to_the_end();
        }
        transfer.finish().ok_or_else(|| self.failed(operation, self.rank(), "a transfer did not end".into()))
    }

    /// A collective: what is called goes to all beside the numbers, and differences are an error.
    fn collective(
        &self,
        operation: &'static str,
        len: usize,
        root: usize,
        transfer: Result<Transfer, String>,
    ) -> Result<(Vec<f32>, Vec<f32>), CommError> {
        let own = self.own(operation);
        let word = |number: usize| [number as u32, (number as u64 >> 32) as u32].map(f32::from_bits);
        let name = operation.bytes().fold(0_usize, |name, byte| name.wrapping_mul(31) + usize::from(byte));
        let mine = [word(name), word(len), word(root)].concat();
        let counts = Counts::new((0..self.ranks()).map(|_| mine.len())).map_err(&own)?;
        let word = self.group.all_gather(mine.clone(), Vec::new(), counts).map_err(&own)?;
        // Both are on their way at once, begun in the same order by all.
        let transfer = transfer.map_err(&own)?;
        let (_, all) = self.finish(operation, None, word)?;
        let calls: Vec<Vec<u32>> = all.chunks_exact(mine.len()).map(|call| call.iter().map(|x| x.to_bits()).collect()).collect();
        let votes = |call: &Vec<u32>| calls.iter().filter(|other| *other == call).count();
        let right = calls.iter().rev().max_by_key(|call| votes(call));
        if let Some(wrong) = calls.iter().position(|call| Some(call) != right) {
            let problem =
                format!("it called something else than the others, or {} numbers where others brought another count", calls[wrong][2]);
            return Err(self.failed(operation, wrong, problem));
        }
        self.finish(operation, None, transfer)
    }

    fn parts(&self, len: usize) -> Result<Counts, String> {
        Counts::new((0..self.ranks()).map(|rank| part(len, self.ranks(), rank).len()))
    }

    /// This rank's part of the sum, in the order of the tree, and the memory of `data`.
    fn sum_part(&mut self, operation: &'static str, data: Vec<f32>) -> Result<(Vec<f32>, Vec<f32>), CommError> {
        let len = data.len();
        let mine = part(len, self.ranks(), self.rank()).len();
        let slices = std::mem::take(&mut self.slices);
        let start = || self.group.all_to_all(data, slices, self.parts(len)?, Counts::new((0..self.ranks()).map(|_| mine))?);
        let (data, slices) = self.collective(operation, len, 0, start())?;
        let sum = self.add(&slices, mine);
        self.slices = slices;
        Ok((sum, data))
    }

    fn sum_whole(&mut self, data: Vec<f32>) -> Result<Vec<f32>, CommError> {
        let (operation, len) = ("all_reduce", data.len());
        if len <= SHORT {
            let start = || self.group.all_gather(data, Vec::new(), Counts::new((0..self.ranks()).map(|_| len))?);
            let (_, all) = self.collective(operation, len, 0, start())?;
            return Ok(self.add(&all, len));
        }
        let (mine, memory) = self.sum_part(operation, data)?;
        let start = || self.group.all_gather(mine, memory, self.parts(len)?);
        let transfer = start().map_err(self.own(operation))?;
        Ok(self.finish(operation, None, transfer)?.1)
    }

    /// The sum of arrays of `len` that stand one after another.
    fn add(&self, arrays: &[f32], len: usize) -> Vec<f32> {
        let mut sum = vec![0.0; len];
        let arrays: Vec<&[f32]> = (0..self.ranks()).map(|rank| &arrays[rank * len..(rank + 1) * len]).collect();
        tree::sum(&arrays, &mut sum);
        sum
    }

    /// The next message from `from`.
    fn receive(&self, from: usize, len: usize) -> Result<Vec<f32>, CommError> {
        let message = self.until(RECV, Some(from), || self.group.probe(Some(from), None))?;
        if message.len != len {
            return Err(self.failed(RECV, from, format!("it sent {} numbers where {len} were due", message.len)));
        }
        self.take(message)
    }

    /// The numbers of a message that has come.
    fn take(&self, message: Message) -> Result<Vec<f32>, CommError> {
        let from = message.from;
        let transfer = Processes::receive(message).map_err(self.own(RECV))?;
        Ok(self.finish(RECV, Some(from), transfer)?.1)
    }

    fn has_ended(&self, rank: usize) -> bool {
        self.process.pulse.vitals().ranks[self.members[rank]].ended.load(Relaxed)
    }
}

/// Ever longer, the longer it has been.
fn nap(since: Instant) {
    match since.elapsed() {
        moment if moment < Duration::from_micros(20) => std::thread::yield_now(),
        time => std::thread::sleep((time / 8).min(NAP)),
    }
}

/// Messages are told apart by their length, as [`Communicator::recv_any`] asks for one.
fn tag(len: usize) -> usize {
    len & 0x3fff_ffff
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn ranks(&self) -> usize {
        self.members.len()
    }

    fn ranks_on_machine(&self) -> usize {
        let machines: Vec<usize> = self.members.iter().map(|rank| self.process.machines[*rank]).collect();
        ranks_on_machine(&machines)
    }

    fn pulse(&self) -> Pulse {
        self.process.pulse.clone()
    }

    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        let len = |array: &Numbers| array.len();
        match job {
            Job::AllReduce(array, Order::Tree) => self.sum_whole(array.into_values()),
            Job::AllReduce(array, Order::Any) => {
                let len = len(&array);
                Ok(self.collective("all_reduce", len, 0, self.group.all_reduce(array.into_values()))?.1)
            }
            Job::ReduceScatter(array, Order::Tree) => Ok(self.sum_part("reduce_scatter", array.into_values())?.0),
            Job::ReduceScatter(array, Order::Any) => {
                let len = len(&array);
                let start = || self.group.reduce_scatter(array.into_values(), self.parts(len)?);
                Ok(self.collective("reduce_scatter", len, 0, start())?.1)
            }
            Job::AllGather(mine, len) => {
                let (is, due) = (mine.len(), part(len, self.ranks(), self.rank()).len());
                if is != due {
                    let problem = format!("it brought {is} numbers where {due} were due");
                    return Err(self.failed("all_gather", self.rank(), problem));
                }
                let start = || self.group.all_gather(mine.into_values(), Vec::new(), self.parts(len)?);
                Ok(self.collective("all_gather", len, 0, start())?.1)
            }
            Job::Broadcast(root, array) => {
                let len = len(&array);
                Ok(self.collective("broadcast", len, root, self.group.broadcast(array.into_values(), root))?.0)
            }
            Job::Send(to, array) => {
                let len = len(&array);
                let message = self.group.send(array.into_values(), to, tag(len)).map_err(self.own("send"))?;
                if let Some(heart) = &self.process.heart {
                    heart.see_off(message);
                }
                Ok(Vec::new())
            }
            Job::Recv(from, len) => self.receive(from, len),
        }
        .map(Numbers::from)
    }

    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        let since = Instant::now();
        loop {
            if let Some(message) = self.group.probe(None, Some(tag(data.len()))).map_err(self.own(RECV))? {
                let from = message.from;
                data.copy_from_slice(&self.take(message)?);
                return Ok(Some(from));
            }
            let have_left = (0..self.ranks()).filter(|rank| *rank != self.rank()).all(|rank| self.has_ended(rank));
            if have_left || until() || self.process.pulse.vitals().fault().is_some() {
                return Ok(None);
            }
            nap(since);
        }
    }

    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        let operation = "split";
        let own = self.own(operation);
        let mine = [color as u32, (color as u64 >> 32) as u32].map(f32::from_bits).to_vec();
        let start = || self.group.all_gather(mine, Vec::new(), Counts::new((0..self.ranks()).map(|_| 2))?);
        let (_, all) = self.collective(operation, 0, 0, start())?;
        let colors: Vec<[u32; 2]> = all.chunks_exact(2).map(|c| [c[0].to_bits(), c[1].to_bits()]).collect();
        let me = colors[self.rank()];
        let members = (0..colors.len()).filter(|rank| colors[*rank] == me).map(|rank| self.members[rank]).collect();
        // A small number for MPI: the first rank of that color. All are here, so this blocks no longer than a message.
        let first = colors.iter().position(|color| *color == me).unwrap_or(0);
        let group = self.group.split(first).map_err(&own)?;
        Ok(Box::new(Self { group, members, process: self.process.clone(), slices: Vec::new() }))
    }
}
