//! This machine: processes in the background that outlive the terminal and the queue.
//!
//! ```text
//! hairpin work HOME ATTEMPT -- hairpin train ...     holds HOME/lock while it lives, and writes HOME/exit.json when it ends
//! ```
//! The lock says that it lives, as no process id does; the program itself inherits it, so that it is held until both are gone.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use train::clock::unix_secs;

use super::{Ended, Launcher, Logs, Place, Seen, options};
use crate::{LaunchError, cause::Cause, job::Job, outside::Request, progress, record::Attempt, wake};

pub(super) const PLACE: Place =
    Place { name: "local", what: "background processes on this machine", shares_files: true, launcher: &Local, options: &[] };
static HERE: Place = PLACE;

/// From the start of a process to its lock.
const BEGINS_WITHIN_SECS: f64 = 10.0;
/// Of the log, what an error may say.
const TAIL_BYTES: u64 = 2 << 10;

struct Local;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {}

/// How an attempt ended: `HOME/exit.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub attempt: u32,
    /// As a shell tells it: 128 and more for a signal.
    pub code: i32,
}

impl Launcher for Local {
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError> {
        let Options {} = options(&HERE, job)?;
        let command = std::iter::once("hairpin".to_owned()).chain(job.command(&job.paths_here()));
        Ok(vec![work(job, attempt, command)])
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        Ok(find(job, attempt))
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        start(job, &self.requests(job, attempt)?[0])
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        Ok(look(job, attempt))
    }

    fn stop(&self, job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError> {
        stop(job, attempt, now)
    }

    fn logs(&self, job: &Job, _attempt: &Attempt) -> Logs {
        Logs::File(job.log())
    }

    /// Only where nobody is woken by its end.
    fn poll_secs(&self) -> f64 {
        0.25
    }

    fn no_room(&self, job: &Job) -> Option<String> {
        let (need, free) = (job.machines.memory_bytes?, limits::available_bytes()?);
        (need > free).then(|| format!("waits for memory: {} MiB of {} are free", free >> 20, need >> 20))
    }
}

/// The call that runs `command` as an attempt.
pub(super) fn work(job: &Job, attempt: u32, command: impl IntoIterator<Item = String>) -> Request {
    let home = job.home.display().to_string();
    Request::new(["hairpin".to_owned(), "work".into(), home, attempt.to_string(), "--".into()].into_iter().chain(command))
}

/// Start it in the background; it leaves our session by itself, so that no Ctrl-C reaches it.
pub(super) fn start(job: &Job, request: &Request) -> Result<String, LaunchError> {
    let log = job.log();
    let open = || OpenOptions::new().create(true).append(true).open(&log).map_err(LaunchError::io("open", &log));
    let failed = |e: std::io::Error| LaunchError::Call { program: "hairpin".into(), problem: e.to_string(), cause: Cause::Environment };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(&request.argv[1..]).envs(&job.env).current_dir(&job.folder);
    command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    // Whoever started it looks at its lock and its exit, but it is our child as long as we live.
    let child = command.spawn().map_err(failed)?;
    let id = child.id().to_string();
    std::thread::spawn(move || {
        let mut child = child;
        let _ = child.wait();
        wake::ended();
    });
    Ok(id)
}

/// Whether this attempt lives, and the process of its program.
fn holder(home: &Path) -> Option<(u32, i32)> {
    let file = OpenOptions::new().read(true).write(true).open(home.join("lock")).ok()?;
    if file.try_lock().is_ok() {
        return None;
    }
    let text = fs::read_to_string(home.join("lock")).ok()?;
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

pub(super) fn exit(home: &Path, attempt: u32) -> Option<Exit> {
    let exit: Exit = serde_json::from_slice(&disk::read(&home.join("exit.json"), 1 << 16).ok()?).ok()?;
    (exit.attempt == attempt).then_some(exit)
}

pub(super) fn find(job: &Job, attempt: u32) -> Option<String> {
    let lives = holder(&job.home).filter(|(number, _)| *number == attempt);
    lives.map(|(_, pid)| pid.to_string()).or_else(|| exit(&job.home, attempt).map(|_| "ended".to_owned()))
}

pub(super) fn look(job: &Job, attempt: &Attempt) -> Seen {
    let exited = || exit(&job.home, attempt.number);
    let lives = || holder(&job.home).is_some_and(|(number, _)| number == attempt.number);
    if exited().is_none() && lives() {
        return Seen { is_running: true, ..Seen::default() };
    }
    let ended = match exited() {
        Some(exit) => ended(job, exit.code),
        // Its lock and its exit are its own first and last deed.
        None if unix_secs() - attempt.sent_unix < BEGINS_WITHIN_SECS => return Seen::default(),
        None => Ended::Failed(Cause::Killed, "it is gone, and left no exit code".into()),
    };
    Seen { ended: Some(ended), progress: progress::of_folder(&job.run_folder()), ..Seen::default() }
}

/// What an exit code means, with the last error of the log.
pub(super) fn ended(job: &Job, code: i32) -> Ended {
    match Cause::of_exit(code) {
        None => Ended::Done,
        Some(cause) => Ended::Failed(cause, format!("exit code {code}{}", last_error(job))),
    }
}

/// The line of the last error in a log, which stands behind a cross.
fn last_error(job: &Job) -> String {
    let text = progress::tail(&job.log(), TAIL_BYTES).unwrap_or_default();
    let line = text.lines().rev().find_map(|line| line.trim_start().strip_prefix('×'));
    line.map_or(String::new(), |line| format!(": {}", line.trim()))
}

pub(super) fn stop(job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError> {
    let not_yet = |problem: String| LaunchError::Call { program: "kill".into(), problem, cause: Cause::Unreachable };
    // What has ended is found by the next look.
    if exit(&job.home, attempt.number).is_some() {
        return Ok(());
    }
    let Some((_, pid)) = holder(&job.home).filter(|(number, _)| *number == attempt.number) else {
        return if unix_secs() - attempt.sent_unix < BEGINS_WITHIN_SECS { Err(not_yet("it has not begun yet".into())) } else { Ok(()) };
    };
    let pid = Pid::from_raw(pid).ok_or_else(|| not_yet("its program has not begun yet".into()))?;
    let signal = if now { Signal::KILL } else { Signal::TERM };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(not_yet(e.to_string())),
    }
}
