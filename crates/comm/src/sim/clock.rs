//! Virtual time: each role has a stream of compute, and for each class of link one of collectives and one of messages.
//!
//! ```text
//! compute   ====forward====|==backward==|.wait.|==
//! inside         [gather]      [reduce]                  a job begins when it was started and its stream is free
//! across              [sum over groups..........]        on every role that takes part; waiting moves compute on
//! messages                  [to the next stage]          past what is summed meanwhile
//! ```
//! A message goes past collectives because each group has channels of its own, as it has with NCCL; what it takes of their
//! rate meanwhile is left out, being small beside them.
//! A role stands for all ranks that do the same: a group in which all ranks have one role needs no partner. Where several
//! roles meet, the job begins when the last is ready. Time depends on the program alone, not on the threads that run it:
//! streams take jobs in the order in which they were started, and where roles started them in different orders, the
//! ready one that comes first goes ahead once every role waits.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{
    Settings,
    collectives::Prices,
    topology::{LinkClass, Spread, Topology},
};
use crate::{CommError, Job, Order, PIECE, part};

/// What passed on one role, in virtual seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    pub now_secs: f64,
    pub compute_secs: f64,
    /// In which compute waited for transfers.
    pub exposed_secs: f64,
    /// In which transfers ran, inside nodes and across.
    pub busy_secs: [f64; 2],
}

impl Times {
    /// The seconds of it that are exposed.
    fn wait_until(&mut self, end_secs: f64) -> f64 {
        let exposed_secs = (end_secs - self.now_secs).max(0.0);
        self.now_secs += exposed_secs;
        self.exposed_secs += exposed_secs;
        exposed_secs
    }
}

/// The clock of one role; clones are hands on the same.
#[derive(Clone)]
pub struct Clock {
    pub(super) shared: Arc<Shared>,
    pub(super) role: usize,
}

impl Clock {
    /// The role computes what takes `secs` alone, and longer beside collectives.
    pub fn compute(&self, secs: f64) {
        let role = &mut lock(&self.shared.world).roles[self.role];
        let now_secs = role.times.now_secs;
        let lost_secs = |stream: &Stream| {
            let beside_secs = (secs / (1.0 - stream.contention)).min((stream.free_secs - now_secs).max(0.0));
            beside_secs * stream.contention
        };
        let secs = secs + role.streams[..2].iter().map(lost_secs).sum::<f64>();
        role.times.now_secs += secs;
        role.times.compute_secs += secs;
    }

    #[must_use]
    pub fn times(&self) -> Times {
        lock(&self.shared.world).roles[self.role].times
    }
}

pub(super) struct Shared {
    pub(super) topology: Topology,
    pub(super) settings: Settings,
    /// The role of each rank.
    pub(super) roles: Vec<usize>,
    /// The rank that stands for each role.
    pub(super) representatives: Vec<usize>,
    pub(super) world: Mutex<World>,
    /// Each role sleeps on its own: a post wakes those alone that it lets go on.
    awake: Vec<Condvar>,
}

impl Shared {
    pub(super) fn new(topology: Topology, settings: Settings, representative: impl Fn(usize) -> usize) -> Self {
        let ranks = topology.ranks();
        let mut representatives: Vec<usize> = (0..ranks).map(&representative).collect();
        representatives.sort_unstable();
        representatives.dedup();
        let role = |rank| representatives.binary_search(&representative(rank)).unwrap_or(0);
        let roles = (0..ranks).map(role).collect();
        let world = World { roles: representatives.iter().map(|_| Role::default()).collect(), ..World::default() };
        let awake = representatives.iter().map(|_| Condvar::new()).collect();
        Self { topology, settings, roles, representatives, world: Mutex::new(world), awake }
    }

    pub(super) fn end(&self, role: usize) {
        let mut world = lock(&self.world);
        world.roles[role].ended = true;
        // One that waits for it must learn that nobody comes.
        self.awake.iter().for_each(Condvar::notify_one);
    }

    /// Wake the roles whose wait is over.
    fn wake(&self, world: &World) {
        for (role, awake) in world.roles.iter().zip(&self.awake) {
            if role.waits.is_some_and(|timing| world.span(timing).is_some()) {
                awake.notify_one();
            }
        }
    }
}

#[derive(Default)]
pub(super) struct World {
    roles: Vec<Role>,
    jobs: HashMap<Key, Posted>,
    mail: HashMap<(u64, usize, usize), Mail>,
    /// Groups by their members and how many there were of the same before.
    groups: HashMap<(Arc<[usize]>, u64), u64>,
}

/// A job by its group and its number there; messages count from their sender.
type Key = (u64, usize, u64);

#[derive(Default)]
struct Role {
    times: Times,
    /// As [`Posted::stream`] numbers them.
    streams: [Stream; 4],
    /// What it waits for.
    waits: Option<Timing>,
    ended: bool,
    made: HashMap<Arc<[usize]>, u64>,
}

#[derive(Default)]
struct Stream {
    free_secs: f64,
    /// Share of compute that the job which runs last takes.
    contention: f64,
    queue: VecDeque<Key>,
}

/// A job that at least one role has started.
struct Posted {
    class: LinkClass,
    secs: f64,
    contention: f64,
    /// Roles that have started it, and when each did.
    ready: Vec<(usize, f64)>,
    roles: usize,
    begun_secs: f64,
    end_secs: Option<f64>,
    taken: usize,
    /// Where it is a message: its box, and how many numbers.
    message: Option<((u64, usize, usize), usize)>,
}

impl Posted {
    /// Collectives inside and across, then messages.
    fn stream(&self) -> usize {
        self.class as usize + if self.message.is_some() { 2 } else { 0 }
    }
}

#[derive(Default)]
struct Mail {
    /// When each arrived, and its length.
    arrived: Vec<(f64, usize)>,
    /// How many are spoken for.
    taken: usize,
}

/// What tells when a job that was started is done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Timing {
    Job(u64, usize, u64),
    Message {
        group: u64,
        from: usize,
        to: usize,
        index: usize,
    },
    /// The first of that length from any role.
    AnyMessage {
        group: u64,
        to: usize,
        len: usize,
    },
}

/// The clock of a role, as one of its groups sees it; see [`crate::Communicator::take_clock`].
pub struct GroupClock {
    pub(super) clock: Clock,
    pub(super) members: Arc<[usize]>,
    /// This rank's place among them.
    pub(super) rank: usize,
    group: u64,
    spread: Spread,
    roles: usize,
    jobs: u64,
    messages: u64,
    carries_data: bool,
    by_machine: bool,
}

/// Virtual seconds of one job: that the role waited, and that it ran.
pub(crate) struct Passed {
    pub(crate) exposed_secs: f64,
    pub(crate) busy_secs: f64,
}

impl GroupClock {
    pub(super) fn new(clock: Clock, members: Arc<[usize]>, rank: usize, carries_data: bool) -> Self {
        let shared = clock.shared.clone();
        let mut roles: Vec<usize> = members.iter().map(|rank| shared.roles[*rank]).collect();
        roles.sort_unstable();
        roles.dedup();
        let mut world = lock(&shared.world);
        let made = world.roles[clock.role].made.entry(members.clone()).or_default();
        let number = *made;
        *made += 1;
        let fresh = world.groups.len() as u64;
        let group = *world.groups.entry((members.clone(), number)).or_insert(fresh);
        drop(world);
        let spread = shared.topology.spread(&members);
        Self { clock, members, rank, group, spread, roles: roles.len(), jobs: 0, messages: 0, carries_data, by_machine: false }
    }

    pub(crate) fn bytes_per_element(&self) -> f64 {
        self.clock.shared.settings.bytes_per_element
    }

    pub(crate) fn carries_data(&self) -> bool {
        self.carries_data
    }

    /// From here on collectives go in two levels, where there are two.
    pub(crate) fn count_by_machine(&mut self) -> bool {
        self.by_machine = self.spread.nodes > 1 && self.spread.per_node > 1;
        true
    }

    /// The job begins as soon as its stream is free.
    pub(crate) fn start(&mut self, job: &Job) -> Timing {
        let (me, shared) = (self.clock.role, self.clock.shared.clone());
        let bytes = |len: usize| len as f64 * self.bytes_per_element();
        let prices = Prices { topology: &shared.topology, spread: self.spread };
        let algorithms = &shared.settings.algorithms;
        // What the two levels of `by_machine` take, one after the other.
        let levels = |bytes: f64, secs: &dyn Fn(Prices<'_>, f64) -> f64| {
            let (inside, across) = prices.levels();
            let k = self.spread.per_node as f64;
            if self.by_machine { secs(inside, bytes) + secs(across, bytes / k) } else { secs(prices, bytes) }
        };
        let gather = |len: usize| levels(bytes(len), &|prices, bytes| prices.gather_secs(bytes));
        let scatter = |len: usize, order: Order| match order {
            Order::Any => gather(len),
            Order::Tree => levels(bytes(len), &|prices, bytes| prices.all_to_all_secs(bytes)),
        };
        let secs = match job {
            Job::AllReduce(array, order) if self.by_machine && array.len() > PIECE => {
                // In pieces, so that both levels are busy at once.
                let (inside, across) = prices.levels();
                let (len, slice) = (bytes(array.len()), bytes(array.len()) / self.spread.per_node as f64);
                let both = |prices: Prices<'_>, bytes: f64| match order {
                    Order::Any => 2.0 * prices.gather_secs(bytes),
                    Order::Tree => prices.push_pull_secs(bytes),
                };
                both(inside, len).max(both(across, slice))
            }
            Job::AllReduce(array, Order::Any) if !self.by_machine => prices.all_reduce_secs(bytes(array.len()), algorithms),
            Job::AllReduce(array, order) => scatter(array.len(), *order) + gather(array.len()),
            Job::ReduceScatter(array, order) => scatter(array.len(), *order),
            Job::AllGather(_, len) => gather(*len),
            Job::Broadcast(_, array) => prices.broadcast_secs(bytes(array.len())),
            Job::Send(to, array) => {
                let (from, to) = (self.members[self.rank], self.members[*to]);
                let secs = Prices::message_secs(&shared.topology, from, to, bytes(array.len()));
                let class = shared.topology.spread(&[from, to]).class();
                self.messages += 1;
                // Its own name space: messages have no partner to agree with on a number.
                let key = (self.group, 1 + me, self.messages);
                let message = Some(((self.group, me, shared.roles[to]), array.len()));
                return self.post(key, class, secs, 1, message);
            }
            Job::Recv(from, _) => {
                let from = shared.roles[self.members[*from]];
                let mut world = lock(&shared.world);
                let mail = world.mail.entry((self.group, from, me)).or_default();
                mail.taken += 1;
                return Timing::Message { group: self.group, from, to: me, index: mail.taken - 1 };
            }
        };
        self.jobs += 1;
        self.post((self.group, 0, self.jobs), self.spread.class(), secs, self.roles, None)
    }

    fn post(&self, key: Key, class: LinkClass, secs: f64, roles: usize, message: Option<((u64, usize, usize), usize)>) -> Timing {
        let me = self.clock.role;
        let mut world = lock(&self.clock.shared.world);
        let now = world.roles[me].times.now_secs;
        let contention = self.contention();
        let fresh = Posted { class, secs, contention, ready: Vec::new(), roles, begun_secs: 0.0, end_secs: None, taken: 0, message };
        let posted = world.jobs.entry(key).or_insert(fresh);
        posted.ready.push((me, now));
        // Parts of unequal lengths: the longest counts.
        posted.secs = posted.secs.max(secs);
        let stream = posted.stream();
        world.roles[me].streams[stream].queue.push_back(key);
        world.run(me, stream);
        self.clock.shared.wake(&world);
        Timing::Job(key.0, key.1, key.2)
    }

    /// A collective takes units and memory in step with the bytes that pass through a device.
    fn contention(&self) -> f64 {
        let Shared { topology, settings, .. } = &*self.clock.shared;
        let rate = Prices { topology, spread: self.spread }.ring_rate(1.0);
        settings.contention * (rate / topology.inside.bytes_per_sec).min(1.0)
    }

    /// Compute goes on when the job is done.
    pub(crate) fn wait(&self, timing: Timing, operation: &'static str) -> Result<Passed, CommError> {
        let (mut world, begun, end) = self.until(timing, operation)?;
        world.take(timing);
        let exposed_secs = world.roles[self.clock.role].times.wait_until(end);
        Ok(Passed { exposed_secs, busy_secs: end - begun })
    }

    /// The first message of `len` to arrive; the place of a rank of the role that sent it.
    pub(crate) fn wait_any(&self, len: usize) -> Result<usize, CommError> {
        let (group, to, shared) = (self.group, self.clock.role, &self.clock.shared);
        let (mut world, _, end) = self.until(Timing::AnyMessage { group, to, len }, "recv")?;
        world.roles[to].times.wait_until(end);
        let Some((_, from, index)) = world.first(group, to, len) else { unreachable!("`until` ends when there is one") };
        world.mail.entry((group, from, to)).or_default().arrived.remove(index);
        Ok(self.members.iter().position(|rank| shared.roles[*rank] == from).unwrap_or(0))
    }

    /// Wait until the begin and end of something are known.
    fn until(&self, timing: Timing, operation: &'static str) -> Result<(MutexGuard<'_, World>, f64, f64), CommError> {
        let (me, shared) = (self.clock.role, &*self.clock.shared);
        let mut world = lock(&shared.world);
        world.roles[me].waits = Some(timing);
        loop {
            if let Some((begun, end)) = world.span(timing) {
                world.roles[me].waits = None;
                return Ok((world, begun, end));
            }
            let stands = |role: &Role| role.ended || role.waits.is_some_and(|timing| world.span(timing).is_none());
            if world.roles.iter().all(stands) {
                if world.run_ahead() {
                    shared.wake(&world);
                    continue;
                }
                let missing = self.missing(&world, timing);
                world.roles[me].ended = true;
                shared.awake.iter().for_each(Condvar::notify_one);
                let problem = if world.roles[missing].ended { "it has ended" } else { "all ranks wait, and it for something else" };
                return Err(CommError { rank: shared.representatives[missing], operation, problem: problem.into() });
            }
            world = shared.awake[me].wait(world).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Of a message that has come from that place: it has arrived here too.
    pub(crate) fn wait_from(&self, from: usize, len: usize) -> Result<usize, CommError> {
        let shared = &*self.clock.shared;
        let key = (self.group, shared.roles[self.members[from]], self.clock.role);
        let mut world = lock(&shared.world);
        let mail = world.mail.entry(key).or_default();
        if let Some(index) = (mail.taken..mail.arrived.len()).find(|index| mail.arrived[*index].1 == len) {
            let (arrived, _) = mail.arrived.remove(index);
            world.roles[self.clock.role].times.wait_until(arrived);
        }
        Ok(from)
    }

    /// A role that the job hangs on.
    fn missing(&self, world: &World, timing: Timing) -> usize {
        match timing {
            Timing::Message { from, .. } => from,
            Timing::AnyMessage { to, .. } => world.roles.iter().position(|role| role.ended).unwrap_or(to),
            Timing::Job(a, b, c) => {
                let here = |role: &usize| world.jobs.get(&(a, b, c)).is_some_and(|job| job.ready.iter().any(|(here, _)| here == role));
                let roles = self.members.iter().map(|rank| self.clock.shared.roles[*rank]);
                roles.clone().find(|role| !here(role)).or_else(|| roles.into_iter().next()).unwrap_or(0)
            }
        }
    }
}

impl World {
    /// Begin and end of what is known to end.
    fn span(&self, timing: Timing) -> Option<(f64, f64)> {
        match timing {
            Timing::Job(a, b, c) => self.jobs.get(&(a, b, c)).and_then(|job| Some((job.begun_secs, job.end_secs?))),
            Timing::Message { group, from, to, index } => {
                let (arrived, _) = self.mail.get(&(group, from, to))?.arrived.get(index)?;
                Some((*arrived, *arrived))
            }
            Timing::AnyMessage { group, to, len } => self.first(group, to, len).map(|(arrived, _, _)| (arrived, arrived)),
        }
    }

    /// Of messages of `len` to a role that nobody has spoken for, when the first arrived, from whom, and its place.
    fn first(&self, group: u64, to: usize, len: usize) -> Option<(f64, usize, usize)> {
        let boxes = self.mail.iter().filter(|((of, _, receiver), _)| (*of, *receiver) == (group, to));
        let messages = boxes.flat_map(|((_, from, _), mail)| {
            let open = mail.arrived.iter().enumerate().skip(mail.taken).filter(|(_, (_, length))| *length == len);
            open.map(|(index, (arrived, _))| (*arrived, *from, index))
        });
        messages.min_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))))
    }

    /// A role has seen the end of a job; the last forgets it.
    fn take(&mut self, timing: Timing) {
        if let Timing::Job(a, b, c) = timing
            && let Some(job) = self.jobs.get_mut(&(a, b, c))
        {
            job.taken += 1;
            if job.taken == job.roles {
                self.jobs.remove(&(a, b, c));
            }
        }
    }

    /// Run the job at the front of a role's stream if all its roles have started it and have it at the front, and what comes to
    /// the front by that.
    fn run(&mut self, role: usize, stream: usize) {
        let mut fronts = vec![role];
        while let Some(role) = fronts.pop() {
            let front = |role: usize| self.roles[role].streams[stream].queue.front();
            let Some((key, job)) = front(role).and_then(|key| Some((*key, self.jobs.get(key)?))) else { continue };
            let all: Vec<usize> = job.ready.iter().map(|(role, _)| *role).collect();
            if all.len() == job.roles && all.iter().all(|role| front(*role) == Some(&key)) {
                self.run_job(key);
                fronts.extend(all);
            }
        }
    }

    /// Every role waits: of the jobs that all their roles have started, the one that was ready first goes ahead of its
    /// streams. Whether there was one.
    fn run_ahead(&mut self) -> bool {
        let ready = |job: &Posted| job.ready.iter().map(|(_, secs)| *secs).fold(0.0, f64::max);
        let whole = self.jobs.iter().filter(|(_, job)| job.ready.len() == job.roles && job.end_secs.is_none());
        let first = whole.min_by(|(a, x), (b, y)| ready(x).total_cmp(&ready(y)).then(a.cmp(b)));
        let Some((key, job)) = first else { return false };
        let (key, stream, all) = (*key, job.stream(), job.ready.iter().map(|(role, _)| *role).collect::<Vec<_>>());
        self.run_job(key);
        all.into_iter().for_each(|role| self.run(role, stream));
        true
    }

    fn run_job(&mut self, key: Key) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let (class, stream) = (job.class as usize, job.stream());
        let free = |(role, ready): &(usize, f64)| self.roles[*role].streams[stream].free_secs.max(*ready);
        job.begun_secs = job.ready.iter().map(free).fold(0.0, f64::max);
        let end = job.begun_secs + job.secs;
        job.end_secs = Some(end);
        for (role, _) in &job.ready {
            let role = &mut self.roles[*role];
            role.times.busy_secs[class] += job.secs;
            role.streams[stream].free_secs = end;
            role.streams[stream].contention = job.contention;
            role.streams[stream].queue.retain(|other| *other != key);
        }
        if let Some((to, len)) = job.message {
            self.mail.entry(to).or_default().arrived.push((end, len));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The length of what comes of a job on rank `rank` of `ranks`.
pub(super) fn result_len(job: &Job, ranks: usize, rank: usize) -> usize {
    match job {
        Job::AllReduce(array, _) | Job::Broadcast(_, array) => array.len(),
        Job::Send(..) => 0,
        Job::ReduceScatter(array, _) => part(array.len(), ranks, rank).len(),
        Job::AllGather(_, len) | Job::Recv(_, len) => *len,
    }
}
