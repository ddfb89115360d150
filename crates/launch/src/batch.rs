//! Batches: what of the jobs that may go goes in one call.
//!
//! Jobs of one command that a place could not tell apart but for what each runs go as one array. One that was refused or has failed goes
//! by itself from then on: it is looked at, tried again and stopped by itself.

use std::collections::HashMap;

use crate::{
    LaunchError,
    array::Array,
    job::plain,
    outside::Request,
    places::{self, Launcher},
    record::{Record, Seat, State},
};

/// Slurm takes no more unless it is told to.
const MOST_ELEMENTS: usize = 1000;
/// Of an array's name, what its jobs' names have in common.
const NAME_CHARS: usize = 28;

/// Records that go, each in its batch.
#[derive(Debug, Default)]
pub struct Batches(Vec<Batch>);

#[derive(Debug)]
struct Batch {
    alike: Option<String>,
    at_once: Option<usize>,
    records: Vec<Record>,
}

/// What has to be the same of `record` and others for one array; `None` where it goes by itself.
#[must_use]
pub fn alike(launcher: &dyn Launcher, record: &Record) -> Option<String> {
    let arrays = launcher.arrays().filter(|_| record.tries == 0)?;
    Some(format!("{}\n{}", record.group.name, arrays.alike(&record.job)?))
}

impl Batches {
    /// Whether there is an array that takes one more like this.
    #[must_use]
    pub fn takes(&self, alike: Option<&str>) -> bool {
        self.0.iter().any(|batch| batch.takes(alike))
    }

    /// One more, in an array where there is one of its like; if it opens one, of which `at_once` run at a time.
    pub fn add(&mut self, record: Record, alike: Option<String>, at_once: Option<usize>) {
        match self.0.iter_mut().find(|batch| batch.takes(alike.as_deref())) {
            Some(batch) => batch.records.push(record),
            None => self.0.push(Batch { alike, at_once, records: vec![record] }),
        }
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().flat_map(|batch| &batch.records)
    }

    /// The batches; where one is an array, each of its records knows its seat.
    #[must_use]
    pub fn seated(self) -> Vec<Vec<Record>> {
        self.0.into_iter().map(Batch::seated).collect()
    }
}

impl Batch {
    fn takes(&self, alike: Option<&str>) -> bool {
        alike.is_some() && self.alike.as_deref() == alike && self.records.len() < MOST_ELEMENTS
    }

    fn seated(mut self) -> Vec<Record> {
        if self.records.len() > 1 {
            let array = name(&self.records);
            for (index, record) in self.records.iter_mut().enumerate() {
                if let Some(attempt) = record.attempts.last_mut() {
                    attempt.seat = Some(Seat { array: array.clone(), index, at_once: self.at_once });
                }
            }
        }
        self.records
    }
}

/// What the names have in common, and a mark of all attempts that are in it.
fn name(records: &[Record]) -> String {
    let first = records[0].job.name.as_str();
    let common = |other: &Record| first.bytes().zip(other.job.name.bytes()).take_while(|(a, b)| a == b).count();
    let common = records.iter().map(common).min().unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    for Record { job, attempts, .. } in records {
        hasher.update(format!("{} {}\n", job.home.display(), attempts.len()).as_bytes());
    }
    // Names are of one byte a character.
    format!("{}-{}", plain(&first[..common], NAME_CHARS), &hasher.finalize().to_hex()[..8])
}

/// The array with which a record is being sent.
#[must_use]
pub fn sent_with(record: &Record) -> Option<&str> {
    record.seat().filter(|_| record.state == State::Sending).map(|seat| seat.array.as_str())
}

/// Those that are being sent as one array, and each other by itself.
#[must_use]
pub fn together(records: Vec<Record>) -> Vec<Vec<Record>> {
    let (mut batches, mut at): (Vec<Vec<Record>>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    for record in records {
        match sent_with(&record).map(|array| *at.entry(array.to_owned()).or_insert(batches.len())) {
            Some(at) if at < batches.len() => batches[at].push(record),
            _ => batches.push(vec![record]),
        }
    }
    batches
}

/// What is sent where all of `records` go, none of which has gone before.
/// # Errors
/// As [`Launcher::requests`].
pub fn requests(records: &[Record]) -> Result<Vec<Request>, LaunchError> {
    let mut batches = Batches::default();
    for record in records {
        let alike = places::launcher(&record.job.machines.place).and_then(|launcher| alike(launcher, record));
        let mut record = record.clone();
        record.begin(0.0);
        let at_once = record.group.at_once;
        batches.add(record, alike, at_once);
    }
    let mut all = Vec::new();
    for batch in batches.seated() {
        let Some(launcher) = places::launcher(&batch[0].job.machines.place) else { continue };
        match (Array::of(&batch), launcher.arrays()) {
            (Some(array), Some(arrays)) => all.push(arrays.request(&array)?),
            _ => all.extend(launcher.requests(&batch[0].job, 1)?),
        }
    }
    Ok(all)
}
