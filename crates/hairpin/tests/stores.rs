//! Runs at a URL by the real binary: a store that is gone for a while, and several ranks with one URL.
#![cfg(all(target_os = "linux", feature = "cloud"))]

mod corpus;
mod project;

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use project::{ok, prepared, weights};

const WITHIN: Duration = Duration::from_secs(120);

/// A bucket that can be gone: a link, to a folder or to a file that holds nothing.
struct Bucket {
    at: PathBuf,
}

impl Bucket {
    fn below(at: &Path) -> Self {
        fs::create_dir(at.join("there")).unwrap();
        fs::write(at.join("gone"), "").unwrap();
        let bucket = Self { at: at.to_owned() };
        bucket.is("there");
        bucket
    }

    /// In one step, so that at no moment anything can be written beside it.
    fn is(&self, what: &str) {
        symlink(self.at.join(what), self.at.join("link")).unwrap();
        fs::rename(self.at.join("link"), self.at.join("bucket")).unwrap();
    }

    fn url(&self) -> String {
        format!("file://{}/run", self.at.join("bucket").display())
    }

    /// Steps of the checkpoints that are published.
    fn published(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.at.join("there/run")).into_iter().flatten().flatten().map(|entry| entry.path());
        let names = entries.filter(|path| path.join("published.json").is_file());
        let step = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = names.filter_map(step).collect();
        steps.sort_unstable();
        steps
    }
}

/// Start `hairpin train small.toml` on a machine of its own; what it says goes to `log`.
fn train(at: &Path, machine: &str, url: &str, more: &[&str]) -> Child {
    let log = File::create(at.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    command.args(["train", "small.toml", "--out", url]).args(more).current_dir(at).env("HAIRPIN_CACHE", at.join(machine));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// The folder that a machine keeps of its one URL.
fn kept(at: &Path, machine: &str) -> Option<PathBuf> {
    Some(fs::read_dir(at.join(machine)).ok()?.flatten().next()?.path())
}

/// How many steps are told of.
fn steps(at: &Path, machine: &str) -> u64 {
    let text = kept(at, machine).and_then(|folder| fs::read_to_string(folder.join("metrics.jsonl")).ok());
    text.map_or(0, |text| text.lines().filter(|line| line.contains("\"loss\"")).count() as u64)
}

fn until(what: &str, at: &Path, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < WITHIN, "not {what}\n{}", fs::read_to_string(at.join("log")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The weights of what is published, as a machine reads them that has seen nothing.
fn fetched(at: &Path, url: &str, machine: &str) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    command.args(["eval", url, "--context", "32", "--windows", "4"]).current_dir(at).env("HAIRPIN_CACHE", at.join(machine));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    weights(&kept(at, machine).unwrap())
}

#[test]
fn while_a_store_is_gone_training_goes_on_to_its_bound_and_then_all_is_published() {
    let folder = prepared();
    let at = folder.path();
    let (bucket, every, last) = (Bucket::below(at), 100, 2000);
    let more = ["--set", "train.steps=2000", "--set", "checkpoint.every_steps=100", "--set", "checkpoint.keep_last=1000"];
    let mut run = train(at, "machine", &bucket.url(), &more);
    until("published", at, || !bucket.published().is_empty());
    bucket.is("gone");
    let (published, log) = (bucket.published(), || fs::read_to_string(at.join("log")).unwrap());
    until("told of the bound", at, || log().contains("2 checkpoints wait for"));
    // It waits where it stands, and goes on by itself.
    let stands = || {
        let before = steps(at, "machine");
        std::thread::sleep(Duration::from_millis(1500));
        steps(at, "machine") == before
    };
    until("standing", at, stands);
    let (stood_at, newest) = (steps(at, "machine"), published.last().unwrap());
    assert!(run.try_wait().unwrap().is_none(), "it waits, and does not end\n{}", log());
    assert!(stood_at >= newest + 3 * every && stood_at < last, "from step {newest} on to {stood_at}");
    assert_eq!(bucket.published(), published, "nothing is published meanwhile");
    bucket.is("there");
    assert!(run.wait().unwrap().success(), "{}", log());
    // Beside them there is one from which more steps can be made.
    let regular: Vec<u64> = bucket.published().into_iter().filter(|step| step.is_multiple_of(every)).collect();
    assert_eq!(regular, (every..=last).step_by(every as usize).collect::<Vec<u64>>(), "{}", log());
    assert!(log().contains("trying again for 30 minutes"), "{}", log());
    ok(&[&["train", "small.toml", "--out", "plain"], &more[..]].concat(), at);
    assert!(fetched(at, &bucket.url(), "other") == weights(&at.join("plain")), "the bits of a run that nothing befell");
}

#[test]
fn of_several_ranks_with_one_url_one_publishes() {
    let folder = prepared();
    let at = folder.path();
    let bucket = Bucket::below(at);
    let more = ["--set", "parallel.ranks=4", "--set", "batch.lanes=4", "--set", "batch.micro_batch=1"];
    assert!(train(at, "machine", &bucket.url(), &more).wait().unwrap().success(), "{}", fs::read_to_string(at.join("log")).unwrap());
    assert_eq!(bucket.published().last(), Some(&40));
    for step in bucket.published() {
        let name = at.join(format!("there/run/step-{step:08}"));
        let sets = fs::read_dir(&name).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(sets, 1, "{}: the files of one writer", name.display());
    }
    ok(&[&["train", "small.toml", "--out", "plain"], &more[..]].concat(), at);
    assert!(fetched(at, &bucket.url(), "other") == weights(&at.join("plain")));
}
