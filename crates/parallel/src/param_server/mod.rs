//! Parameter servers, as TensorFlow's `ParameterServerStrategy` has them: workers push gradients, servers move parameters,
//! workers pull them. Every rank is a worker and the server of an equal part of every block.
//!
//! ```text
//! synchronous    every worker pushes | each server adds its slice over workers, moves it | every worker pulls
//! asynchronous   worker 0: part 0 of step 1 | push, pull | part 2 of step 1 | push, pull | part 3 of step 1 ...
//!                worker 1: part 1 of step 1 .............................. | push, pull | part 0 of step 2 ...
//! ```
//! The synchronous form is one reduce-scatter and one all-gather a step: what `zero1` does, with the bits of one rank, and
//! `2 M (n-1)/n` bytes of `M` sent by each rank. The asynchronous one is [`Servers`]: a server moves its slice for every
//! push as it comes, and no worker waits for another, unless it would be more than `staleness` steps ahead ([`book`]).
//! As many bytes go for every part of a step as for a whole one in the synchronous form.

mod book;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use comm::{CommError, Communicator, Order, Pulse, Solo, Traffic};
use engine::{ParamId, ParamTable};

pub use book::{Report, Turn};

use crate::{
    Build, Kind, Part, Replicated,
    flat::{Layout, Piece},
    sharded,
};
use book::Book;

/// The synchronous form.
pub(crate) const KIND: Kind = Kind { name: "param_server", ..sharded::ZERO_1 };

/// What a worker of the asynchronous form computes over: all parameters and the gradient of its own lanes. [`Servers`] does
/// the rest.
pub const WORKER: Kind = Kind {
    name: KIND.name,
    build: |Build { table, device, value, .. }| Ok(Box::new(Replicated::new(table, device, Box::new(Solo), Order::Tree, value))),
    shards: KIND.shards,
};

/// What a server is told with a push.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Push {
    /// From 1, in the order in which parts of steps are given out over the whole run.
    pub number: u64,
    /// Share of the peak learning rate.
    pub lr_share: f32,
    /// What the gradient is multiplied by.
    pub grad_scale: f32,
}

/// How a server moves its slice: values and gradients of the parts that [`Servers::share`] gives, in that order.
pub type Apply = Box<dyn FnMut(Push, Vec<Part<'_>>) + Send>;

/// A worker's hand on all servers, and the server of its own rank on a thread beside. A worker that is slow asks for less
/// to do; one that asks for nothing is not waited for until all meet.
pub struct Servers {
    rank: usize,
    pulse: Pulse,
    /// Of each server: its parts, and how many numbers it holds.
    shares: Vec<Vec<Piece>>,
    lens: Vec<usize>,
    /// Whose server each is; `None` at this rank's own.
    links: Vec<Option<Box<dyn Communicator>>>,
    own: Arc<Own>,
    thread: Option<JoinHandle<Result<(), CommError>>>,
    traffic: Traffic,
}

/// The server of this rank, which its worker needs no message for.
struct Own {
    server: Mutex<Server>,
    is_ending: AtomicBool,
}

struct Server {
    values: Vec<f32>,
    pieces: Vec<Piece>,
    apply: Apply,
    /// The first rank's counts.
    book: Book,
}

/// What a worker asks of a server, in so many numbers; slices are longer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    /// Of the first: what is to be done.
    Turn {
        until: u64,
        is_stopped: bool,
    },
    /// Of the first: a part is done.
    Done(Report),
    Pull,
    /// The slice of the gradient comes next.
    Push(Push),
}

const REQUEST: usize = 5;
/// Numbers of the answer to [`Request::Turn`].
const ANSWER: usize = 3;

impl Request {
    fn numbers(self) -> [f32; REQUEST] {
        let flag = |is: bool| f32::from(u8::from(is));
        match self {
            Self::Turn { until, is_stopped } => [0.0, word(until), flag(is_stopped), 0.0, 0.0],
            Self::Done(Report { step, loss, norm, is_skipped }) => [1.0, word(step), loss, norm, flag(is_skipped)],
            Self::Pull => [2.0, 0.0, 0.0, 0.0, 0.0],
            Self::Push(Push { number, lr_share, grad_scale }) => [3.0, word(number), lr_share, grad_scale, 0.0],
        }
    }

    fn of([kind, a, b, c, d]: [f32; REQUEST]) -> Self {
        match kind as usize {
            0 => Self::Turn { until: count(a), is_stopped: b > 0.0 },
            1 => Self::Done(Report { step: count(a), loss: b, norm: c, is_skipped: d > 0.0 }),
            2 => Self::Pull,
            _ => Self::Push(Push { number: count(a), lr_share: b, grad_scale: c }),
        }
    }
}

/// A count as a number that is sent: its bits are copied, never computed with.
fn word(count: u64) -> f32 {
    f32::from_bits(count as u32)
}

fn count(word: f32) -> u64 {
    word.to_bits().into()
}

fn answer(turn: Option<Turn>) -> [f32; ANSWER] {
    match turn {
        None => [0.0; ANSWER],
        Some(Turn::Part { step, part }) => [1.0, word(step), part as f32],
        Some(Turn::Meet(step)) => [2.0, word(step), 0.0],
    }
}

fn turn([kind, at, part]: [f32; ANSWER]) -> Option<Turn> {
    match kind as usize {
        0 => None,
        1 => Some(Turn::Part { step: count(at), part: part as usize }),
        _ => Some(Turn::Meet(count(at))),
    }
}

impl Server {
    fn push(&mut self, push: Push, grad: &mut [f32]) {
        let (mut values, mut grad, mut parts) = (&mut self.values[..], grad, Vec::new());
        let mut done = 0;
        for Piece { param, of_param, at } in &self.pieces {
            let (skip, len) = (at - done, of_param.len());
            done = at + len;
            let parts_of = (sharded::cut(&mut values, skip, len), sharded::cut(&mut grad, skip, len));
            parts.push(Part { param: *param, of_param: of_param.clone(), values: parts_of.0, grad: parts_of.1 });
        }
        (self.apply)(push, parts);
    }
}

impl Own {
    /// Answer workers until this rank's own ends, or nobody is left.
    fn serve(&self, mut comm: Box<dyn Communicator>) -> Result<(), CommError> {
        let len = lock(&self.server).values.len();
        let mut request = [0.0; REQUEST];
        while let Some(worker) = comm.recv_any(&mut request, &|| self.is_ending.load(Relaxed))? {
            match Request::of(request) {
                Request::Turn { until, is_stopped } => {
                    let turn = lock(&self.server).book.turn(until, is_stopped);
                    comm.send(worker, &answer(turn))?;
                }
                Request::Done(report) => lock(&self.server).book.done(report),
                Request::Pull => {
                    let values = lock(&self.server).values.clone();
                    comm.send(worker, &values)?;
                }
                Request::Push(push) => {
                    let mut grad = vec![0.0; len];
                    comm.recv(worker, &mut grad)?;
                    lock(&self.server).push(push, &mut grad);
                    // The worker may say that its part is done.
                    comm.send(worker, &[])?;
                }
            }
        }
        Ok(())
    }
}

impl Servers {
    /// The parts of parameters of which the server of `rank` among `ranks` holds the values and moves them, and where each
    /// lies among its numbers.
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

    /// What a rank holds besides its worker's parameters: the values of its server, one slice that is sent and one that comes.
    #[must_use]
    pub fn bytes(table: &ParamTable, ranks: usize) -> u64 {
        3 * 4 * len(&Layout::new(table, ranks), 0) as u64
    }

    /// This rank's server holds its parts of what `value` gives, alike on every rank; all ranks of `comm` call it.
    /// # Errors
    /// When a rank does not answer.
    pub fn new(
        table: &ParamTable,
        mut comm: Box<dyn Communicator>,
        staleness: u64,
        apply: Apply,
        mut value: impl FnMut(ParamId) -> Vec<f32>,
    ) -> Result<Self, CommError> {
        let (rank, ranks, pulse) = (comm.rank(), comm.ranks(), comm.pulse());
        let layout = Layout::new(table, ranks);
        let lens: Vec<usize> = (0..ranks).map(|rank| len(&layout, rank)).collect();
        let shares: Vec<Vec<Piece>> = (0..ranks).map(|rank| Self::share(table, rank, ranks)).collect();
        let (mut values, pieces) = (vec![0.0; lens[rank]], shares[rank].clone());
        for id in table.ids() {
            fill(&pieces, &mut values, id, &value(id));
        }
        let server = Mutex::new(Server { values, pieces, apply, book: Book::new(ranks, staleness) });
        let own = Arc::new(Own { server, is_ending: AtomicBool::new(false) });
        // A group for each server, whose own place in it is the server's.
        let mut links: Vec<_> = (0..ranks).map(|_| comm.split(0).map(Some)).collect::<Result<_, _>>()?;
        let thread = links[rank].take().map(|comm| {
            let own = own.clone();
            std::thread::spawn(move || own.serve(comm))
        });
        Ok(Self { rank, pulse, shares, lens, links, own, thread, traffic: Traffic::default() })
    }

    /// This rank among the workers, which are as many as there are parts of a step.
    #[must_use]
    pub fn rank(&self) -> (usize, usize) {
        (self.rank, self.links.len())
    }

    /// What is to be done next, on the way to the step `until`, where all meet; sooner, at the end of a step, when any worker
    /// says that it was asked to stop. Waits while this worker would be too far ahead.
    /// # Errors
    /// When a rank has hung or gone.
    pub fn turn(&mut self, until: u64, is_stopped: bool) -> Result<Turn, CommError> {
        let Self { pulse, links, own, traffic, .. } = self;
        let ask = || match &mut links[0] {
            None => Ok(lock(&own.server).book.turn(until, is_stopped)),
            Some(comm) => {
                let mut answer = [0.0; ANSWER];
                comm.send(0, &Request::Turn { until, is_stopped }.numbers())?;
                comm.recv(0, &mut answer)?;
                Ok(turn(answer))
            }
        };
        traffic.count(0, || pulse.until("turn", 0, ask))
    }

    /// Parameters as they are now, piece by piece.
    /// # Errors
    /// When a server does not answer.
    pub fn pull(&mut self, mut take: impl FnMut(&Piece, &[f32])) -> Result<(), CommError> {
        let Self { shares, lens, links, own, traffic, .. } = self;
        // Others send this rank their slices, and it sends them its own.
        let sent_bytes = 4 * lens[self.rank] * (lens.len() - 1);
        let pull = || {
            ask_all(links, Request::Pull)?;
            for (server, link) in links.iter_mut().enumerate() {
                let mut values = vec![0.0; lens[server]];
                match link {
                    None => values.copy_from_slice(&lock(&own.server).values),
                    Some(comm) => comm.recv(server, &mut values)?,
                }
                for piece in &shares[server] {
                    take(piece, &values[piece.at..][..piece.of_param.len()]);
                }
            }
            Ok(())
        };
        traffic.count(sent_bytes as u64, pull).map_err(|e| CommError { operation: "pull", ..e })
    }

    /// Every server moves its slice by this worker's gradient, which `grad` gives piece by piece.
    /// # Errors
    /// When a server has gone.
    pub fn push<'a>(&mut self, push: Push, grad: impl Fn(&Piece) -> &'a [f32]) -> Result<(), CommError> {
        let Self { shares, lens, links, own, traffic, .. } = self;
        let sent_bytes = 4 * (lens.iter().sum::<usize>() - lens[self.rank]);
        let send = || {
            ask_all(links, Request::Push(push))?;
            for (server, link) in links.iter_mut().enumerate() {
                let mut slice = vec![0.0; lens[server]];
                for piece in &shares[server] {
                    slice[piece.at..][..piece.of_param.len()].copy_from_slice(grad(piece));
                }
                match link {
                    None => lock(&own.server).push(push, &mut slice),
                    Some(comm) => comm.send(server, &slice)?,
                }
            }
            let links = links.iter_mut().enumerate();
            links.filter_map(|(server, link)| Some((server, link.as_mut()?))).try_for_each(|(server, comm)| comm.recv(server, &mut []))
        };
        traffic.count(sent_bytes as u64, send).map_err(|e| CommError { operation: "push", ..e })
    }

    /// The part that this worker had is done.
    /// # Errors
    /// When the first server has gone.
    pub fn done(&mut self, report: Report) -> Result<(), CommError> {
        match &mut self.links[0] {
            None => lock(&self.own.server).book.done(report),
            Some(comm) => comm.send(0, &Request::Done(report).numbers())?,
        }
        Ok(())
    }

    /// The steps that all parts have been done of since this was last asked, on the first rank; none on the others.
    #[must_use]
    pub fn finished(&self) -> Vec<Report> {
        lock(&self.own.server).book.finished()
    }

    /// Put in place the whole values of a parameter, alike on every rank, while nobody asks for any.
    pub fn restore(&mut self, param: ParamId, whole: &[f32]) {
        let mut server = lock(&self.own.server);
        let Server { values, pieces, .. } = &mut *server;
        fill(pieces, values, param, whole);
    }

    /// All steps up to this one were done before.
    pub fn go_on_from(&mut self, step: u64) {
        lock(&self.own.server).book.go_on_from(step);
    }

    /// What this worker has exchanged so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.own.is_ending.store(true, Relaxed);
        self.links.clear();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Numbers that a server holds.
fn len(layout: &Layout, rank: usize) -> usize {
    layout.blocks().map(|block| layout.part(block, rank).len()).sum()
}

/// A server's parts of one parameter take their values from the whole.
fn fill(pieces: &[Piece], values: &mut [f32], param: ParamId, whole: &[f32]) {
    for piece in pieces.iter().filter(|piece| piece.param == param) {
        values[piece.at..][..piece.of_param.len()].copy_from_slice(&whole[piece.of_param.clone()]);
    }
}

fn ask_all(links: &mut [Option<Box<dyn Communicator>>], request: Request) -> Result<(), CommError> {
    let links = links.iter_mut().enumerate();
    links.filter_map(|(server, link)| Some((server, link.as_mut()?))).try_for_each(|(server, comm)| comm.send(server, &request.numbers()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
