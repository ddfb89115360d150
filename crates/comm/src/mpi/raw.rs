//! The calls into MPI, and what makes them safe: a transfer owns the numbers that it reads and writes, and one that never
//! comes to an end never frees them.
#![allow(unsafe_code, reason = "the foreign functions of MPI")]

use std::{mem::ManuallyDrop, os::raw::c_int, ptr};

use mpi::{
    Threading,
    environment::Universe,
    ffi::{self, MPI_Comm, MPI_Message, MPI_Request, MPI_Status},
};

/// Begin; once in the life of a process.
pub(super) fn initialise() -> Result<Universe, String> {
    match mpi::initialize_with_threading(Threading::Multiple) {
        None => Err("MPI was already begun in this process".into()),
        Some((_, threading)) if threading != Threading::Multiple => Err("this MPI does not let several threads call it".into()),
        Some((universe, _)) => Ok(universe),
    }
}

/// A group of processes. Like every handle of MPI it may be used from any thread, as [`initialise`] asked for.
#[derive(Clone, Copy)]
pub(super) struct Processes(MPI_Comm);

// SAFETY: MPI was begun with `Threading::Multiple`, so its handles may be used from any thread, several at a time.
unsafe impl Send for Processes {}
// SAFETY: as above.
unsafe impl Sync for Processes {}

/// How many numbers each process has in an array that holds those of all, one after another.
pub(super) struct Counts {
    counts: Vec<c_int>,
    starts: Vec<c_int>,
    total: usize,
}

impl Counts {
    pub(super) fn new(counts: impl Iterator<Item = usize>) -> Result<Self, String> {
        let (mut all, mut total) = (Self { counts: Vec::new(), starts: Vec::new(), total: 0 }, 0);
        for count in counts {
            all.starts.push(int(total)?);
            all.counts.push(int(count)?);
            total += count;
        }
        int(total)?;
        Ok(Self { total, ..all })
    }

    /// All of an array of `len` for each of `ranks`.
    fn same(len: usize, ranks: usize) -> Result<Self, String> {
        Ok(Self { counts: vec![int(len)?; ranks], starts: vec![0; ranks], total: len })
    }
}

/// Memory that was used before, with room for `len` numbers.
fn sized(mut memory: Vec<f32>, len: usize) -> Vec<f32> {
    memory.resize(len, 0.0);
    memory
}

/// MPI counts with 32 bits.
fn int(count: usize) -> Result<c_int, String> {
    c_int::try_from(count).map_err(|_| format!("{count} numbers at once are more than MPI can count"))
}

fn checked(code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("MPI says error {code}")) }
}

/// A message that has come and is nobody else's, to be received.
pub(super) struct Message {
    message: MPI_Message,
    pub(super) from: usize,
    pub(super) len: usize,
}

impl Processes {
    /// All processes, as a group of their own that no other library speaks in; errors come back instead of ending the process.
    pub(super) fn world(_begun: &Universe) -> Result<Self, String> {
        // SAFETY: MPI has begun, as `_begun` shows, and has not ended, which would consume it.
        unsafe {
            let world = ffi::RSMPI_COMM_WORLD;
            checked(ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN))?;
            Self(world).copy()
        }
    }

    /// The same processes, with messages of their own.
    pub(super) fn copy(self) -> Result<Self, String> {
        let mut copy = MPI_Comm(ptr::null_mut());
        // SAFETY: `self` is a group, `copy` a place for one.
        checked(unsafe { ffi::MPI_Comm_dup(self.0, &raw mut copy) })?;
        Ok(Self(copy))
    }

    /// The processes of the same color, in the same order. Blocks until all have called it.
    pub(super) fn split(self, color: usize) -> Result<Self, String> {
        let mut part = MPI_Comm(ptr::null_mut());
        // SAFETY: as in `copy`.
        checked(unsafe { ffi::MPI_Comm_split(self.0, int(color)?, int(self.rank())?, &raw mut part) })?;
        Ok(Self(part))
    }

    pub(super) fn rank(self) -> usize {
        let mut rank = 0;
        // SAFETY: `self` is a group, `rank` a place for a number.
        unsafe { ffi::MPI_Comm_rank(self.0, &raw mut rank) };
        rank as usize
    }

    pub(super) fn ranks(self) -> usize {
        let mut ranks = 0;
        // SAFETY: as in `rank`.
        unsafe { ffi::MPI_Comm_size(self.0, &raw mut ranks) };
        ranks as usize
    }

    /// The sum of `data`, in whatever order.
    pub(super) fn all_reduce(self, data: Vec<f32>) -> Result<Transfer, String> {
        let (into, count) = (vec![0.0; data.len()], int(data.len())?);
        // SAFETY: see `begin`; both arrays hold `count` numbers.
        Transfer::begin(data, into, Vec::new(), |from, to, request| unsafe {
            ffi::MPI_Iallreduce(from.cast(), to.cast(), count, ffi::RSMPI_FLOAT, ffi::RSMPI_SUM, self.0, request)
        })
    }

    /// This process's part of the sum of `data`, in whatever order.
    pub(super) fn reduce_scatter(self, data: Vec<f32>, parts: Counts) -> Result<Transfer, String> {
        debug_assert_eq!(data.len(), parts.total);
        let (mine, counts) = (vec![0.0; parts.counts[self.rank()] as usize], parts.counts.as_ptr());
        // SAFETY: see `begin`; `data` holds all parts and `to` this process's.
        Transfer::begin(data, mine, vec![parts], |from, to, request| unsafe {
            ffi::MPI_Ireduce_scatter(from.cast(), to.cast(), counts, ffi::RSMPI_FLOAT, ffi::RSMPI_SUM, self.0, request)
        })
    }

    /// Part `r` of `data` goes to process `r`; gives what came from each, one after another, in the memory of `into`.
    pub(super) fn all_to_all(self, data: Vec<f32>, into: Vec<f32>, sent: Counts, received: Counts) -> Result<Transfer, String> {
        debug_assert_eq!(data.len(), sent.total);
        let (counts, starts) = (sent.counts.as_ptr(), sent.starts.as_ptr());
        let (their_counts, their_starts, into) = (received.counts.as_ptr(), received.starts.as_ptr(), sized(into, received.total));
        // SAFETY: see `begin`; counts and starts stay within the totals, which are the lengths.
        Transfer::begin(data, into, vec![sent, received], |from, to, request| unsafe {
            let float = ffi::RSMPI_FLOAT;
            ffi::MPI_Ialltoallv(from.cast(), counts, starts, float, to.cast(), their_counts, their_starts, float, self.0, request)
        })
    }

    /// What each has, one after another, in the memory of `into`: an all-to-all that sends all of `mine` to each. OpenMPI's own
    /// all-gather receives before it sends. On the side of a link that comes late the leave for the other to send so goes out
    /// before the wish to send itself, whose answer then waits behind all that the other sends: the two directions take turns.
    pub(super) fn all_gather(self, mine: Vec<f32>, into: Vec<f32>, parts: Counts) -> Result<Transfer, String> {
        let sent = Counts::same(mine.len(), self.ranks())?;
        self.all_to_all(mine, into, sent, parts)
    }

    /// What `root` has, in place: [`Transfer::finish`] gives it as what was sent.
    pub(super) fn broadcast(self, data: Vec<f32>, root: usize) -> Result<Transfer, String> {
        let (count, root) = (int(data.len())?, int(root)?);
        // SAFETY: see `begin`; `from` is owned and mutable.
        Transfer::begin(data, Vec::new(), Vec::new(), |from, _, request| unsafe {
            ffi::MPI_Ibcast(from.cast(), count, ffi::RSMPI_FLOAT, root, self.0, request)
        })
    }

    pub(super) fn send(self, data: Vec<f32>, to: usize, tag: usize) -> Result<Transfer, String> {
        let (count, to, tag) = (int(data.len())?, int(to)?, int(tag)?);
        // SAFETY: see `begin`.
        Transfer::begin(data, Vec::new(), Vec::new(), |from, _, request| unsafe {
            ffi::MPI_Isend(from.cast_const().cast(), count, ffi::RSMPI_FLOAT, to, tag, self.0, request)
        })
    }

    /// The next message that has come from that process and with that tag, or from any and with any.
    pub(super) fn probe(self, from: Option<usize>, tag: Option<usize>) -> Result<Option<Message>, String> {
        let (mut flag, mut count, mut message) = (0, 0, MPI_Message(ptr::null_mut()));
        let mut status = MPI_Status { MPI_SOURCE: 0, MPI_TAG: 0, MPI_ERROR: 0, _cancelled: 0, _ucount: 0 };
        // SAFETY: `self` is a group, and all that is written to are places of the right types; the constants are MPI's.
        unsafe {
            let from = from.map_or(Ok(ffi::RSMPI_ANY_SOURCE), int)?;
            let tag = tag.map_or(Ok(ffi::RSMPI_ANY_TAG), int)?;
            checked(ffi::MPI_Improbe(from, tag, self.0, &raw mut flag, &raw mut message, &raw mut status))?;
            if flag == 0 {
                return Ok(None);
            }
            checked(ffi::MPI_Get_count(&raw const status, ffi::RSMPI_FLOAT, &raw mut count))?;
        }
        Ok(Some(Message { message, from: status.MPI_SOURCE as usize, len: count as usize }))
    }

    pub(super) fn receive(mut message: Message) -> Result<Transfer, String> {
        let count = int(message.len)?;
        let handle = &raw mut message.message;
        // SAFETY: see `begin`; `to` holds `count` numbers, and a message is received once, as it is consumed here.
        Transfer::begin(Vec::new(), vec![0.0; message.len], Vec::new(), |_, to, request| unsafe {
            ffi::MPI_Imrecv(to.cast(), count, ffi::RSMPI_FLOAT, handle, request)
        })
    }
}

/// Numbers on their way. Dropped before its end, it leaves its numbers where they are for ever, as MPI may still use them.
pub(super) struct Transfer {
    request: MPI_Request,
    sent: ManuallyDrop<Vec<f32>>,
    received: ManuallyDrop<Vec<f32>>,
    counts: ManuallyDrop<Vec<Counts>>,
    is_done: bool,
}

// SAFETY: the request may be tested from any thread, as MPI was begun with `Threading::Multiple`; the rest is owned.
unsafe impl Send for Transfer {}

impl Transfer {
    /// `start` is given what to read (`sent`, which it may write in place) and where to write (`received`), both good until the request is done, as are the pointers into `counts`, whose vectors do not move.
    fn begin(
        mut sent: Vec<f32>,
        mut received: Vec<f32>,
        counts: Vec<Counts>,
        start: impl FnOnce(*mut f32, *mut f32, *mut MPI_Request) -> c_int,
    ) -> Result<Self, String> {
        let mut request = MPI_Request(ptr::null_mut());
        let code = start(sent.as_mut_ptr(), received.as_mut_ptr(), &raw mut request);
        let (sent, received, counts) = (ManuallyDrop::new(sent), ManuallyDrop::new(received), ManuallyDrop::new(counts));
        checked(code)?;
        Ok(Self { request, sent, received, counts, is_done: false })
    }

    /// Whether it is done; also gives MPI the time to work on all that is on its way.
    pub(super) fn test(&mut self) -> Result<bool, String> {
        if !self.is_done {
            let mut flag = 0;
            // SAFETY: the request was made by `begin` and is not done, and `flag` is a place for a number.
            checked(unsafe { ffi::MPI_Test(&raw mut self.request, &raw mut flag, ffi::RSMPI_STATUS_IGNORE) })?;
            self.is_done = flag != 0;
        }
        Ok(self.is_done)
    }

    /// What was sent and what was received; `None` when it is not done.
    pub(super) fn finish(self) -> Option<(Vec<f32>, Vec<f32>)> {
        self.is_done.then(|| {
            drop(ManuallyDrop::into_inner(self.counts));
            (ManuallyDrop::into_inner(self.sent), ManuallyDrop::into_inner(self.received))
        })
    }
}
