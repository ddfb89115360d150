//! Parameter servers, as TensorFlow's `ParameterServerStrategy` has them: workers push gradients, servers move parameters,
//! workers pull them. Every rank is a worker and the server of an equal part of every block.
//!
//! ```text
//! synchronous    every worker pushes | each server adds its slice over workers, moves it | every worker pulls
//! asynchronous   worker 0: step 1 | push, pull | step 2 | push, pull | step 3 ...      no worker waits for another,
//!                worker 1: step 1 ........ | push, pull | step 2 ..                    unless it is `staleness` steps ahead
//! ```
//! The synchronous form is one reduce-scatter and one all-gather a step: what `zero1` does, with the bits of one rank, and
//! `2 M (n-1)/n` bytes of `M` sent by each rank. The asynchronous one is [`Servers`]: a server moves its slice for every
//! push as it comes. A worker that is ahead of the slowest by more than the bound is not given parameters until that one
//! has caught up: *More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server*, Ho et al. 2013. A
//! worker may leave, and is no longer waited for, and may join, at the step of the slowest; its server serves on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use comm::{CommError, Communicator};
use engine::{ParamId, ParamTable};

use crate::{
    Kind, Part,
    flat::{Layout, Piece},
    sharded,
};

/// The synchronous form.
pub(crate) const KIND: Kind = Kind { name: "param_server", ..sharded::ZERO_1 };

/// What a server is told with a push.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Push {
    /// Of this server, counted from 1.
    pub number: u64,
    /// Share of the peak learning rate.
    pub lr_share: f32,
    /// What the gradient is multiplied by.
    pub grad_scale: f32,
}

/// How a server moves its slice: values and gradients of the parts that [`Servers::share`] gives, in that order.
pub type Apply = Box<dyn FnMut(Push, Vec<Part<'_>>) + Send>;

/// A worker's hand on all servers, and the server of its own rank on a thread beside. The thread ends when every rank has
/// dropped its own.
pub struct Servers {
    rank: usize,
    /// Of each server: its parts, and how many numbers it holds.
    shares: Vec<Vec<Piece>>,
    lens: Vec<usize>,
    /// Whose server each is; `None` at this rank's own.
    links: Vec<Option<Box<dyn Communicator>>>,
    own: Arc<Mutex<Server>>,
    thread: Option<JoinHandle<Result<(), CommError>>>,
    /// Steps that this worker has pushed.
    step: u64,
}

/// Between two questions whether a worker that is ahead may go on.
const ASK: Duration = Duration::from_millis(1);
/// Numbers of a request; slices are longer.
const REQUEST: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Join,
    Pull,
    Push,
    Leave,
    End,
}

const KINDS: [Kinds; 5] = [Kinds::Join, Kinds::Pull, Kinds::Push, Kinds::Leave, Kinds::End];

struct Server {
    values: Vec<f32>,
    pieces: Vec<Piece>,
    apply: Apply,
    pushes: u64,
    /// Steps that each worker has pushed; `None` where one has left or not joined yet.
    clocks: Vec<Option<u64>>,
    staleness: u64,
    most_stale: u64,
    ended: usize,
}

impl Server {
    fn slowest(&self) -> Option<u64> {
        self.clocks.iter().flatten().min().copied()
    }

    /// Where a worker that joins begins.
    fn join(&mut self, worker: usize, step: u64) -> u64 {
        let step = self.slowest().unwrap_or(step);
        self.clocks[worker] = Some(step);
        step
    }

    /// The parameters for a worker; none while it is too far ahead of the slowest.
    fn pull(&mut self, worker: usize) -> Option<Vec<f32>> {
        let ahead = self.clocks[worker].unwrap_or(0).saturating_sub(self.slowest().unwrap_or(0));
        if ahead > self.staleness {
            return None;
        }
        self.most_stale = self.most_stale.max(ahead);
        Some(self.values.clone())
    }

    fn push(&mut self, worker: usize, step: u64, [lr_share, grad_scale]: [f32; 2], grad: &mut [f32]) {
        self.pushes += 1;
        let (mut values, mut grad, mut parts) = (&mut self.values[..], grad, Vec::new());
        let mut done = 0;
        for Piece { param, of_param, at } in &self.pieces {
            let (skip, len) = (at - done, of_param.len());
            done = at + len;
            let parts_of = (sharded::cut(&mut values, skip, len), sharded::cut(&mut grad, skip, len));
            parts.push(Part { param: *param, of_param: of_param.clone(), values: parts_of.0, grad: parts_of.1 });
        }
        (self.apply)(Push { number: self.pushes, lr_share, grad_scale }, parts);
        self.clocks[worker] = Some(step);
    }

    /// Answer workers until all have ended.
    fn serve(server: &Mutex<Self>, mut comm: Box<dyn Communicator>) -> Result<(), CommError> {
        let len = lock(server).values.len();
        while lock(server).ended + 1 < comm.ranks() {
            let mut request = [0.0; REQUEST];
            let worker = comm.recv_any(&mut request)?;
            let step = u64::from(request[1].to_bits());
            match KINDS.get(request[0] as usize) {
                Some(Kinds::Join) => {
                    let step = lock(server).join(worker, step);
                    comm.send(worker, &[f32::from_bits(step as u32)])?;
                }
                Some(Kinds::Pull) => {
                    let values = lock(server).pull(worker);
                    comm.send(worker, &[f32::from(u8::from(values.is_some()))])?;
                    if let Some(values) = values {
                        comm.send(worker, &values)?;
                    }
                }
                Some(Kinds::Push) => {
                    let mut grad = vec![0.0; len];
                    comm.recv(worker, &mut grad)?;
                    lock(server).push(worker, step, [request[2], request[3]], &mut grad);
                }
                Some(Kinds::Leave) => lock(server).clocks[worker] = None,
                Some(Kinds::End) | None => {
                    let mut server = lock(server);
                    server.clocks[worker] = None;
                    server.ended += 1;
                }
            }
        }
        Ok(())
    }
}

impl Servers {
    /// The parts of parameters of which the server of `rank` among `ranks` holds the values and moves them.
    #[must_use]
    pub fn share(table: &ParamTable, rank: usize, ranks: usize) -> Vec<Piece> {
        let (layout, mut start, mut share) = (Layout::new(table, ranks), 0, Vec::new());
        for block in layout.blocks() {
            let part = layout.part(block, rank);
            share.extend(layout.pieces(block, part.clone()).map(|piece| Piece { at: start + piece.at, ..piece }));
            start += part.len();
        }
        share
    }

    /// This rank's server holds its parts of what `value` gives, alike on every rank. Its worker has not joined yet.
    /// # Errors
    /// When a rank does not answer.
    pub fn new(
        table: &ParamTable,
        mut comm: Box<dyn Communicator>,
        staleness: u64,
        apply: Apply,
        mut value: impl FnMut(ParamId) -> Vec<f32>,
    ) -> Result<Self, CommError> {
        let (rank, ranks) = (comm.rank(), comm.ranks());
        let layout = Layout::new(table, ranks);
        let lens: Vec<usize> = (0..ranks).map(|rank| layout.blocks().map(|block| layout.part(block, rank).len()).sum()).collect();
        let shares: Vec<Vec<Piece>> = (0..ranks).map(|rank| Self::share(table, rank, ranks)).collect();
        let (mut values, pieces) = (vec![0.0; lens[rank]], shares[rank].clone());
        for Piece { param, of_param, at } in &pieces {
            values[*at..][..of_param.len()].copy_from_slice(&value(*param)[of_param.clone()]);
        }
        let clocks = vec![None; ranks];
        let server = Server { values, pieces, apply, pushes: 0, clocks, staleness, most_stale: 0, ended: 0 };
        let own = Arc::new(Mutex::new(server));
        // A group for each server, whose own place in it is the server's.
        let mut links: Vec<_> = (0..ranks).map(|_| comm.split(0).map(Some)).collect::<Result<_, _>>()?;
        let thread = links[rank].take().map(|comm| {
            let own = own.clone();
            std::thread::spawn(move || Server::serve(&own, comm))
        });
        Ok(Self { rank, shares, lens, links, own, thread, step: 0 })
    }

    /// Begin, or begin again after [`Servers::leave`], at the step of the slowest worker: what is to be taken as done.
    /// # Errors
    /// When a server does not answer.
    pub fn join(&mut self) -> Result<u64, CommError> {
        self.ask_all(Kinds::Join, [0.0; 2])?;
        let mut step = lock(&self.own).join(self.rank, self.step);
        for (server, link) in self.links.iter_mut().enumerate() {
            if let Some(comm) = link {
                let mut reply = [0.0];
                comm.recv(server, &mut reply)?;
                step = step.max(u64::from(reply[0].to_bits()));
            }
        }
        self.step = step;
        Ok(step)
    }

    /// Parameters as they are now, piece by piece; waits while this worker is too far ahead.
    /// # Errors
    /// When a server does not answer.
    pub fn pull(&mut self, mut take: impl FnMut(&Piece, &[f32])) -> Result<(), CommError> {
        self.ask_all(Kinds::Pull, [0.0; 2])?;
        for server in 0..self.links.len() {
            let values = loop {
                let values = match &mut self.links[server] {
                    None => lock(&self.own).pull(self.rank),
                    Some(comm) => {
                        let mut may = [0.0];
                        comm.recv(server, &mut may)?;
                        let mut values = vec![0.0; if may[0] > 0.0 { self.lens[server] } else { 0 }];
                        if may[0] > 0.0 {
                            comm.recv(server, &mut values)?;
                        }
                        (may[0] > 0.0).then_some(values)
                    }
                };
                if let Some(values) = values {
                    break values;
                }
                std::thread::sleep(ASK);
                if let Some(comm) = &mut self.links[server] {
                    ask(&mut **comm, server, Kinds::Pull, self.step, [0.0; 2])?;
                }
            };
            for piece in &self.shares[server] {
                take(piece, &values[piece.at..][..piece.of_param.len()]);
            }
        }
        Ok(())
    }

    /// Every server moves its slice by this worker's gradient, which `grad` gives piece by piece.
    /// # Errors
    /// When a server has gone.
    pub fn push<'a>(&mut self, lr_share: f32, grad_scale: f32, grad: impl Fn(&Piece) -> &'a [f32]) -> Result<(), CommError> {
        self.step += 1;
        self.ask_all(Kinds::Push, [lr_share, grad_scale])?;
        for server in 0..self.links.len() {
            let mut slice = vec![0.0; self.lens[server]];
            for piece in &self.shares[server] {
                slice[piece.at..][..piece.of_param.len()].copy_from_slice(grad(piece));
            }
            match &mut self.links[server] {
                Some(comm) => comm.send(server, &slice)?,
                None => lock(&self.own).push(self.rank, self.step, [lr_share, grad_scale], &mut slice),
            }
        }
        Ok(())
    }

    /// Nobody waits for this worker any more; its server serves on.
    /// # Errors
    /// When a server has gone.
    pub fn leave(&mut self) -> Result<(), CommError> {
        lock(&self.own).clocks[self.rank] = None;
        self.ask_all(Kinds::Leave, [0.0; 2])
    }

    /// Steps that this worker has pushed.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The most steps that a worker was ahead of the slowest when this rank's server gave it parameters.
    #[must_use]
    pub fn most_stale(&self) -> u64 {
        lock(&self.own).most_stale
    }

    fn ask_all(&mut self, kind: Kinds, numbers: [f32; 2]) -> Result<(), CommError> {
        let links = self.links.iter_mut().enumerate();
        links
            .filter_map(|(server, link)| Some((server, link.as_mut()?)))
            .try_for_each(|(server, comm)| ask(&mut **comm, server, kind, self.step, numbers))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // A rank that has failed says so itself; its servers have nobody to tell.
        drop(self.leave().and_then(|()| self.ask_all(Kinds::End, [0.0; 2])));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn ask(comm: &mut dyn Communicator, server: usize, kind: Kinds, step: u64, [lr_share, grad_scale]: [f32; 2]) -> Result<(), CommError> {
    comm.send(server, &[f32::from(kind as u8), f32::from_bits(step as u32), lr_share, grad_scale])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
