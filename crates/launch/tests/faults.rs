//! A thousand jobs at a place where everything goes wrong at random: calls that fail before and after they took effect, kills of the queue
//! between any two writes, machines that are lost or taken back, no room, no quota, expired credentials. What is counted at the
//! place itself has to come out right: every job done, and no attempt launched twice.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Mutex,
};

use launch::{
    LaunchError,
    array::Array,
    cause::Cause,
    job::{Job, Machines},
    outside::Request,
    places::{Arrays, Ended, Launcher, Logs, Seen},
    progress::Progress,
    queue::Queue,
    quote::Quoted,
    record::{Attempt, Group, Record, State},
    store::{Order, Store},
};

const JOBS: usize = 1000;

/// A generator of its own, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    /// One of `n`.
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What the place knows of an attempt.
#[derive(Debug, Default)]
struct There {
    launches: u32,
    looks: u32,
    ends_after: u32,
    ended: Option<Ended>,
}

#[derive(Default)]
struct World {
    dice: Option<Dice>,
    attempts: HashMap<String, There>,
    befell: BTreeMap<&'static str, u32>,
}

struct Unruly {
    world: Mutex<World>,
    /// Whether it takes many jobs in one call.
    has_arrays: bool,
}

impl World {
    fn dice(&mut self) -> &mut Dice {
        self.dice.get_or_insert(Dice(7))
    }

    fn count(&mut self, what: &'static str) {
        *self.befell.entry(what).or_default() += 1;
    }

    /// One call in eight does not come off; one in sixteen of these ends the queue where it stands.
    fn call(&mut self) -> Result<(), LaunchError> {
        if self.dice().roll(8) > 0 {
            return Ok(());
        }
        if self.dice().roll(16) == 0 {
            self.count("queue killed");
            let source = std::io::Error::other("killed");
            return Err(LaunchError::Io { action: "go on after a kill of", path: "the queue".into(), source });
        }
        let causes = [
            (Cause::Throttled, "throttled"),
            (Cause::Unreachable, "not reached"),
            (Cause::Credentials, "credentials expired"),
            (Cause::Clock, "clock skewed"),
        ];
        let (cause, what) = causes[self.dice().roll(4) as usize];
        self.count(what);
        Err(LaunchError::Call { program: "place".into(), problem: what.into(), cause })
    }
}

impl World {
    fn refuse(&mut self) -> Result<(), LaunchError> {
        for (chance, cause, what) in [(9, Cause::Capacity, "no machine free"), (11, Cause::Quota, "quota reached")] {
            if self.dice().roll(chance) == 0 {
                self.count(what);
                return Err(LaunchError::Call { program: "place".into(), problem: what.into(), cause });
            }
        }
        Ok(())
    }

    fn launch(&mut self, name: &str) {
        let ends_after = 1 + self.dice().roll(6) as u32;
        let there = self.attempts.entry(name.to_owned()).or_default();
        there.launches += 1;
        there.ends_after = ends_after;
    }
}

impl Arrays for Unruly {
    fn alike(&self, job: &Job) -> Option<String> {
        // By the number of the job: eight commands' worth.
        Some(job.name.chars().last()?.to_digit(10)?.min(7).to_string())
    }

    fn request(&self, _: &Array<'_>) -> Result<Request, LaunchError> {
        Ok(Request::new(["none"]))
    }

    fn find(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError> {
        let mut world = self.world.lock().unwrap();
        world.call()?;
        let names = array.elements.iter().map(|element| (element.index, element.job.attempt_name(element.attempt)));
        Ok(names.filter(|(_, name)| world.attempts.contains_key(name)).collect())
    }

    fn send(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError> {
        let mut world = self.world.lock().unwrap();
        world.call()?;
        world.refuse()?;
        assert!(array.elements.len() > 1 && array.at_once.is_some_and(|most| most > 0), "{} {:?}", array.elements.len(), array.at_once);
        world.count("array sent");
        let sent = array.elements.iter().map(|element| (element.index, element.job.attempt_name(element.attempt)));
        let sent: BTreeMap<usize, String> = sent.collect();
        sent.values().for_each(|name| world.launch(name));
        world.call()?;
        Ok(sent)
    }
}

impl Launcher for Unruly {
    fn arrays(&self) -> Option<&dyn Arrays> {
        self.has_arrays.then_some(self as &dyn Arrays)
    }

    fn requests(&self, _: &Job, _: u32) -> Result<Vec<Request>, LaunchError> {
        Ok(Vec::new())
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        let mut world = self.world.lock().unwrap();
        world.call()?;
        let name = job.attempt_name(attempt);
        Ok(world.attempts.contains_key(&name).then_some(name))
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        let mut world = self.world.lock().unwrap();
        world.call()?;
        world.refuse()?;
        let name = job.attempt_name(attempt);
        world.launch(&name);
        // It took effect, and nobody hears of it.
        world.call()?;
        Ok(name)
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        let mut world = self.world.lock().unwrap();
        world.call()?;
        let name = job.attempt_name(attempt.number);
        let fate = world.dice().roll(12);
        let there = world.attempts.get_mut(&name).expect("only what was sent is looked at");
        there.looks += 1;
        let step = u64::from(attempt.number) * 100 + u64::from(there.looks);
        let progress = Some(Progress { step, ..Progress::default() });
        if there.ended.is_none() {
            let (ended, what) = match fate {
                0 => (Some(Ended::Failed(Cause::Spot, "taken back".into())), "machines taken back"),
                1 => (Some(Ended::Failed(Cause::NodeLost, "lost".into())), "machine lost"),
                2 => (Some(Ended::Failed(Cause::TimeLimit, "time".into())), "time over"),
                _ if there.looks >= there.ends_after => (Some(Ended::Done), "done"),
                _ => (None, ""),
            };
            there.ended.clone_from(&ended);
            if ended.is_some() {
                world.count(what);
            }
        }
        let ended = world.attempts[&name].ended.clone();
        Ok(Seen { is_running: ended.is_none(), ended, progress, ..Seen::default() })
    }

    fn stop(&self, _: &Job, _: &Attempt, _: bool) -> Result<(), LaunchError> {
        Ok(())
    }

    fn logs(&self, _: &Job, _: &Attempt) -> Logs {
        Logs::File("none".into())
    }
}

fn record(store: &Store, i: usize) -> Record {
    let name = format!("job-{i:04}");
    let machines = Machines {
        place: "unruly".into(),
        instance: None,
        count: 1,
        hosts: vec![],
        ranks_each: 1,
        usd_per_hour: Some(1.0),
        memory_bytes: None,
    };
    let job = Job {
        argv: vec!["train".into()],
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        machines,
        data: "data".into(),
        checkpoints: "run".into(),
        max_secs: None,
        options: serde_json::Map::new(),
        folder: "/".into(),
        home: store.home(&name),
        name,
    };
    let group = Group { name: "all".into(), at_once: Some(100), max_usd: None };
    Record::new(job, group, Quoted::default(), (i % 3) as i64, 0.0)
}

#[test]
fn a_thousand_jobs_none_lost_and_none_launched_twice() {
    let world = through_everything(false);
    assert!(!world.befell.contains_key("array sent"));
}

#[test]
fn nor_where_the_place_takes_them_as_arrays() {
    let world = through_everything(true);
    assert!(world.befell["array sent"] > 0, "{:?}", world.befell);
}

/// How many of these may run at a time: of an array no more than it was told.
fn may_run<'a>(out: impl Iterator<Item = &'a Record>) -> usize {
    let mut arrays: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut alone = 0;
    for record in out {
        match record.seat() {
            Some(seat) => arrays.entry(&seat.array).or_insert((0, seat.at_once.unwrap_or(usize::MAX))).0 += 1,
            None => alone += 1,
        }
    }
    alone + arrays.into_values().map(|(count, most)| count.min(most)).sum::<usize>()
}

/// All jobs to their end, and what befell them.
fn through_everything(has_arrays: bool) -> World {
    // Files of memory, where there are such: what is tested is what is written, not the disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.order(&Order::Launch((0..JOBS).map(|i| record(&store, i)).collect())).unwrap();
    let place = Unruly { world: Mutex::default(), has_arrays };
    let find = |_: &str| Some(&place as &dyn Launcher);
    let (mut now, mut most, mut opened) = (0.0, 0, 0);
    'queues: while opened < 5000 {
        let mut queue = Queue::open(&store, &find).unwrap().expect("one at a time");
        opened += 1;
        loop {
            now += 20.0;
            // What a kill left is what the next one finds.
            let Ok(left) = queue.pass(now) else { continue 'queues };
            most = most.max(may_run(queue.records().values().filter(|record| record.state.is_out())));
            if left.alive == 0 {
                break 'queues;
            }
        }
    }
    let (records, damaged) = store.list().unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    let of = |state: State| records.iter().filter(|record| record.state == state).count();
    let world = place.world.into_inner().unwrap();
    eprintln!("{} attempts, {} queues, {now} s, at once {most}\n{:#?}", world.attempts.len(), opened, world.befell);
    assert_eq!((of(State::Done), records.len()), (JOBS, JOBS), "none lost");
    let twice: Vec<&String> = world.attempts.iter().filter(|(_, there)| there.launches != 1).map(|(name, _)| name).collect();
    assert!(twice.is_empty(), "launched twice: {twice:?}");
    let known: usize = records.iter().map(|record| record.attempts.len()).sum();
    assert_eq!(known, world.attempts.len(), "every attempt at the place is on record");
    assert!(most <= 100, "{most} at once");
    for what in ["queue killed", "machine lost", "no machine free", "throttled"] {
        assert!(world.befell[what] > 10, "{what}: {:?}", world.befell);
    }
    world
}
