//! A group that works beside its rank: jobs are started, run one after another on a thread of their own, and are waited
//! for when their result is needed. A group of one needs no thread.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use memory::Numbers;

use crate::{
    CommError, Communicator, Job, Pulse, part,
    sim::{GroupClock, Timing},
};

/// Stands for a job that was started; give it to [`Group::wait`] once.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a group has carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// That this rank had to send at least: for an all-reduce of `n` bytes over `r` ranks, `2 (r - 1) / r * n`.
    pub sent_bytes: u64,
    /// Seconds in which jobs ran.
    pub busy_secs: f64,
    /// Seconds in which the rank waited for them.
    pub exposed_secs: f64,
}

impl Traffic {
    /// Count `work`, for which this rank waits and in which it sends so many bytes.
    pub fn count<T>(&mut self, sent_bytes: u64, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let result = work();
        let secs = since.elapsed().as_secs_f64();
        *self = *self + Self { sent_bytes, busy_secs: secs, exposed_secs: secs };
        result
    }
}

/// One job as it ran.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub operation: &'static str,
    pub began: Instant,
    pub secs: f64,
}

impl std::ops::Add for Traffic {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes + other.sent_bytes,
            busy_secs: self.busy_secs + other.busy_secs,
            exposed_secs: self.exposed_secs + other.exposed_secs,
        }
    }
}

/// See the head of this file.
pub struct Group {
    rank: usize,
    ranks: usize,
    pulse: Pulse,
    worker: Worker,
    started: u64,
    done: HashMap<u64, Done>,
    /// See [`Job::held`].
    held: HashMap<u64, (usize, usize)>,
    traffic: Traffic,
    /// What ran, while somebody wants to know.
    spans: Option<Vec<Span>>,
    /// Of a simulated group: virtual seconds stand for those that pass.
    clock: Option<GroupClock>,
    timings: HashMap<u64, (Timing, &'static str)>,
}

enum Worker {
    Here(Box<dyn Communicator>),
    Beside { orders: Sender<Order>, results: Receiver<(u64, Done)>, thread: Option<JoinHandle<()>> },
}

enum Order {
    Run(u64, Job),
    Split(Split, Sender<Result<Box<dyn Communicator>, CommError>>),
}

/// This rank's color, or that of every rank.
enum Split {
    Color(usize),
    Colors(Vec<usize>),
}

impl Split {
    fn of(self, comm: &mut dyn Communicator) -> Result<Box<dyn Communicator>, CommError> {
        match self {
            Self::Color(color) => comm.split(color),
            Self::Colors(colors) => comm.split_by(&|rank| colors[rank]),
        }
    }
}

struct Done {
    result: Result<Numbers, CommError>,
    operation: &'static str,
    began: Instant,
    busy: Duration,
}

impl Group {
    #[must_use]
    pub fn new(mut comm: Box<dyn Communicator>) -> Self {
        let (rank, ranks, pulse, clock) = (comm.rank(), comm.ranks(), comm.pulse(), comm.take_clock());
        let has_nothing_to_do = ranks == 1 || clock.as_ref().is_some_and(|clock| !clock.carries_data());
        let worker = if has_nothing_to_do { Worker::Here(comm) } else { Worker::beside(comm) };
        let (done, held, timings) = Default::default();
        Self { rank, ranks, pulse, worker, started: 0, done, held, traffic: Traffic::default(), spans: None, clock, timings }
    }

    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    #[must_use]
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// This rank's signs of life; see [`Communicator::pulse`].
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Bytes that jobs hold which were started and not yet waited for, at most: all have what they were given or what came of it,
    /// and one of them runs and has both. It follows from what was started alone, on `Meta` as on `Cpu`.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let beside = self.held.values().map(|(_, beside)| *beside).max().unwrap_or(0);
        4 * (self.held.values().map(|(longer, _)| *longer).sum::<usize>() + beside) as u64
    }

    /// Keep a [`Span`] of each job from now on.
    pub fn record(&mut self) {
        self.spans = Some(Vec::new());
    }

    /// What was kept, and no more of it.
    pub fn spans(&mut self) -> Vec<Span> {
        self.spans.take().unwrap_or_default()
    }

    /// Begin `job` after those that were started before.
    pub fn start(&mut self, job: Job) -> Ticket {
        self.traffic.sent_bytes += self.sent_bytes(&job);
        let ticket = self.started;
        self.started += 1;
        self.held.insert(ticket, job.held(self.ranks, self.rank));
        if let Some(clock) = &mut self.clock {
            self.timings.insert(ticket, (clock.start(&job), job.operation()));
        }
        match &mut self.worker {
            Worker::Here(comm) => {
                self.done.insert(ticket, run(&mut **comm, job));
            }
            // Where the thread is gone, `wait` says so.
            Worker::Beside { orders, .. } => drop(orders.send(Order::Run(ticket, job))),
        }
        Ticket(ticket)
    }

    /// What came of a job.
    /// # Errors
    /// [`CommError`] when a rank did not do its part.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Numbers, CommError> {
        let since = Instant::now();
        // Virtual time first: a simulation sees that all ranks wait, and for what.
        let passed = match (&self.clock, self.timings.remove(&ticket.0)) {
            (Some(clock), Some((timing, operation))) => Some(clock.wait(timing, operation)?),
            _ => None,
        };
        while !self.done.contains_key(&ticket.0) {
            let received = match &self.worker {
                Worker::Beside { results, .. } => results.recv().ok(),
                Worker::Here(_) => None,
            };
            let Some((number, done)) = received else {
                let problem = "its communication thread has ended".to_owned();
                return Err(CommError { rank: self.rank, operation: "wait", problem });
            };
            self.done.insert(number, done);
        }
        let Some(done) = self.done.remove(&ticket.0) else { unreachable!("the loop above ends with the result") };
        self.held.remove(&ticket.0);
        let real = (since.elapsed().as_secs_f64(), done.busy.as_secs_f64());
        let (exposed_secs, busy_secs) = passed.map_or(real, |passed| (passed.exposed_secs, passed.busy_secs));
        self.traffic.exposed_secs += exposed_secs;
        self.traffic.busy_secs += busy_secs;
        if let Some(spans) = &mut self.spans {
            spans.push(Span { operation: done.operation, began: done.began, secs: done.busy.as_secs_f64() });
        }
        done.result
    }

    /// [`Group::start`] and [`Group::wait`] in one.
    /// # Errors
    /// As [`Group::wait`].
    pub fn run(&mut self, job: Job) -> Result<Numbers, CommError> {
        let ticket = self.start(job);
        self.wait(ticket)
    }

    /// The group of those ranks that give the same `color`, in the order of their numbers here. All jobs before it are done.
    /// # Errors
    /// As [`Group::wait`].
    pub fn split(&mut self, color: usize) -> Result<Self, CommError> {
        self.split_with(Split::Color(color))
    }

    /// The same, where every rank knows the color of every other; see [`Communicator::split_by`].
    /// # Errors
    /// As [`Group::wait`].
    pub fn split_by(&mut self, color: impl Fn(usize) -> usize) -> Result<Self, CommError> {
        self.split_with(Split::Colors((0..self.ranks).map(color).collect()))
    }

    fn split_with(&mut self, split: Split) -> Result<Self, CommError> {
        let part = match &mut self.worker {
            Worker::Here(comm) => split.of(&mut **comm),
            Worker::Beside { orders, .. } => {
                let (sender, receiver) = channel();
                drop(orders.send(Order::Split(split, sender)));
                let problem = || "its communication thread has ended".to_owned();
                receiver.recv().unwrap_or_else(|_| Err(CommError { rank: self.rank, operation: "split", problem: problem() }))
            }
        };
        Ok(Self::new(part?))
    }

    fn sent_bytes(&self, job: &Job) -> u64 {
        let others = |len: usize| len - part(len, self.ranks, self.rank).len();
        let elements = match job {
            Job::AllReduce(array, _) => 2 * others(array.len()),
            Job::ReduceScatter(array, _) => others(array.len()),
            Job::AllGather(mine, _) => mine.len() * (self.ranks - 1),
            Job::Broadcast(root, array) => {
                if *root == self.rank {
                    array.len()
                } else {
                    0
                }
            }
            Job::Send(_, array) => array.len(),
            Job::Recv(..) => 0,
        };
        let bytes = self.clock.as_ref().map_or(4.0, GroupClock::bytes_per_element);
        (bytes * elements as f64) as u64
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let worker = std::mem::replace(&mut self.worker, Worker::Here(Box::new(crate::Solo)));
        if let Worker::Beside { orders, results, thread } = worker {
            // The thread ends when nothing more can be ordered.
            drop((orders, results));
            if let Some(thread) = thread {
                drop(thread.join());
            }
        }
    }
}

impl Worker {
    fn beside(mut comm: Box<dyn Communicator>) -> Self {
        let (orders, received) = channel();
        let (sender, results) = channel();
        let work = move || {
            for order in received {
                match order {
                    Order::Run(ticket, job) => drop(sender.send((ticket, run(&mut *comm, job)))),
                    Order::Split(split, reply) => drop(reply.send(split.of(&mut *comm))),
                }
            }
        };
        let thread = std::thread::Builder::new().name("comm".into()).spawn(work).ok();
        Self::Beside { orders, results, thread }
    }
}

fn run(comm: &mut dyn Communicator, job: Job) -> Done {
    let (operation, began) = (job.operation(), Instant::now());
    let result = comm.carry(job);
    Done { result, operation, began, busy: began.elapsed() }
}
