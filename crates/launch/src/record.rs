//! What is known of a job: the job, how it is to be treated, and what befell it, attempt by attempt. One JSON file each.

use serde::{Deserialize, Serialize};

use crate::{cause::Cause, job::Job, progress::Progress, quote::Quoted};

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub job: Job,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i64,
    /// In which jobs of one priority go.
    pub order: u64,
    pub group: Group,
    pub quoted: Quoted,
    pub launched_unix: f64,
    pub wish: Wish,
    pub state: State,
    pub attempts: Vec<Attempt>,
    /// Failures in a row that brought it no step further, and the step that it was at.
    #[serde(default)]
    pub tries: u32,
    #[serde(default)]
    pub tries_at_step: u64,
    /// Questions in a row that the place did not answer.
    #[serde(default)]
    pub unheard: u32,
    /// Nothing is to be done before.
    #[serde(default)]
    pub next_unix: f64,
    /// Why it is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// As the place last told it, where it shares no files with this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// The jobs of one command, which share its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    /// Most that run at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,
    /// Of all its jobs together, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_usd: Option<f64>,
}

/// What its user wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    Run,
    /// Saved, and resumed some day.
    Stop,
    /// At once.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be sent when there is room and [`Record::next_unix`] has come.
    Queued,
    /// Being sent: whether the place has it is not known.
    Sending,
    /// The place has it and will start it.
    Sent,
    Running,
    Stopping,
    Done,
    Failed,
    Stopped,
}

/// One start at the place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// As the place calls it.
    pub id: Option<String>,
    pub sent_unix: f64,
    pub started_unix: Option<f64>,
    pub ended_unix: Option<f64>,
    pub cause: Option<Cause>,
    /// Of machines that it had before and that were taken away under it.
    pub held_before_secs: f64,
    /// As the place bills them, where it tells.
    pub billed_secs: Option<f64>,
    /// Where it was sent as one of many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
}

/// Which element of which array an attempt is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// Its name at the place.
    pub array: String,
    /// From 0.
    pub index: usize,
    /// Most elements that run at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,
}

impl State {
    /// Whether nothing more will come of it by itself.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Stopped)
    }

    /// Whether it takes a place, or may take one.
    #[must_use]
    pub fn is_out(self) -> bool {
        matches!(self, Self::Sending | Self::Sent | Self::Running | Self::Stopping)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl Record {
    /// A job that nothing has befallen yet.
    #[must_use]
    pub fn new(job: Job, group: Group, quoted: Quoted, priority: i64, now: f64) -> Self {
        Self {
            job,
            priority,
            order: 0,
            group,
            quoted,
            launched_unix: now,
            wish: Wish::Run,
            state: State::Queued,
            attempts: Vec::new(),
            tries: 0,
            tries_at_step: 0,
            unheard: 0,
            next_unix: 0.0,
            note: None,
            progress: None,
        }
    }

    /// Write down that it is about to be sent once more.
    pub fn begin(&mut self, now: f64) {
        let number = self.attempts.last().map_or(1, |attempt| attempt.number + 1);
        self.attempts.push(Attempt { number, sent_unix: now, ..Attempt::default() });
        (self.state, self.note) = (State::Sending, None);
    }

    /// Where its last attempt has its place in an array.
    #[must_use]
    pub fn seat(&self) -> Option<&Seat> {
        self.attempts.last()?.seat.as_ref()
    }

    /// Seconds that machines were held for it, up to `now`.
    #[must_use]
    pub fn held_secs(&self, now: f64) -> f64 {
        // The sum of none is -0.0.
        0.0 + self.attempts.iter().map(|attempt| attempt.held_secs(now)).sum::<f64>()
    }

    /// US dollars so far, at the price of the quote.
    #[must_use]
    pub fn usd(&self, now: f64) -> f64 {
        self.job.machines.usd_per_hour.unwrap_or(0.0) * self.held_secs(now) / 3600.0
    }
}

impl Attempt {
    /// From when it started, as far as is known; what waits for machines is not billed.
    fn held_secs(&self, now: f64) -> f64 {
        let since = |started: f64| (self.ended_unix.unwrap_or(now) - started).max(0.0);
        self.billed_secs.unwrap_or_else(|| self.held_before_secs + self.started_unix.map_or(0.0, since))
    }
}
