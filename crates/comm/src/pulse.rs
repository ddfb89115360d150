//! Signs of life: how a rank that waits tells one that has hung from one that computes for long.
//!
//! ```text
//! the work of a rank:   beat . beat . beat ....................   each op of the tape, each batch of an evaluation
//! a rank that waits:    looks whether anyone stands still who is not waiting: that rank has hung
//!                       looks whether all stand still and wait: the rank that it waits for is where the work parted
//! ```
//! A beat costs one addition in memory that only its rank writes. A rank is held to its beats between [`Pulse::hold`] and
//! the end of the guard: a training step is. Outside, while it measures held-out loss or writes to a disk, it is given
//! [`Patience::silent`].
//!
//! Time counts while the one who looks is awake ([`Awake`]): a job that was suspended as a whole, or a machine that slept, has
//! nobody at fault.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::CommError;

/// Between two questions of a rank that waits for no message, and between two looks at signs of life.
const ASK: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(200);

/// See [`Patience::beat`].
const VOICE: f64 = 0.6;
/// A longer time between two looks is one in which the looking thread could not run.
const LONGEST: Duration = Duration::from_secs(1);

/// How long ranks wait for one another before they say who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a beat of a rank that is held to them. A process whose thread beside the work is silent for [`VOICE`] of that has
    /// stopped: that thread is never busy.
    pub beat: Duration,
    /// Without a sign of a rank that is not.
    pub silent: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { beat: Duration::from_secs(8), silent: Duration::from_mins(15) }
    }
}

/// A rank's hand on its own signs of life; see the head of this file. Cheap to clone, to be given to whatever works long.
#[derive(Clone)]
pub struct Pulse {
    vitals: Arc<Vitals>,
    rank: usize,
}

impl Pulse {
    /// The work goes on.
    pub fn beat(&self) {
        self.vitals.ranks[self.rank].beats.fetch_add(1, Relaxed);
    }

    /// Until the guard goes, others may expect beats of this rank.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.vitals.ranks[self.rank].held.fetch_add(1, Relaxed);
        self.beat();
        Held(self.clone())
    }

    /// Wait for what no message brings: ask again and again until `ready` gives it.
    /// # Errors
    /// That of `ready`; or the rank that is found to have hung or gone meanwhile: `missing` where all wait.
    pub fn until<T>(
        &self,
        operation: &'static str,
        missing: usize,
        mut ready: impl FnMut() -> Result<Option<T>, CommError>,
    ) -> Result<T, CommError> {
        let _waiting = self.wait();
        let (mut watch, mut looked) = (Watch::new(self), Instant::now());
        loop {
            if let Some(result) = ready()? {
                return Ok(result);
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if let Some((rank, problem)) = self.vitals.fault().or_else(|| watch.fault(missing)) {
                    return Err(CommError { rank, operation, problem });
                }
            }
            std::thread::sleep(ASK);
        }
    }

    /// The rank's number among all ranks of the job.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn new(vitals: &Arc<Vitals>, rank: usize) -> Self {
        Self { vitals: vitals.clone(), rank }
    }

    /// Of a rank that nobody waits for.
    pub(crate) fn alone() -> Self {
        Self::new(&Arc::new(Vitals::new(1, Patience::default())), 0)
    }

    pub(crate) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// The rank begins to wait for others; when the guard goes it works again.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        let vital = &self.vitals.ranks[self.rank];
        vital.waits.fetch_add(1, Relaxed);
        Waiting(vital)
    }
}

/// See [`Pulse::hold`].
pub struct Held(Pulse);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.vitals.ranks[self.0.rank].held.fetch_sub(1, Relaxed);
    }
}

/// See [`Pulse::wait`].
pub(crate) struct Waiting<'a>(&'a Vital);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_add(1, Relaxed);
        self.0.waits.fetch_sub(1, Relaxed);
    }
}

/// The signs of life of all ranks of a job.
pub(crate) struct Vitals {
    pub(crate) ranks: Vec<Vital>,
    pub(crate) patience: Patience,
    /// The first fault that anyone found: who ends because of it is not the cause.
    fault: OnceLock<(usize, String)>,
}

/// Of one rank; alone on its cache line, as its owner writes it often.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Vital {
    /// By hand.
    pub(crate) beats: AtomicU64,
    /// Guards that hold it to them.
    pub(crate) held: AtomicU32,
    /// Waits that came to an end.
    pub(crate) steps: AtomicU64,
    /// Waits of the rank's threads right now.
    pub(crate) waits: AtomicU32,
    pub(crate) ended: AtomicBool,
    /// Of the thread that speaks for its process; 0 where ranks share memory.
    pub(crate) ticks: AtomicU64,
    /// One more than the rank that this one found at fault; 0 when none. Where ranks share memory, [`Vitals::fault`] says it.
    #[cfg(feature = "mpi")]
    pub(crate) blames: AtomicU64,
}

/// Numbers of a rank in what processes tell one another.
#[cfg(feature = "mpi")]
pub(crate) const WORD: usize = 7;

impl Vitals {
    pub(crate) fn new(ranks: usize, patience: Patience) -> Self {
        Self { ranks: (0..ranks).map(|_| Vital::default()).collect(), patience, fault: OnceLock::new() }
    }

    /// The first that was found.
    pub(crate) fn fault(&self) -> Option<(usize, String)> {
        self.fault.get().cloned()
    }

    /// Keep a fault, and give the first that was found.
    pub(crate) fn blame(&self, rank: usize, problem: String) -> (usize, String) {
        self.fault.get_or_init(|| (rank, problem)).clone()
    }

    /// A rank that others wait for has left: because of another's fault, or by itself.
    pub(crate) fn blame_left(&self, rank: usize) -> (usize, String) {
        self.blame(rank, "it has ended; its own error says why".into())
    }
}

/// What a rank sees of the others while it waits.
pub(crate) struct Watch<'a> {
    vitals: &'a Vitals,
    me: usize,
    seen: Vec<Seen>,
    clock: Awake,
}

/// What a rank had counted when it was last seen to move, and when that was; the same of its process.
struct Seen {
    count: u64,
    moved: Duration,
    ticks: u64,
    spoke: Duration,
}

/// A clock that is looked at several times a second, and stands still while that cannot be.
struct Awake {
    looked: Instant,
    time: Duration,
}

impl Awake {
    fn start() -> Self {
        Self { looked: Instant::now(), time: Duration::ZERO }
    }

    fn look(&mut self) -> Duration {
        self.look_at(Instant::now())
    }

    fn look_at(&mut self, now: Instant) -> Duration {
        self.time += (now - self.looked).min(LONGEST);
        self.looked = now;
        self.time
    }
}

impl<'a> Watch<'a> {
    pub(crate) fn new(pulse: &'a Pulse) -> Self {
        let (count, ticks) = (Vital::count, |vital: &Vital| vital.ticks.load(Relaxed));
        let see = |vital: &Vital| Seen { count: count(vital), moved: Duration::ZERO, ticks: ticks(vital), spoke: Duration::ZERO };
        let seen = pulse.vitals.ranks.iter().map(see).collect();
        Self { vitals: &pulse.vitals, me: pulse.rank, seen, clock: Awake::start() }
    }

    /// The rank that is at fault, and how, when the wait for `missing` has no end.
    pub(crate) fn fault(&mut self, missing: usize) -> Option<(usize, String)> {
        let now = self.clock.look();
        let Patience { beat, silent } = self.vitals.patience;
        let mut all_stand = true;
        for (rank, (vital, seen)) in self.vitals.ranks.iter().zip(&mut self.seen).enumerate() {
            if seen.count != vital.count() {
                (seen.count, seen.moved) = (vital.count(), now);
            }
            if seen.ticks != vital.ticks.load(Relaxed) {
                (seen.ticks, seen.spoke) = (vital.ticks.load(Relaxed), now);
            }
            let (still, ended) = (now - seen.moved, vital.ended.load(Relaxed));
            if rank != self.me && seen.ticks > 0 && !ended && now - seen.spoke > beat.mul_f64(VOICE) {
                let secs = (now - seen.spoke).as_secs();
                return Some(self.vitals.blame(rank, format!("its process has stopped, died or lost its network: no word in {secs} s")));
            }
            if rank != self.me && vital.waits.load(Relaxed) == 0 && !ended {
                let limit = if vital.held.load(Relaxed) > 0 { beat } else { silent };
                if still > limit {
                    return Some(self.vitals.blame(rank, format!("it has hung: no sign of life in {} s", still.as_secs())));
                }
                all_stand = false;
            }
            all_stand &= ended || still > beat;
        }
        let problem = || format!("all ranks wait, and it does something else than the others, for {} s", beat.as_secs());
        all_stand.then(|| self.vitals.blame(missing, problem()))
    }
}

impl Vital {
    /// What the process of a rank tells others of it.
    #[cfg(feature = "mpi")]
    pub(crate) fn word(&self) -> [u64; WORD] {
        let [ticks, beats, steps, blames] = [&self.ticks, &self.beats, &self.steps, &self.blames].map(|count| count.load(Relaxed));
        let [held, waits] = [&self.held, &self.waits].map(|count| count.load(Relaxed).into());
        [ticks, beats, steps, blames, held, waits, self.ended.load(Relaxed).into()]
    }

    #[cfg(feature = "mpi")]
    pub(crate) fn hear(&self, [ticks, beats, steps, blames, held, waits, ended]: [u64; WORD]) {
        self.ticks.store(ticks, Relaxed);
        self.beats.store(beats, Relaxed);
        self.steps.store(steps, Relaxed);
        self.blames.store(blames, Relaxed);
        self.held.store(held as u32, Relaxed);
        self.waits.store(waits as u32, Relaxed);
        self.ended.fetch_or(ended > 0, Relaxed);
    }

    fn count(&self) -> u64 {
        self.beats.load(Relaxed).wrapping_add(self.steps.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { beat: Duration::from_millis(40), silent: Duration::from_mins(1) };

    #[test]
    fn a_rank_that_beats_is_slow_and_one_that_stopped_has_hung() {
        let vitals = Arc::new(Vitals::new(3, PATIENCE));
        let (me, slow) = (Pulse::new(&vitals, 0), Pulse::new(&vitals, 1));
        let (_waiting, _held) = (me.wait(), slow.hold());
        let mut watch = Watch::new(&me);
        for _ in 0..20 {
            slow.beat();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(watch.fault(1), None, "rank 1 beats, rank 2 is not held to it");
        }
        std::thread::sleep(Duration::from_millis(60));
        let (rank, problem) = watch.fault(1).unwrap();
        assert_eq!(rank, 1);
        assert!(problem.contains("hung"), "{problem}");
    }

    #[test]
    fn time_in_which_one_could_not_look_counts_against_nobody() {
        let mut clock = Awake::start();
        let start = clock.looked;
        let at = |secs: f64| start + Duration::from_secs_f64(secs);
        assert_eq!(clock.look_at(at(0.2)), Duration::from_secs_f64(0.2));
        // Suspended for an hour.
        assert_eq!(clock.look_at(at(3600.2)), Duration::from_secs_f64(1.2));
        assert_eq!(clock.look_at(at(3600.5)), Duration::from_secs_f64(1.5));
    }

    #[test]
    fn ranks_that_all_wait_have_parted() {
        let vitals = Arc::new(Vitals::new(2, PATIENCE));
        let (me, other) = (Pulse::new(&vitals, 0), Pulse::new(&vitals, 1));
        let _waiting = (me.wait(), other.wait());
        let mut watch = Watch::new(&me);
        assert_eq!(watch.fault(1), None);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(watch.fault(1).unwrap().0, 1);
    }
}
