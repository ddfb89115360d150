//! Places where jobs run: one file and one line each.

mod hosts;
mod kubernetes;
mod local;
mod sagemaker;
mod slurm;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub(crate) use hosts::mpirun;
use registry::{Named, Registry};
use serde::de::DeserializeOwned;

use crate::{LaunchError, array::Array, cause::Cause, job::Job, outside::Request, progress::Progress, quote::Quoted, record::Attempt};

/// A place as it is listed.
pub struct Place {
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
    /// Whether jobs there see the files of this machine.
    pub shares_files: bool,
    pub launcher: &'static (dyn Launcher + 'static),
    /// Its options in `places.toml`, each with what it is.
    pub options: &'static [(&'static str, &'static str)],
}

impl Named for Place {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every place; crates above add theirs.
pub static PLACES: Registry<Place> = Registry::new(&[local::PLACE, hosts::PLACE, slurm::PLACE, sagemaker::PLACE, kubernetes::PLACE]);

/// The launcher of a place.
#[must_use]
pub fn launcher(place: &str) -> Option<&'static dyn Launcher> {
    PLACES.find(place).map(|place| place.launcher)
}

/// How a place is spoken to. It keeps nothing: all that it knows of a job is in the job, and all else at the place.
pub trait Launcher: Send + Sync {
    /// Exactly what [`Launcher::send`] sends.
    /// # Errors
    /// When the job's options are wrong, or the place cannot take such a job.
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError>;

    /// How the place calls an attempt, if it has it: asked before it is sent.
    /// # Errors
    /// When the place does not answer, or has another job of this name.
    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError>;

    /// Send an attempt; how the place calls it.
    /// # Errors
    /// [`LaunchError::Call`] with the cause; what is no refusal may have been sent all the same.
    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError>;

    /// How an attempt is.
    /// # Errors
    /// When the place does not answer.
    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError>;

    /// Ask an attempt to save and end, or `now` end it at once.
    /// # Errors
    /// When the place does not answer.
    fn stop(&self, job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError>;

    /// Where to read what it says.
    fn logs(&self, job: &Job, attempt: &Attempt) -> Logs;

    /// The call that brings a job's checkpoints to `to`, where they are not here already.
    fn fetch(&self, _job: &Job, _to: &Path) -> Option<Request> {
        None
    }

    /// Between two looks: a question to a service is not free.
    fn poll_secs(&self) -> f64 {
        15.0
    }

    /// Why it should wait for others to end, if it should.
    fn no_room(&self, _job: &Job) -> Option<String> {
        None
    }

    /// What to know before it is sent: what is not set and was taken to be something, quotas, what kept machines cost.
    fn notes(&self, _job: &Job, _quoted: &Quoted) -> Vec<String> {
        Vec::new()
    }

    /// Where it takes many jobs in one call.
    fn arrays(&self) -> Option<&dyn Arrays> {
        None
    }

    /// Whether what is shown by [`Launcher::requests`] could be sent as it is; else what is missing.
    /// # Errors
    /// [`LaunchError::Option`].
    fn check(&self, _job: &Job) -> Result<(), LaunchError> {
        Ok(())
    }
}

/// How a place is spoken to that takes many jobs in one call; looked at, stopped and read is each by the name that it has there.
pub trait Arrays: Sync {
    /// What has to be the same of all jobs of one array; `None` where this one goes by itself.
    fn alike(&self, job: &Job) -> Option<String>;

    /// Exactly what [`Arrays::send`] sends.
    /// # Errors
    /// As [`Launcher::requests`].
    fn request(&self, array: &Array<'_>) -> Result<Request, LaunchError>;

    /// How the place calls each element that it has, by its index: asked before any is sent.
    /// # Errors
    /// When the place does not answer.
    fn find(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError>;

    /// Send these elements, all or none; how the place calls each.
    /// # Errors
    /// As [`Launcher::send`].
    fn send(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError>;
}

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Whether it has its machines.
    pub is_running: bool,
    pub ended: Option<Ended>,
    pub progress: Option<Progress>,
    pub billed_secs: Option<f64>,
    /// What the place says of it.
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Done,
    /// By somebody at the place.
    Stopped,
    Failed(Cause, String),
}

/// Where to read what a job says.
#[derive(Debug, Clone, PartialEq)]
pub enum Logs {
    File(PathBuf),
    /// A program that prints it, and one that goes on printing.
    Commands {
        once: Vec<String>,
        follow: Vec<String>,
    },
}

/// How an attempt whose files are here ended, if it has.
pub(crate) fn exit_of(home: &Path, attempt: u32) -> Option<i32> {
    local::exit(home, attempt).map(|exit| exit.code)
}

/// A place has a job of this name, from elsewhere.
pub(crate) fn other_job(program: &str, name: &str) -> LaunchError {
    let problem = format!("there is a job `{name}` already, which is not this one: give another `--name`");
    LaunchError::Call { program: program.into(), problem, cause: Cause::Refused }
}

/// A job's options as the type of its place.
pub(crate) fn options<T: DeserializeOwned>(place: &'static Place, job: &Job) -> Result<T, LaunchError> {
    serde_json::from_value(serde_json::Value::Object(job.options.clone())).map_err(|e| {
        let known: Vec<&str> = place.options.iter().map(|(name, _)| *name).collect();
        LaunchError::Option { place: place.name, problem: e.to_string(), help: format!("its options are {}", known.join(", ")) }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::Machines;

    /// A job on `on` with options in TOML.
    pub(crate) fn job(on: &str, options: &str) -> Job {
        let options: serde_json::Value = serde_json::to_value(options.parse::<toml::Table>().unwrap()).unwrap();
        Job {
            name: "small-1a2b3c4d".into(),
            argv: ["train", "{files}/recipe.toml", "--out", "{out}", "--resume", "--set", "data.path={data}"].map(Into::into).to_vec(),
            files: BTreeMap::from([("recipe.toml".into(), "name = \"small\"\n[model]\ndepth = 4\n".into())]),
            env: BTreeMap::from([("HAIRPIN_KERNELS".into(), "portable".into())]),
            machines: Machines::parse(on).unwrap(),
            data: "/shared/data".into(),
            checkpoints: "/shared/jobs/small-1a2b3c4d/run".into(),
            max_secs: None,
            options: options.as_object().unwrap().clone(),
            folder: "/shared".into(),
            home: "/shared/jobs/small-1a2b3c4d".into(),
        }
    }

    #[test]
    fn a_misspelt_option_names_those_that_there_are() {
        for place in PLACES.all() {
            let on = if place.name == "hosts" { "hosts:a".to_owned() } else { place.name.to_owned() };
            let wrong = place.launcher.requests(&job(&on, "colour = 1"), 1).unwrap_err();
            assert!(matches!(wrong, LaunchError::Option { ref problem, .. } if problem.contains("colour")), "{}: {wrong:?}", place.name);
            assert!(place.launcher.requests(&job(&on, ""), 1).is_ok(), "{}: shown without options", place.name);
        }
    }
}
