//! Arrays: jobs of one command that a place takes in one call, and of which it runs as many at a time as it is told.

use crate::{job::Job, record::Record};

/// Jobs that are sent in one call, or of which one call asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<'a> {
    /// At the place; no other has it.
    pub name: &'a str,
    /// Most that run at a time.
    pub at_once: Option<usize>,
    /// At least one.
    pub elements: Vec<Element<'a>>,
}

/// A job in an array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Element<'a> {
    /// Its number there, which tells it what it is.
    pub index: usize,
    pub job: &'a Job,
    pub attempt: u32,
}

impl<'a> Array<'a> {
    /// Of records whose last attempts are elements of one array; `None` where they are not.
    #[must_use]
    pub fn of(records: &'a [Record]) -> Option<Self> {
        let seat = records.first()?.seat()?;
        let element = |record: &'a Record| {
            let attempt = record.attempts.last()?;
            Some(Element { index: attempt.seat.as_ref()?.index, job: &record.job, attempt: attempt.number })
        };
        let elements = records.iter().map(element).collect::<Option<Vec<_>>>()?;
        Some(Self { name: &seat.array, at_once: seat.at_once, elements })
    }
}
