//! The thread of a process that is never busy with numbers: it tells other processes that this one lives, hears the same
//! from them, and sees to messages that are on their way out.
//!
//! ```text
//! every 100 ms:  what is known of all ranks -> ranks + 1, 2, 4, ... ; of two words on a rank the later one is kept
//! same machine:  is the process still there?
//! outgoing:      tested until they have left, so that no sender waits for its receiver
//! every 500 us:  MPI is given time while there was a transfer of late
//! ```
//! OpenMPI moves nothing unless it is called. A transfer that is done here may still have its end to send, for which the
//! other side waits; were all threads of this process to compute then, it would wait as long.
//!
//! A process that is stopped or gone falls silent, whatever it was doing; one whose work hangs still speaks here, and is
//! found by its missing beats.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::raw::{Counts, Processes, Transfer};
use crate::pulse::{Vitals, WORD};

/// Between two words to the others.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at outgoing messages.
const LOOK: Duration = Duration::from_micros(50);
/// Between two looks, for so long after a transfer.
const NUDGE: Duration = Duration::from_micros(500);
const AFTER: Duration = Duration::from_millis(100);
/// For how long a process that found a fault lets the others find it too before it ends.
const GRACE: Duration = Duration::from_secs(2);
/// Halves of numbers of one rank in a word.
const FIELDS: usize = 2 * WORD;

/// See the head of this file.
pub(super) struct Heart {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    out: Mutex<Vec<Transfer>>,
    /// There was a transfer since the last look.
    moved: AtomicBool,
    ends: AtomicBool,
}

impl Heart {
    /// Begin; every process of `world` does, and knows where each runs.
    pub(super) fn begin(world: Processes, places: Vec<Place>, vitals: Arc<Vitals>) -> Result<Self, String> {
        let shared = Arc::new(Shared { out: Mutex::default(), moved: AtomicBool::new(false), ends: AtomicBool::new(false) });
        let beat = Beat { places, world, vitals, words: Vec::new(), known: vec![0; world.ranks()] };
        let mine = shared.clone();
        let work = move || beat.work(&mine);
        let thread = std::thread::Builder::new().name("heart".into()).spawn(work).map_err(|e| e.to_string())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A transfer is done here, and perhaps not elsewhere.
    pub(super) fn see_to_the_end(&self) {
        if !self.shared.moved.swap(true, Relaxed)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// See a message off.
    pub(super) fn see_off(&self, message: Transfer) {
        lock(&self.shared.out).push(message);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Heart {
    /// Where there was a fault this takes [`GRACE`].
    fn drop(&mut self) {
        self.shared.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a process runs.
pub(super) struct Place {
    /// The machine with its table of processes, and the number there.
    table: u64,
    pid: u32,
    /// The machine with its links to others: a container with links of its own counts as one.
    pub(super) links: u64,
}

/// What the thread works with.
struct Beat {
    world: Processes,
    vitals: Arc<Vitals>,
    places: Vec<Place>,
    /// Words on their way, by whom they go to.
    words: Vec<(usize, Transfer)>,
    /// The last tick heard of each rank.
    known: Vec<u64>,
}

impl Beat {
    fn work(mut self, shared: &Shared) {
        let me = self.world.rank();
        let mut last = None;
        let mut ended: Option<Instant> = None;
        let mut moved: Option<Instant> = None;
        loop {
            if shared.moved.swap(false, Relaxed) {
                moved = Some(Instant::now());
            }
            if last.is_none_or(|last: Instant| last.elapsed() >= TICK) {
                last = Some(Instant::now());
                let mine = &self.vitals.ranks[me];
                mine.ticks.fetch_add(1, Relaxed);
                mine.blames.store(self.vitals.fault().map_or(0, |(rank, _)| rank as u64 + 1), Relaxed);
                self.look_at_neighbours();
                self.speak();
            }
            self.hear();
            let mut out = lock(&shared.out);
            let (left, on_their_way): (Vec<_>, Vec<_>) =
                out.drain(..).map(|mut t| (t.test().unwrap_or(true), t)).partition(|(done, _)| *done);
            out.extend(on_their_way.into_iter().map(|(_, transfer)| transfer));
            let has_mail = !out.is_empty();
            drop(out);
            left.into_iter().for_each(|(_, transfer)| drop(transfer.finish()));
            if shared.ends.load(Relaxed) {
                let since = *ended.get_or_insert_with(|| {
                    self.vitals.ranks[me].ended.store(true, Relaxed);
                    last = None; // the last word goes out at once
                    Instant::now()
                });
                let fault = self.vitals.fault().is_some();
                let is_told = last.is_some() && (self.words.is_empty() || since.elapsed() > GRACE);
                if if fault { since.elapsed() > GRACE } else { is_told && !has_mail } {
                    return;
                }
            }
            let is_busy = moved.is_some_and(|moved| moved.elapsed() < AFTER);
            std::thread::park_timeout(if has_mail || ended.is_some() {
                LOOK
            } else if is_busy {
                NUDGE
            } else {
                TICK / 4
            });
        }
    }

    /// Tell some what is known of all.
    fn speak(&mut self) {
        let (me, ranks) = (self.world.rank(), self.world.ranks());
        let word: Vec<f32> = self.vitals.ranks.iter().flat_map(|vital| vital.word()).flat_map(halves).collect();
        let mut step = 1;
        while step < ranks {
            let to = (me + step) % ranks;
            // Whoever does not take words is not sent more of them.
            if self.words.iter().all(|(other, _)| *other != to)
                && let Ok(transfer) = self.world.send(word.clone(), to, 0)
            {
                self.words.push((to, transfer));
            }
            step *= 2;
        }
    }

    fn hear(&mut self) {
        self.words.retain_mut(|(_, word)| !word.test().unwrap_or(true));
        while let Ok(Some(message)) = self.world.probe(None, None) {
            let Ok(mut transfer) = Processes::receive(message) else { return };
            // It has come, so this takes no longer than a copy.
            while let Ok(false) = transfer.test() {}
            let Some((_, word)) = transfer.finish() else { return };
            let me = self.world.rank();
            for (rank, fields) in word.chunks_exact(FIELDS).enumerate() {
                let mut fields = fields.chunks_exact(2).map(|half| whole([half[0], half[1]]));
                let word: [u64; WORD] = std::array::from_fn(|_| fields.next().unwrap_or(0));
                if rank == me || word[0] <= self.known[rank] {
                    continue;
                }
                self.known[rank] = word[0];
                self.vitals.ranks[rank].hear(word);
                let blamed = self.vitals.ranks[rank].blames.load(Relaxed) as usize;
                if blamed > 0 && blamed <= self.known.len() {
                    self.vitals.blame(blamed - 1, format!("rank {rank} found it hung or gone"));
                }
            }
        }
    }

    /// A process of the same machine that is gone is known to be.
    fn look_at_neighbours(&self) {
        let here = self.places[self.world.rank()].table;
        for (rank, Place { table, pid, .. }) in self.places.iter().enumerate() {
            let ended = self.vitals.ranks[rank].ended.load(Relaxed);
            if *table == here && !ended && rank != self.world.rank() && is_gone(*pid) {
                self.vitals.ranks[rank].ended.store(true, Relaxed);
                self.vitals.blame(rank, format!("its process {pid} has ended"));
            }
        }
    }
}

/// A process that has ended and is not yet buried is a zombie.
fn is_gone(pid: u32) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])))
        || !std::path::Path::new("/proc").join(pid.to_string()).exists()
}

/// Where all processes run.
pub(super) fn places(world: Processes) -> Result<Vec<Place>, String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = |space: &str| {
        let space = std::fs::read_link(space).map(|path| path.display().to_string()).unwrap_or_default();
        // FNV-1a: the same in every process.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        boot.bytes().chain(space.bytes()).fold(0xcbf2_9ce4_8422_2325, mix)
    };
    let place = [machine("/proc/self/ns/pid"), u64::from(std::process::id()), machine("/proc/self/ns/net")];
    let mine: Vec<f32> = place.into_iter().flat_map(halves).collect();
    let mut transfer = world.all_gather(mine, Vec::new(), Counts::new((0..world.ranks()).map(|_| 6))?)?;
    while !transfer.test()? {
        std::thread::sleep(LOOK);
    }
    let all = transfer.finish().map(|(_, all)| all).unwrap_or_default();
    let number = |place: &[f32], i: usize| whole([place[2 * i], place[2 * i + 1]]);
    Ok(all.chunks_exact(6).map(|place| Place { table: number(place, 0), pid: number(place, 1) as u32, links: number(place, 2) }).collect())
}

/// A whole number as two that MPI carries: the bits are copied, never computed with.
fn halves(number: u64) -> [f32; 2] {
    [f32::from_bits(number as u32), f32::from_bits((number >> 32) as u32)]
}

fn whole(halves: [f32; 2]) -> u64 {
    u64::from(halves[0].to_bits()) | u64::from(halves[1].to_bits()) << 32
}
