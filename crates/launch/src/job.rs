//! A job as data: what is run, with which files, on which machines, from which data, with checkpoints where.
//!
//! It says nothing of how a place is spoken to, so that the same job runs anywhere: words in braces in its arguments (`{files}`,
//! `{data}`, `{out}`) stand for where the place puts those.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::LaunchError;

/// Names become names of pods, which append up to twenty characters to it and take 63 in all.
pub const LONGEST_NAME: usize = 42;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Unique in the store and at the place.
    pub name: String,
    /// Of `hairpin`, itself left out.
    pub argv: Vec<String>,
    /// Small texts that go along, by name.
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub machines: Machines,
    /// Where its prepared data is: a folder, or a URL that the place reads.
    pub data: String,
    /// Where its checkpoints go; at a place that shares no files with this machine a URL or a volume's name.
    pub checkpoints: String,
    /// Longest that machines may be held in one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_secs: Option<u64>,
    /// What the place itself has to be told: the tables of `places.toml`, as they were when the job was launched.
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Where the command was given; relative paths are seen from there.
    pub folder: PathBuf,
    /// The job's own folder in the store.
    pub home: PathBuf,
}

/// Where and on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// A name of [`crate::places::PLACES`].
    pub place: String,
    /// As the place calls it, `ml.p4d.24xlarge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub count: usize,
    /// By name, where that is how they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Processes of one machine that take part in training.
    pub ranks_each: usize,
    /// Of all machines together; none where nobody sends a bill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
    /// Bytes that the job takes on each machine, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Machines {
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.count * self.ranks_each
    }
}

/// Where a place puts what belongs to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Paths {
    pub files: String,
    pub data: String,
    pub out: String,
}

impl Job {
    /// Its arguments at a place.
    #[must_use]
    pub fn command(&self, paths: &Paths) -> Vec<String> {
        let at = |word: &String| word.replace("{files}", &paths.files).replace("{data}", &paths.data).replace("{out}", &paths.out);
        self.argv.iter().map(at).collect()
    }

    /// At places that share files with this machine.
    #[must_use]
    pub fn paths_here(&self) -> Paths {
        Paths { files: self.home.display().to_string(), data: self.data.clone(), out: self.checkpoints.clone() }
    }

    /// The folder of this machine with its metrics, where it shares its files.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        let out = Path::new(&self.checkpoints);
        if ::store::is_url(out) { ::store::cache(&self.checkpoints) } else { out.to_owned() }
    }

    /// What it says, where its files are here.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The name of an attempt at the place: the first is the job's own.
    #[must_use]
    pub fn attempt_name(&self, attempt: u32) -> String {
        if attempt <= 1 { self.name.clone() } else { format!("{}-try{attempt}", self.name) }
    }

    /// What makes it this job and no other: what runs, on which data and machines. Prices, threads and options of the place do not.
    #[must_use]
    pub fn content(&self) -> String {
        let Machines { place, instance, count, hosts, .. } = &self.machines;
        let text = serde_json::json!([self.argv, self.files, self.data, place, instance, count, hosts]).to_string();
        blake3::hash(text.as_bytes()).to_hex()[..8].to_owned()
    }
}

/// Whether `name` is one that every place takes.
/// # Errors
/// [`LaunchError::Name`].
pub fn check_name(name: &str) -> Result<(), LaunchError> {
    let wrong = |problem| Err(LaunchError::Name { name: name.into(), problem });
    match name {
        "" => wrong("is empty"),
        _ if name.len() > LONGEST_NAME => wrong("is too long"),
        _ if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') => {
            wrong("has characters that not every place takes")
        }
        _ if !name.starts_with(|c: char| c.is_ascii_lowercase()) => wrong("does not begin with a letter"),
        _ if name.ends_with('-') || name.contains("--") => wrong("has a dash that joins nothing"),
        _ => Ok(()),
    }
}

/// The nearest name that every place takes, at most `longest` long.
#[must_use]
pub fn plain(text: &str, longest: usize) -> String {
    let mut name = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if !(c == '-' && (name.is_empty() || name.ends_with('-'))) {
            name.push(c);
        }
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "job-");
    }
    name.truncate(longest);
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn machines_are_named_as_people_write_them() {
        let parse = |text: &str| Machines::parse(text).map(|m| (m.place, m.instance, m.count, m.hosts));
        let none = || Vec::<String>::new();
        assert_eq!(parse("local").unwrap(), ("local".into(), None, 1, none()));
        assert_eq!(parse("slurm:8").unwrap(), ("slurm".into(), None, 8, none()));
        let p4d = Some("ml.p4d.24xlarge".to_owned());
        assert_eq!(parse("sagemaker:ml.p4d.24xlarge:16").unwrap(), ("sagemaker".into(), p4d, 16, none()));
        assert_eq!(parse("hosts:a,b").unwrap(), ("hosts".into(), None, 2, vec!["a".into(), "b".into()]));
        for bad in [
            "",
            "moon",
            "slurm:0",
            "slurm:-1",
            "slurm:99999999999999999999",
            "local:2",
            "hosts:",
            "hosts:-oProxyCommand=x",
            "slurm:a:b:c",
            "slurm::4",
        ] {
            assert!(matches!(Machines::parse(bad), Err(LaunchError::Place { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_name_that_every_place_takes(text in ".*", longest in 8_usize..LONGEST_NAME) {
            let name = plain(&text, longest);
            prop_assert!(check_name(&name).is_ok() && name.len() <= longest, "{name:?}");
        }

        #[test]
        fn no_text_of_machines_panics(text in ".*") {
            let _ = Machines::parse(&text);
            let _ = Machines::parse(&format!("hosts:{text}"));
            let _ = Machines::parse(&format!("sagemaker:{text}"));
        }
    }
}
