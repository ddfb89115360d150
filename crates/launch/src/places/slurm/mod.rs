//! Slurm: a batch script by `sbatch`, one for each job or one array for many, states by `scontrol`, signals by `scancel`; or steps in an
//! allocation that is held already (`salloc --no-shell`), which are warm machines.
//!
//! The script passes Slurm's warning before the time limit on to training, which saves, and writes how it ended beside the log, so that
//! the end is known also when Slurm has forgotten the job. A lost node is Slurm's to replace: `--requeue` starts the script anew, and
//! training goes on from its checkpoint.

mod array;
mod script;

use std::path::Path;

use script::Options;

use super::{Arrays, Ended, Launcher, Logs, Place, Seen, local, options};
use crate::{
    LaunchError,
    cause::Cause,
    job::Job,
    outside::{Input, Request},
    progress,
    quote::Quoted,
    record::Attempt,
};

pub(super) const PLACE: Place = Place {
    name: "slurm",
    what: "a cluster under Slurm that shares files",
    shares_files: true,
    launcher: &Slurm,
    options: &[
        ("partition", "its partition"),
        ("account", "who pays"),
        ("qos", "quality of service"),
        ("time", "time limit, `1-12:00:00`; a job that needs more goes on in the next"),
        ("ranks_each", "processes on each machine; default: 1"),
        ("allocation", "number of a held allocation to run in: no waiting, no start"),
        ("program", "where `hairpin` is there; default: this program's own path"),
        ("sbatch", "more arguments of `sbatch`, as a list: `[\"--gres=gpu:8\"]`"),
        ("mpirun", "more arguments of `mpirun`, as a list"),
        ("setup", "lines of shell before it starts: `[\"module load openmpi\"]`"),
    ],
};
static HERE: Place = PLACE;

const HELP: &str = "install Slurm's commands (Debian: `slurm-client`), or run this on a login node";

struct Slurm;

impl Launcher for Slurm {
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError> {
        let options: Options = options(&HERE, job)?;
        options.check()?;
        if let Some(allocation) = options.allocation {
            return Ok(vec![local::work(job, attempt, options.step(job, allocation))]);
        }
        let script = options.script(job, attempt);
        Ok(vec![Request::new(["sbatch", "--parsable"]).with(Input::Text(script))])
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        if in_allocation(job) {
            return Ok(local::find(job, attempt));
        }
        if local::exit(&job.home, attempt).is_some() {
            return Ok(Some("ended".into()));
        }
        let name = job.attempt_name(attempt);
        // Of this very folder: names are all users' and all projects'.
        let told = call(["squeue", "--noheader", "--me", "--states=all", "--format=%A|%k", "--name", &name])?;
        let own = |line: &str| line.split_once('|').filter(|(_, comment)| *comment == mark(&job.home)).map(|(id, _)| id.to_owned());
        Ok(told.lines().find_map(own))
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        let requests = self.requests(job, attempt)?;
        if in_allocation(job) {
            return local::start(job, &requests[0]);
        }
        let told = requests[0].call(HERE.name, HELP, cause)?;
        // `1234`, or `1234;cluster`.
        Ok(told.trim().split(';').next().unwrap_or_default().to_owned())
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        if in_allocation(job) {
            return Ok(local::look(job, attempt));
        }
        let progress = || progress::of_folder(&job.run_folder());
        let ended = |ended| Ok(Seen { ended: Some(ended), progress: progress(), ..Seen::default() });
        let id = attempt.id.as_deref().unwrap_or_default();
        let exit = local::exit(&job.home, attempt.number);
        let told = match call(["scontrol", "--oneliner", "show", "job", id]) {
            Ok(told) => told,
            // Slurm forgets what has ended; the script has written how.
            Err(LaunchError::Call { problem, .. }) if is_unknown(&problem) => match exit {
                Some(exit) => return ended(local::ended(job, exit.code)),
                // An element that is cancelled before it starts is forgotten at once.
                None if attempt.seat.is_some() && attempt.started_unix.is_none() => return ended(Ended::Stopped),
                None => return ended(Ended::Failed(Cause::Gone, "Slurm no longer knows it, and it left no exit code".into())),
            },
            Err(error) => return Err(error),
        };
        let state = field(&told, "JobState=");
        let reason = field(&told, "Reason=");
        let limit = || ended(Ended::Failed(Cause::TimeLimit, format!("Slurm: {state}")));
        match state {
            "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" => {
                Ok(Seen { is_running: true, ..Seen::default() })
            }
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" | "RESIZING" => {
                Ok(Seen { note: Some(format!("Slurm: {}", reason_text(state, reason))), ..Seen::default() })
            }
            "COMPLETED" => ended(Ended::Done),
            "TIMEOUT" | "DEADLINE" => limit(),
            "NODE_FAIL" | "BOOT_FAIL" => ended(Ended::Failed(Cause::NodeLost, format!("Slurm: {state}"))),
            "PREEMPTED" | "REVOKED" => ended(Ended::Failed(Cause::Spot, format!("Slurm: {state}"))),
            "OUT_OF_MEMORY" => ended(Ended::Failed(Cause::Environment, "Slurm: out of memory".into())),
            // Training that was warned of the limit, saved and ended.
            "FAILED" if reason == "TimeLimit" => limit(),
            // The batch step went away under its script.
            "FAILED" if reason == "JobLaunchFailure" => ended(Ended::Failed(Cause::NodeLost, format!("Slurm: {reason}"))),
            "CANCELLED" if exit.is_none() => ended(Ended::Stopped),
            _ => match exit.map(|exit| exit.code).or_else(|| field(&told, "ExitCode=").split(':').next()?.parse().ok()) {
                Some(code) if code != 0 => ended(local::ended(job, code)),
                _ => ended(Ended::Failed(Cause::Killed, format!("Slurm: {state} {reason}"))),
            },
        }
    }

    fn stop(&self, job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError> {
        if in_allocation(job) {
            return local::stop(job, attempt, now);
        }
        let id = attempt.id.as_deref().unwrap_or_default();
        let is_gone = |error: &LaunchError| matches!(error, LaunchError::Call { problem, .. } if is_unknown(problem));
        let told = call(["scontrol", "--oneliner", "show", "job", id]);
        let is_running = told.as_ref().is_ok_and(|told| field(told, "JobState=") == "RUNNING");
        // The script passes it on to training, which saves; what waits has nothing to save.
        let asked = if is_running && !now { call(["scancel", "--batch", "--signal=TERM", id]) } else { call(["scancel", id]) };
        match asked {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn logs(&self, job: &Job, _attempt: &Attempt) -> Logs {
        Logs::File(job.log())
    }

    fn poll_secs(&self) -> f64 {
        2.0
    }

    fn arrays(&self) -> Option<&dyn Arrays> {
        Some(self)
    }

    fn notes(&self, job: &Job, _quoted: &Quoted) -> Vec<String> {
        let held = "a job in a held allocation starts at once: `salloc --no-shell --nodes N`, then `--place allocation=NUMBER`";
        if in_allocation(job) { Vec::new() } else { vec![held.into()] }
    }
}

/// What tells our job from another of its name.
fn mark(folder: &Path) -> String {
    format!("hairpin:{}", folder.display())
}

/// Whether Slurm says that it knows no such job, or no such element.
fn is_unknown(said: &str) -> bool {
    said.contains("Invalid job id") || said.contains("not found")
}

fn in_allocation(job: &Job) -> bool {
    job.options.contains_key("allocation")
}

fn call<const N: usize>(argv: [&str; N]) -> Result<String, LaunchError> {
    Request::new(argv).call(HERE.name, HELP, cause)
}

/// What Slurm's commands say when they fail.
fn cause(said: &str) -> Cause {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&[
        "Unable to contact",
        "Socket timed out",
        "Connection refused",
        "Zero Bytes were transmitted",
        "slurm_load_jobs error: Connection",
    ]) {
        Cause::Unreachable
    } else if says(&["Limit", "limit"]) && says(&["QOS", "Assoc", "Max", "accounting/QOS"]) {
        Cause::Quota
    } else if says(&["authentication", "Munge", "Invalid authentication credential"]) {
        Cause::Credentials
    } else if says(&["temporarily", "Resource temporarily unavailable"]) {
        Cause::Throttled
    } else {
        Cause::Refused
    }
}

/// What stands behind `name` in a line of `scontrol`.
fn field<'a>(told: &'a str, name: &str) -> &'a str {
    let at = told.find(&format!(" {name}")).map(|at| &told[at + 1 + name.len()..]);
    at.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default()
}

fn reason_text(state: &str, reason: &str) -> String {
    if reason.is_empty() || reason == "None" { state.to_lowercase() } else { format!("{}, {reason}", state.to_lowercase()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slurm_says_is_understood() {
        let told = "JobId=7 JobName=a UserId=u(1) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 ExitCode=3:0 RunTime=00:01:00";
        assert_eq!((field(told, "JobState="), field(told, "ExitCode="), field(told, "Missing=")), ("FAILED", "3:0", ""));
        assert_eq!(
            cause("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"),
            Cause::Unreachable
        );
        assert_eq!(cause("sbatch: error: AssocMaxSubmitJobLimit"), Cause::Quota);
        assert_eq!(cause("sbatch: error: invalid partition specified: x"), Cause::Refused);
    }
}
