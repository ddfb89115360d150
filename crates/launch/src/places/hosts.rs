//! Machines that are reached by ssh and share files with this one: `mpirun`, started here in the background as any local job is.

use serde::Deserialize;

use super::{Launcher, Logs, Place, Seen, local, options};
use crate::{LaunchError, job::Job, outside::Request, record::Attempt};

pub(super) const PLACE: Place = Place {
    name: "hosts",
    what: "mpirun over ssh to a list of machines that share files",
    shares_files: true,
    launcher: &Hosts,
    options: &[
        ("program", "where `hairpin` is on all of them; default: `hairpin`, by their PATH"),
        ("ranks_each", "processes on each machine; default: 1"),
        ("mpirun", "more arguments of `mpirun`, as a list"),
    ],
};
static HERE: Place = PLACE;

struct Hosts;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    program: Option<String>,
    ranks_each: Option<usize>,
    mpirun: Vec<String>,
}

impl Launcher for Hosts {
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError> {
        let options: Options = options(&HERE, job)?;
        let machines = &job.machines;
        let each = options.ranks_each.unwrap_or(machines.ranks_each).max(1);
        let hosts = machines.hosts.iter().map(|host| format!("{host}:{each}")).collect::<Vec<_>>().join(",");
        let mut argv = mpirun(&hosts, each * machines.count, each);
        argv.extend(["--wdir".to_owned(), job.folder.display().to_string()]);
        argv.extend(job.env.keys().flat_map(|key| ["-x".to_owned(), key.clone()]));
        argv.extend(options.mpirun);
        argv.push(options.program.unwrap_or_else(|| "hairpin".into()));
        argv.extend(job.command(&job.paths_here()));
        Ok(vec![local::work(job, attempt, argv)])
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        Ok(local::find(job, attempt))
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        local::start(job, &self.requests(job, attempt)?[0])
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        Ok(local::look(job, attempt))
    }

    fn stop(&self, job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError> {
        local::stop(job, attempt, now)
    }

    fn logs(&self, job: &Job, _attempt: &Attempt) -> Logs {
        Logs::File(job.log())
    }

    fn poll_secs(&self) -> f64 {
        0.1
    }
}

/// Open MPI's, by host list, with the time that ranks take to save before they are killed.
pub(crate) fn mpirun(hosts: &str, ranks: usize, each: usize) -> Vec<String> {
    let (ranks, map) = (ranks.to_string(), format!("ppr:{each}:node"));
    let args = ["mpirun", "--host", hosts, "-n", &ranks, "--map-by", &map, "--mca", "odls_base_sigkill_timeout", "120"];
    args.map(str::to_owned).to_vec()
}
