//! A simulated cluster: communicators on a virtual clock.
//!
//! ```text
//! Topology (hardware) -> Sim -> Simulated: Communicator -> Group      the strategy's own code, unchanged
//!                         |        carries lengths (Meta) or, over threads, real numbers
//!                         +-> Clock: compute(secs) from the tape, Times out
//! ```
//! Start at [`Sim::new`]. On `Meta` only one rank of each role runs: 1,024 ranks that all do the same need one thread.
//! The same program on real numbers ([`Sim::with_data`]) keeps the same clock, so the tests of all communicators run on it.

mod clock;
mod collectives;
mod topology;

use std::sync::Arc;

pub(crate) use clock::Timing;
pub use clock::{Clock, GroupClock, Times};
pub use collectives::{Algorithm, NCCL, Prices};
pub use topology::{Link, LinkClass, Protocol, Spread, Topology};

use memory::Numbers;

use crate::{CommError, Communicator, Job, Pulse, Threads};
use clock::Shared;

/// What is not in the hardware.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// On the wire: 2 where gradients and weights travel in bf16, 4 in f32.
    pub bytes_per_element: f64,
    /// What an all-reduce in any order takes the fastest of.
    pub algorithms: Vec<Algorithm>,
    /// Share of a device's compute that a collective at the full rate inside a node takes while it runs beside it.
    pub contention: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { bytes_per_element: 2.0, algorithms: NCCL.to_vec(), contention: 0.0 }
    }
}

/// See the head of this file.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

impl Sim {
    /// Every rank of `topology`; `representative` gives for each rank the one that runs in its place, itself for those.
    #[must_use]
    pub fn new(topology: Topology, settings: Settings, representative: impl Fn(usize) -> usize) -> Self {
        Self(Arc::new(Shared::new(topology, settings, representative)))
    }

    /// The ranks that run.
    #[must_use]
    pub fn representatives(&self) -> &[usize] {
        &self.0.representatives
    }

    /// All ranks, as the representative `rank` sees them, carrying lengths. Each is asked for once.
    #[must_use]
    pub fn rank(&self, rank: usize) -> Simulated {
        self.world(rank, None)
    }

    /// All ranks, each to run on a thread of its own, carrying numbers.
    #[must_use]
    pub fn with_data(topology: Topology, settings: Settings) -> Vec<Simulated> {
        let ranks = topology.ranks();
        let sim = Self::new(topology, settings, |rank| rank);
        let carriers = Threads::group(ranks).into_iter().enumerate();
        carriers.map(|(rank, carrier)| sim.world(rank, Some(Box::new(carrier)))).collect()
    }

    fn world(&self, rank: usize, carrier: Option<Box<dyn Communicator>>) -> Simulated {
        let members: Arc<[usize]> = (0..self.0.topology.ranks()).collect();
        let seat = Arc::new(Seat(Clock { shared: self.0.clone(), role: self.0.roles[rank] }));
        Simulated::new(seat, members, rank, carrier)
    }
}

/// A rank as long as any of its groups is held.
struct Seat(Clock);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.shared.end(self.0.role);
    }
}

/// One rank of a simulated group.
pub struct Simulated {
    rank: usize,
    members: Arc<[usize]>,
    seat: Arc<Seat>,
    /// Until a [`crate::Group`] takes it, which knows when a job was started.
    clock: Option<GroupClock>,
    carrier: Option<Box<dyn Communicator>>,
}

impl Simulated {
    /// The clock of this rank, for what it computes.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.seat.0.clone()
    }

    fn new(seat: Arc<Seat>, members: Arc<[usize]>, rank: usize, carrier: Option<Box<dyn Communicator>>) -> Self {
        let clock = Some(GroupClock::new(seat.0.clone(), members.clone(), rank, carrier.is_some()));
        Self { rank, members, seat, clock, carrier }
    }

    fn part(&self, members: Vec<usize>, carrier: Option<Box<dyn Communicator>>) -> Box<dyn Communicator> {
        let rank = members.iter().position(|rank| *rank == self.members[self.rank]).unwrap_or(0);
        Box::new(Self::new(self.seat.clone(), members.into(), rank, carrier))
    }
}

impl Communicator for Simulated {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.members.len()
    }

    /// A price knows where the ranks are: levels are an algorithm there, and one job.
    fn ranks_on_machine(&self) -> usize {
        1
    }

    fn pulse(&self) -> Pulse {
        self.carrier.as_ref().map_or_else(Pulse::alone, |carrier| carrier.pulse())
    }

    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        if let Some(clock) = &mut self.clock {
            let timing = clock.start(&job);
            clock.wait(timing, job.operation())?;
        }
        match (&mut self.carrier, job) {
            (Some(carrier), job) => carrier.carry(job),
            // Of these the result is what the rank itself brought, where ranks do alike.
            (None, Job::AllReduce(array, _) | Job::Broadcast(_, array)) => Ok(array),
            (None, Job::Send(..)) => Ok(Numbers::default()),
            (None, job) => Ok(Numbers::Counted(clock::result_len(&job, self.ranks(), self.rank))),
        }
    }

    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        match (&mut self.carrier, &self.clock) {
            (None, Some(clock)) => clock.wait_any(data.len()).map(Some),
            (Some(carrier), clock) => {
                let Some(from) = carrier.recv_any(data, until)? else { return Ok(None) };
                clock.as_ref().map_or(Ok(from), |clock| clock.wait_from(from, data.len())).map(Some)
            }
            (None, None) => Err(CommError { rank: self.rank, operation: "recv", problem: "a group has taken its clock".into() }),
        }
    }

    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        let Some(carrier) = &mut self.carrier else {
            let problem = "no other rank runs that could say its color: `split_by` gives the color of every rank".into();
            return Err(CommError { rank: self.members[self.rank], operation: "split", problem });
        };
        let mut colors = vec![0.0; self.members.len() * 4];
        // Exact in pieces of 16 bits.
        let mine: Vec<f32> = (0..4).map(|i| (color >> (16 * i) & 0xffff) as f32).collect();
        carrier.all_gather(&mine, &mut colors)?;
        let members = (0..self.members.len()).filter(|rank| colors[4 * rank..][..4] == mine[..]).map(|rank| self.members[rank]).collect();
        let part = carrier.split(color)?;
        Ok(self.part(members, Some(part)))
    }

    fn split_by(&mut self, color: &dyn Fn(usize) -> usize) -> Result<Box<dyn Communicator>, CommError> {
        let carrier = self.carrier.as_mut().map(|carrier| carrier.split_by(color)).transpose()?;
        let members = (0..self.members.len()).filter(|rank| color(*rank) == color(self.rank)).map(|rank| self.members[rank]).collect();
        Ok(self.part(members, carrier))
    }

    fn take_clock(&mut self) -> Option<GroupClock> {
        self.clock.take()
    }

    fn count_by_machine(&mut self) -> bool {
        self.clock.as_mut().is_some_and(GroupClock::count_by_machine)
    }
}
