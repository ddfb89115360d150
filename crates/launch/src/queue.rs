//! The queue: the one writer of records. It sends what may go, asks how the rest is, and does again what is worth it.
//!
//! ```text
//! Queued --written down--> Sending --send--> Sent -> Running -> Done
//!    ^                        | ask the place first                     | Failed, Stopped
//!    +------ wait, by cause --+---------------------------------------+
//! ```
//! **Invariants:** a place is asked whether it has an attempt before it is sent. An error of the store ends a pass: what is not written
//! down is not done.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
};

use crate::{
    LaunchError,
    array::Array,
    batch::{self, Batches},
    cause::Cause,
    places::{Arrays, Ended, Launcher, Seen},
    record::{Attempt, Record, State, Wish},
    store::{Order, Store, WriterLock},
};

/// How the launcher of a place is found; [`crate::places::launcher`], or a test's own.
pub type Launchers<'a> = &'a (dyn Fn(&str) -> Option<&'a dyn Launcher> + Sync);

/// Calls to places that are made at a time, since each is a wait.
const CALLS_AT_ONCE: usize = 8;

/// See the head of this file.
pub struct Queue<'a> {
    store: &'a Store,
    lock: WriterLock,
    launchers: Launchers<'a>,
    records: BTreeMap<String, Record>,
    next_order: u64,
}

/// What is left after a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Left {
    /// Jobs that have not ended.
    pub alive: usize,
    /// When there is something to do next, orders aside.
    pub next_unix: f64,
}

impl<'a> Queue<'a> {
    /// Over `store`; `None` while another process is its writer. Records that cannot be read are passed over, and told by whoever lists.
    /// # Errors
    /// [`LaunchError::Io`].
    pub fn open(store: &'a Store, launchers: Launchers<'a>) -> Result<Option<Self>, LaunchError> {
        let Some(lock) = store.lock()? else { return Ok(None) };
        let (records, _) = store.list()?;
        let next_order = records.iter().map(|r| r.order + 1).max().unwrap_or(0);
        let records = records.into_iter().map(|record| (record.job.name.clone(), record)).collect();
        Ok(Some(Self { store, lock, launchers, records, next_order }))
    }

    /// One round at time `now`: orders, what became of what is out, limits, and what may go.
    /// # Errors
    /// What befell the store; a queue opened again goes on from what was written.
    pub fn pass(&mut self, now: f64) -> Result<Left, LaunchError> {
        self.take_orders(now)?;
        self.look(now)?;
        self.keep_to_budgets(now)?;
        self.start(now)?;
        let alive = self.records.values().filter(|record| !record.state.is_ended());
        let next = alive.clone().map(|record| record.next_unix).fold(f64::INFINITY, f64::min);
        Ok(Left { alive: alive.count(), next_unix: next })
    }

    #[must_use]
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    fn take_orders(&mut self, now: f64) -> Result<(), LaunchError> {
        for (path, order) in self.store.orders()? {
            match order {
                Ok(Order::Launch(records)) => self.enter(records)?,
                Ok(Order::Stop { names, kill }) => {
                    names.iter().try_for_each(|name| self.wish(name, if kill { Wish::Kill } else { Wish::Stop }, now))?;
                }
                Ok(Order::Resume { names }) => names.iter().try_for_each(|name| self.resume(name, now))?,
                Err(_) => {
                    // Kept for whoever wants to know, and in nobody's way.
                    let aside = path.with_extension("damaged");
                    fs::rename(&path, &aside).map_err(LaunchError::io("set aside", &path))?;
                    continue;
                }
            }
            fs::remove_file(&path).map_err(LaunchError::io("remove", &path))?;
        }
        Ok(())
    }

    /// A job of a name that is there already is that job.
    fn enter(&mut self, records: Vec<Record>) -> Result<(), LaunchError> {
        let mut new: Vec<Record> = Vec::new();
        for mut record in records {
            let name = &record.job.name;
            let is_known = self.records.contains_key(name) || new.iter().any(|other| other.job.name == *name);
            if is_known || self.store.read(name)?.is_some() {
                continue;
            }
            record.order = self.next_order;
            self.next_order += 1;
            new.push(record);
        }
        // Each waits for the disk; together they wait about once.
        let write = |record: &Record| self.store.write_files(record).and_then(|()| self.store.write(&self.lock, record));
        let each = new.len().div_ceil(CALLS_AT_ONCE).max(1);
        let written: Vec<Result<(), LaunchError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = new.chunks(each).map(|part| scope.spawn(move || part.iter().try_for_each(write))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        written.into_iter().collect::<Result<(), _>>()?;
        self.records.extend(new.into_iter().map(|record| (record.job.name.clone(), record)));
        Ok(())
    }

    /// Look at all that runs on this machine at the next pass: something has ended.
    pub fn look_here(&mut self) {
        let launchers = self.launchers;
        let is_here = |record: &Record| launchers(&record.job.machines.place).is_some_and(|launcher| launcher.poll_secs() < 1.0);
        self.records.values_mut().filter(|record| record.state.is_out() && is_here(record)).for_each(|record| record.next_unix = 0.0);
    }

    fn wish(&mut self, name: &str, wish: Wish, now: f64) -> Result<(), LaunchError> {
        let Some(mut record) = self.records.get(name).filter(|record| !record.state.is_ended()).cloned() else { return Ok(()) };
        record.wish = wish;
        record.next_unix = now;
        if record.state == State::Queued {
            record.state = State::Stopped;
        } else if wish == Wish::Kill && record.state == State::Stopping {
            // Asked once more, with more weight.
            record.state = State::Running;
        }
        self.put(record)
    }

    fn resume(&mut self, name: &str, now: f64) -> Result<(), LaunchError> {
        let Some(mut record) = self.records.get(name).filter(|r| matches!(r.state, State::Stopped | State::Failed)).cloned() else {
            return Ok(());
        };
        (record.wish, record.state, record.tries, record.next_unix, record.note) = (Wish::Run, State::Queued, 0, now, None);
        self.put(record)
    }

    fn put(&mut self, record: Record) -> Result<(), LaunchError> {
        self.store.write(&self.lock, &record)?;
        self.records.insert(record.job.name.clone(), record);
        Ok(())
    }

    /// Ask after all that is out and due, and fulfil wishes.
    fn look(&mut self, now: f64) -> Result<(), LaunchError> {
        let is_due = |record: &&Record| record.state.is_out() && record.next_unix <= now;
        let arrays: HashSet<&str> = self.records.values().filter(is_due).filter_map(batch::sent_with).collect();
        // What is sent together is sent together again.
        let with_due = |record: &Record| batch::sent_with(record).is_some_and(|array| arrays.contains(array));
        let due: Vec<Record> = self.records.values().filter(|record| is_due(record) || with_due(record)).cloned().collect();
        let (launchers, batches) = (self.launchers, batch::together(due));
        let answers = side_by_side(launchers, &batches, &|batch| look_at(launchers, batch));
        for (batch, answers) in batches.into_iter().zip(answers) {
            for (record, answer) in batch.into_iter().zip(answers?) {
                let mut after = record.clone();
                apply(launchers, &mut after, answer, now);
                if after != record {
                    // When to look next is no news that a kill may not lose.
                    let is_news = Record { next_unix: record.next_unix, ..after.clone() } != record;
                    if is_news { self.put(after)? } else { _ = self.records.insert(after.job.name.clone(), after) }
                }
            }
        }
        Ok(())
    }

    /// Whoever has spent what it may is stopped, cleanly.
    fn keep_to_budgets(&mut self, now: f64) -> Result<(), LaunchError> {
        let mut spent: HashMap<&str, f64> = HashMap::new();
        for record in self.records.values().filter(|record| record.group.max_usd.is_some()) {
            *spent.entry(&record.group.name).or_default() += record.usd(now);
        }
        let is_over = |record: &&Record| {
            let usd = spent.get(record.group.name.as_str()).copied().unwrap_or(0.0);
            !record.state.is_ended() && record.wish == Wish::Run && record.group.max_usd.is_some_and(|max| usd >= max)
        };
        let over: Vec<Record> = self.records.values().filter(is_over).cloned().collect();
        for mut record in over {
            record.wish = Wish::Stop;
            record.next_unix = now;
            record.note = Some(format!("stopped: --max-usd {} is spent", record.group.max_usd.unwrap_or_default()));
            if record.state == State::Queued {
                record.state = State::Stopped;
            }
            self.put(record)?;
        }
        Ok(())
    }

    /// Send what may go: by priority, then in order, as far as the limits of its group and the memory here reach.
    fn start(&mut self, now: f64) -> Result<(), LaunchError> {
        let mut out: HashMap<String, usize> = HashMap::new();
        for record in self.records.values().filter(|record| record.state.is_out()) {
            *out.entry(record.group.name.clone()).or_default() += 1;
        }
        let launchers = self.launchers;
        let with_alike = |record: &Record| {
            let alike = launchers(&record.job.machines.place).and_then(|launcher| batch::alike(launcher, record));
            (record.clone(), alike)
        };
        let has_room = |record: &&Record| {
            let running = out.get(&record.group.name).copied().unwrap_or_default();
            record.state == State::Queued && record.next_unix <= now && record.group.at_once.is_none_or(|most| running < most)
        };
        let mut queued: Vec<_> = self.records.values().filter(has_room).map(with_alike).collect();
        queued.sort_by(|(a, _), (b, _)| b.priority.cmp(&a.priority).then(a.order.cmp(&b.order)));
        let mut of_a_kind: HashMap<String, usize> = HashMap::new();
        queued.iter().filter_map(|(_, alike)| alike.clone()).for_each(|alike| *of_a_kind.entry(alike).or_default() += 1);
        let mut going = Batches::default();
        for (mut record, alike) in queued {
            let launcher = launchers(&record.job.machines.place);
            let running = out.entry(record.group.name.clone()).or_default();
            let room = record.group.at_once.map(|most| most.saturating_sub(*running));
            let joins = going.takes(alike.as_deref());
            if room == Some(0) && !joins {
                continue;
            }
            let Some(launcher) = launcher else {
                record.state = State::Failed;
                record.note = Some(format!("this program knows no place `{}`", record.job.machines.place));
                self.put(record)?;
                continue;
            };
            let is_alone = self.records.values().chain(going.records()).all(|other| !other.state.is_out());
            if let Some(why) = launcher.no_room(&record.job).filter(|_| !is_alone) {
                record.note = Some(why);
                record.next_unix = now + 1.0;
                self.records.insert(record.job.name.clone(), record);
                continue;
            }
            if !joins {
                // An array keeps to its limit by itself, however many are in it.
                let count = alike.as_ref().and_then(|alike| of_a_kind.get(alike)).copied().unwrap_or(1);
                *running += room.map_or(count, |room| room.min(count));
            }
            record.begin(now);
            going.add(record, alike, room);
        }
        let going = going.seated();
        // Before it is sent, so that after a kill the place is asked.
        going.iter().flatten().try_for_each(|record| self.put(record.clone()))?;
        let answers = side_by_side(launchers, &going, &|batch| send(launchers, batch));
        for (batch, answers) in going.into_iter().zip(answers) {
            for (mut record, answer) in batch.into_iter().zip(answers?) {
                apply(launchers, &mut record, answer, now);
                self.put(record)?;
            }
        }
        Ok(())
    }
}

/// What a call said of a job.
#[derive(Clone)]
enum Answer {
    SentAs(String),
    /// Neither sent nor to be sent.
    NotThere,
    /// Not to be had with others in one call.
    Apart(String),
    Seen(Seen),
    Asked,
    /// It did not come off.
    Not(Cause, String),
}

/// A call's outcome for `count` jobs; what befell this machine's own files ends the pass.
fn outcome(result: Result<Vec<Answer>, LaunchError>, count: usize) -> Result<Vec<Answer>, LaunchError> {
    let (cause, text) = match result {
        Err(LaunchError::Call { cause, problem, .. }) => (cause, problem),
        Err(error) if !matches!(error, LaunchError::Io { .. }) => (Cause::Refused, error.to_string()),
        other => return other,
    };
    Ok(vec![Answer::Not(cause, text); count])
}

/// Sent, unless the place has it: after a call whose answer was lost, a kill, or the loss of the whole store.
fn send(launchers: Launchers<'_>, batch: &[Record]) -> Result<Vec<Answer>, LaunchError> {
    let [record, ..] = batch else { return Ok(Vec::new()) };
    let Some((launcher, attempt)) = launcher_of(launchers, record) else { return Ok(vec![Answer::NotThere; batch.len()]) };
    if let Some(array) = Array::of(batch) {
        let sent = launcher.arrays().map(|arrays| send_array(arrays, &array, batch));
        return outcome(sent.unwrap_or_else(|| Ok(vec![Answer::NotThere; batch.len()])), batch.len());
    }
    let (job, number) = (&record.job, attempt.number);
    let sent = launcher.find(job, number).and_then(|id| match (id, record.wish) {
        (Some(id), _) => Ok(Answer::SentAs(id)),
        (None, Wish::Run) => launcher.send(job, number).map(Answer::SentAs),
        (None, _) => Ok(Answer::NotThere),
    });
    outcome(sent.map(|answer| vec![answer]), 1)
}

/// The same of an array: of its elements those that the place does not have.
fn send_array(arrays: &dyn Arrays, array: &Array<'_>, batch: &[Record]) -> Result<Vec<Answer>, LaunchError> {
    let mut there = arrays.find(array)?;
    let missing =
        array.elements.iter().zip(batch).filter(|(element, record)| !there.contains_key(&element.index) && record.wish == Wish::Run);
    let missing = Array { elements: missing.map(|(element, _)| *element).collect(), ..array.clone() };
    let mut apart = None;
    if !missing.elements.is_empty() {
        match arrays.send(&missing) {
            Ok(sent) => there.extend(sent),
            // Such a number of jobs, or an array at all, may be what is refused.
            Err(LaunchError::Call { cause, problem, .. }) if cause.is_refusal() || cause == Cause::Quota => apart = Some(problem),
            Err(error) => return Err(error),
        }
    }
    let answer = |(index, wish)| match (there.get(index), wish) {
        (Some(id), _) => Answer::SentAs(id.clone()),
        (None, Wish::Run) => Answer::Apart(apart.clone().unwrap_or_default()),
        (None, _) => Answer::NotThere,
    };
    Ok(array.elements.iter().zip(batch).map(|(element, record)| answer((&element.index, record.wish))).collect())
}

fn look_at(launchers: Launchers<'_>, batch: &[Record]) -> Result<Vec<Answer>, LaunchError> {
    let [record, ..] = batch else { return Ok(Vec::new()) };
    if record.state == State::Sending {
        return send(launchers, batch);
    }
    let Some((launcher, attempt)) = launcher_of(launchers, record) else { return Ok(vec![Answer::NotThere]) };
    let job = &record.job;
    let answer = match (record.state, record.wish) {
        (State::Sent | State::Running, wish @ (Wish::Stop | Wish::Kill)) => {
            launcher.stop(job, attempt, wish == Wish::Kill).map(|()| Answer::Asked)
        }
        _ => launcher.look(job, attempt).map(Answer::Seen),
    };
    outcome(answer.map(|answer| vec![answer]), 1)
}

fn launcher_of<'a, 'r>(launchers: Launchers<'a>, record: &'r Record) -> Option<(&'a dyn Launcher, &'r Attempt)> {
    Some((launchers(&record.job.machines.place)?, record.attempts.last()?))
}

/// What an answer makes of a record.
fn apply(launchers: Launchers<'_>, record: &mut Record, answer: Answer, now: f64) {
    let poll_secs = launchers(&record.job.machines.place).map_or(1.0, Launcher::poll_secs);
    record.next_unix = now + poll_secs;
    if !matches!(answer, Answer::Not(..)) {
        record.unheard = 0;
    }
    let Some(attempt) = record.attempts.last_mut() else { return };
    match answer {
        Answer::SentAs(id) => {
            attempt.id = Some(id);
            (record.state, record.note) = (State::Sent, None);
            // What is to be stopped is stopped at the next look.
            if record.wish != Wish::Run {
                record.next_unix = now;
            }
        }
        Answer::NotThere => {
            attempt.ended_unix = Some(now);
            record.state = State::Stopped;
        }
        Answer::Apart(text) => {
            // As if it had never been sent, and by itself from now on.
            record.attempts.pop();
            (record.state, record.tries, record.next_unix) = (State::Queued, record.tries + 1, now);
            record.note = Some(format!("goes by itself, since together they were refused: {}", text.trim()));
        }
        Answer::Asked => record.state = State::Stopping,
        Answer::Seen(seen) => see(record, seen, now),
        Answer::Not(cause, text) => fail_to_ask(record, cause, &text, now),
    }
}

fn see(record: &mut Record, seen: Seen, now: f64) {
    let Some(attempt) = record.attempts.last_mut() else { return };
    if seen.progress.is_some() {
        record.progress = seen.progress;
    }
    attempt.billed_secs = seen.billed_secs.or(attempt.billed_secs);
    match seen.ended {
        None => {
            if seen.is_running {
                attempt.started_unix.get_or_insert(now);
            } else if let Some(started) = attempt.started_unix.take() {
                // The place starts it anew, and nobody pays for the wait.
                attempt.held_before_secs += (now - started).max(0.0);
            }
            if record.state != State::Stopping {
                record.state = if seen.is_running { State::Running } else { State::Sent };
                record.note = seen.note;
            }
        }
        Some(ended) => {
            // One that was over before anybody looked.
            if attempt.held_before_secs == 0.0 {
                attempt.started_unix.get_or_insert(attempt.sent_unix);
            }
            attempt.ended_unix = Some(now);
            end(record, ended, now);
        }
    }
}

/// An attempt has come to its end.
fn end(record: &mut Record, ended: Ended, now: f64) {
    let is_asked = record.wish != Wish::Run;
    match ended {
        Ended::Done => (record.state, record.note) = (State::Done, None),
        // Why it was asked to, stays.
        Ended::Failed(..) | Ended::Stopped if is_asked => record.state = State::Stopped,
        Ended::Stopped => (record.state, record.note) = (State::Stopped, Some("stopped at the place, not from here".into())),
        Ended::Failed(cause, text) => {
            let step = record.progress.as_ref().map_or(0, |progress| progress.step);
            if step > record.tries_at_step {
                (record.tries, record.tries_at_step) = (0, step);
            }
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.cause = Some(cause);
            }
            again(record, cause, &text, State::Queued, now);
        }
    }
}

/// A call did not come off: nothing is known of the job that was not known before.
fn fail_to_ask(record: &mut Record, cause: Cause, text: &str, now: f64) {
    if record.state == State::Sending {
        if cause.is_refusal()
            && let Some(attempt) = record.attempts.last_mut()
        {
            (attempt.ended_unix, attempt.cause) = (Some(now), Some(cause));
        }
        return again(record, cause, text, State::Sending, now);
    }
    // What is out is never given up for an answer that did not come.
    record.next_unix = now + cause.wait_secs(record.unheard.min(8), &record.job.name).unwrap_or(60.0);
    record.unheard += 1;
    record.note = Some(format!("cannot be asked: {text}"));
}

/// Wait and go to `state`, or fail for good.
fn again(record: &mut Record, cause: Cause, text: &str, state: State, now: f64) {
    let wait = cause.wait_secs(record.tries, &record.job.name);
    record.tries += 1;
    let text = text.trim();
    record.note = Some(if text.is_empty() { cause.name().to_owned() } else { format!("{}: {text}", cause.name()) });
    match wait {
        Some(secs) => (record.state, record.next_unix) = (state, now + secs),
        None => record.state = State::Failed,
    }
}

/// `call` of each batch, answers in their order; several at a time where a call is a wait for somebody else.
fn side_by_side<A: Send>(launchers: Launchers<'_>, batches: &[Vec<Record>], call: &(dyn Fn(&[Record]) -> A + Sync)) -> Vec<A> {
    let is_slow = |record: &Record| launchers(&record.job.machines.place).is_some_and(|launcher| launcher.poll_secs() >= 1.0);
    if !batches.iter().flatten().any(is_slow) {
        return batches.iter().map(|batch| call(batch)).collect();
    }
    let each = batches.len().div_ceil(CALLS_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let part = |part: &'_ [Vec<Record>]| part.iter().map(|batch| call(batch)).collect::<Vec<A>>();
        let threads: Vec<_> = batches.chunks(each).map(|batches| scope.spawn(move || part(batches))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        job::{Job, Machines},
        quote::Quoted,
        record::Group,
    };

    /// A job of the place `fake`.
    pub(crate) fn record(store: &Store, name: &str) -> Record {
        let machines = Machines {
            place: "fake".into(),
            instance: None,
            count: 1,
            hosts: vec![],
            ranks_each: 1,
            usd_per_hour: Some(3600.0),
            memory_bytes: None,
        };
        let job = Job {
            name: name.into(),
            argv: vec!["train".into(), "{files}/recipe.toml".into()],
            files: BTreeMap::from([("recipe.toml".into(), "[model]\ndepth = 1\n".into())]),
            env: BTreeMap::new(),
            machines,
            data: "data".into(),
            checkpoints: "run".into(),
            max_secs: None,
            options: serde_json::Map::new(),
            folder: "/".into(),
            home: store.home(name),
        };
        Record::new(job, Group { name: "g".into(), at_once: None, max_usd: None }, Quoted::default(), 0, 0.0)
    }

    /// Starts what it is sent and says so for ever.
    struct Endless;

    impl Launcher for Endless {
        fn requests(&self, _: &Job, _: u32) -> Result<Vec<crate::outside::Request>, LaunchError> {
            Ok(Vec::new())
        }
        fn find(&self, _: &Job, _: u32) -> Result<Option<String>, LaunchError> {
            Ok(None)
        }
        fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
            Ok(job.attempt_name(attempt))
        }
        fn look(&self, _: &Job, _: &Attempt) -> Result<Seen, LaunchError> {
            Ok(Seen { is_running: true, ..Seen::default() })
        }
        fn stop(&self, _: &Job, _: &Attempt, _: bool) -> Result<(), LaunchError> {
            Ok(())
        }
        fn logs(&self, _: &Job, _: &Attempt) -> crate::places::Logs {
            crate::places::Logs::File("none".into())
        }
    }

    fn states<'q>(queue: &'q Queue<'_>, state: State) -> Vec<&'q str> {
        queue.records().values().filter(|record| record.state == state).map(|record| record.job.name.as_str()).collect()
    }

    #[test]
    fn priorities_go_first_as_many_at_once_as_may_and_a_name_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let group = Group { name: "g".into(), at_once: Some(2), max_usd: None };
        let of = |name: &str, priority| Record { priority, group: group.clone(), ..record(&store, name) };
        let launch = Order::Launch(vec![of("a", 0), of("b", 0), of("c", 5)]);
        // The same command twice is one launch.
        store.order(&launch).unwrap();
        store.order(&launch).unwrap();
        let find = |_: &str| Some(&Endless as &dyn Launcher);
        let mut queue = Queue::open(&store, &find).unwrap().unwrap();
        assert_eq!(queue.pass(0.0).unwrap().alive, 3);
        assert_eq!((states(&queue, State::Sent), states(&queue, State::Queued)), (vec!["a", "c"], vec!["b"]));
        assert!(Queue::open(&store, &find).unwrap().is_none(), "one writer");
        store.order(&Order::Stop { names: vec!["a".into(), "b".into()], kill: false }).unwrap();
        queue.pass(100.0).unwrap();
        queue.pass(200.0).unwrap();
        assert_eq!((states(&queue, State::Stopping), states(&queue, State::Stopped)), (vec!["a"], vec!["b"]));
        store.order(&Order::Resume { names: vec!["b".into(), "c".into()] }).unwrap();
        queue.pass(300.0).unwrap();
        assert_eq!((states(&queue, State::Queued), states(&queue, State::Running)), (vec!["b"], vec!["c"]), "both places are taken");
    }

    #[test]
    fn what_a_group_may_cost_is_what_it_costs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let group = Group { name: "g".into(), at_once: Some(1), max_usd: Some(50.0) };
        let of = |name: &str| Record { group: group.clone(), ..record(&store, name) };
        store.order(&Order::Launch(vec![of("a"), of("b")])).unwrap();
        let find = |_: &str| Some(&Endless as &dyn Launcher);
        let mut queue = Queue::open(&store, &find).unwrap().unwrap();
        // At a dollar a second, from the first look that finds it running.
        for now in 0..64 {
            queue.pass(f64::from(now)).unwrap();
        }
        assert_eq!(states(&queue, State::Running), ["a"]);
        (64..90).for_each(|now| _ = queue.pass(f64::from(now)).unwrap());
        assert_eq!((states(&queue, State::Stopping), states(&queue, State::Stopped)), (vec!["a"], vec!["b"]));
        assert!(queue.records()["a"].note.as_ref().unwrap().contains("--max-usd 50"));
    }
}
