//! What each rank of a process takes, by the count of the allocator. A block is the rank's whose thread asked for it, until it is
//! freed, whoever frees it; the threads that carry a rank's messages ask in its name.

use std::{
    alloc::System,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use comm::{CommError, Communicator, Job, Pulse};
use engine::Numbers;
use tracking_allocator::{AllocationGroupId, AllocationGroupToken, AllocationRegistry, AllocationTracker, Allocator};

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

/// Bytes now, and the most that there were.
struct Count {
    live: AtomicU64,
    peak: AtomicU64,
}

impl Count {
    const fn zero() -> Self {
        Self { live: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    fn add(&self, bytes: usize) {
        let before = self.live.fetch_add(bytes as u64, Relaxed);
        self.peak.fetch_max(before + bytes as u64, Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.live.fetch_sub(bytes as u64, Relaxed);
    }
}

/// Each communicator has a group of its own, as two threads cannot be in one; `OWNERS` has the first group of its rank.
const GROUPS: usize = 1 << 14;
static OWNERS: [AtomicUsize; GROUPS] = [const { AtomicUsize::new(0) }; GROUPS];
static COUNTS: [Count; GROUPS] = [const { Count::zero() }; GROUPS];
static WHOLE: Count = Count::zero();

struct Tracker;

impl AllocationTracker for Tracker {
    fn allocated(&self, _addr: usize, bytes: usize, _wrapped: usize, group: AllocationGroupId) {
        WHOLE.add(bytes);
        COUNTS[OWNERS[group.as_usize().get()].load(Relaxed)].add(bytes);
    }

    fn deallocated(&self, _addr: usize, bytes: usize, _wrapped: usize, group: AllocationGroupId, _by: AllocationGroupId) {
        WHOLE.sub(bytes);
        COUNTS[OWNERS[group.as_usize().get()].load(Relaxed)].sub(bytes);
    }
}

/// What came of `work`, and the most bytes that all ranks held at one time beyond those of before.
pub fn process<T>(work: impl FnOnce() -> T) -> (T, u64) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        AllocationRegistry::set_global_tracker(Tracker).expect("nobody else counts");
        AllocationRegistry::enable_tracking();
    });
    let before = WHOLE.live.load(Relaxed);
    WHOLE.peak.store(before, Relaxed);
    let result = work();
    (result, WHOLE.peak.load(Relaxed) - before)
}

/// What came of the work of one rank, and the most bytes that it held at one time. Its loops run on its own thread.
pub fn rank<T>(comm: Box<dyn Communicator>, work: impl FnOnce(Box<dyn Communicator>) -> T) -> (T, u64) {
    let mut token = token();
    let owner = token.id().as_usize().get();
    OWNERS[owner].store(owner, Relaxed);
    let _guard = token.enter();
    let result = work(Counted::of(comm, owner));
    (result, COUNTS[owner].peak.load(Relaxed))
}

fn token() -> AllocationGroupToken {
    // Two at once may get none.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    AllocationGroupToken::register().expect("there are fewer groups than numbers")
}

/// A communicator whose carrying is laid to its rank.
struct Counted {
    inner: Box<dyn Communicator>,
    token: AllocationGroupToken,
    owner: usize,
}

impl Counted {
    fn of(inner: Box<dyn Communicator>, owner: usize) -> Box<dyn Communicator> {
        let token = token();
        OWNERS[token.id().as_usize().get()].store(owner, Relaxed);
        Box::new(Self { inner, token, owner })
    }
}

impl Communicator for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn ranks(&self) -> usize {
        self.inner.ranks()
    }
    fn ranks_on_machine(&self) -> usize {
        self.inner.ranks_on_machine()
    }
    fn pulse(&self) -> Pulse {
        self.inner.pulse()
    }
    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        let _guard = self.token.enter();
        self.inner.carry(job)
    }
    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        let _guard = self.token.enter();
        self.inner.recv_any(data, until)
    }
    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        Ok(Self::of(self.inner.split(color)?, self.owner))
    }
}
