//! Jobs on this machine by the real binary: swept, queued, killed, stopped and gone on with, to the bits of a plain run.
#![cfg(target_os = "linux")]

mod corpus;
mod project;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use project::{RECIPE, hairpin, ok, prepared, weights};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);

fn json(args: &[&str], at: &Path) -> Value {
    serde_json::from_str(&ok(&[args, &["--json"]].concat(), at)).unwrap()
}

/// Until `is_so` of the jobs.
fn until(at: &Path, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let Value::Array(jobs) = json(&["jobs"], at) else { panic!("no list of jobs") };
        if is_so(&jobs) {
            return jobs;
        }
        assert!(since.elapsed() < WITHIN, "not {what}: {jobs:#?}\n{}", fs::read_to_string(at.join("jobs/queue.log")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn all(state: &'static str) -> impl Fn(&[Value]) -> bool {
    move |jobs| jobs.iter().all(|job| job["state"] == state)
}

#[test]
fn a_sweep_runs_to_the_bits_of_plain_runs_and_is_launched_once() {
    let folder = prepared();
    let at = folder.path();
    let launch = ["launch", "small.toml", "--sweep", "optim.lr=1e-3,3e-3", "--sweep", "seed=1..2", "--at-once", "2"];
    let told = json(&launch, at);
    let jobs = told["jobs"].as_array().unwrap();
    assert!(jobs.len() == 4 && jobs.iter().all(|job| job["is_new"] == true), "{told}");
    assert!(told["quote"]["memory_fits"] == true && told["quote"]["usd"].is_null(), "{told}");
    let done = until(at, "done", all("done"));
    assert!(done.iter().all(|job| job["step"] == 40 && job["attempts"].as_array().unwrap().len() == 1), "{done:#?}");
    let again = json(&launch, at);
    assert!(again["jobs"].as_array().unwrap().iter().all(|job| job["is_new"] == false && job["state"] == "done"), "{again}");
    ok(&["train", "small.toml", "--out", "plain", "--set", "optim.lr=3e-3", "--set", "seed=2"], at);
    let name = done[3]["name"].as_str().unwrap();
    assert!(name.starts_with("small-lr-3e-3-seed-2-"), "{name}");
    assert!(weights(&at.join("jobs").join(name).join("run")) == weights(&at.join("plain")), "the same bits");
    assert!(ok(&["logs", name], at).contains("step"));
    let compared = json(&["compare"], at);
    assert_eq!(compared["jobs"].as_array().unwrap().len(), 4);
    let page = fs::read_to_string(at.join("jobs/compare.html")).unwrap();
    assert!(page.contains("<svg") && page.contains(name));
    assert_eq!(json(&["cost"], at)["usd"], 0.0);
    ok(&["launch", "small.toml", "--name", "kept", "--out", "runs", "--set", "optim.lr=3e-3", "--set", "seed=2"], at);
    until(at, "done", all("done"));
    assert!(weights(&at.join("runs/kept")) == weights(&at.join("plain")), "where `--out` says, and the same bits");
}

#[test]
fn what_is_killed_goes_on_and_what_is_stopped_is_resumed() {
    let folder = prepared();
    let at = folder.path();
    let steps = "train.steps=1500";
    let told = json(&["launch", "small.toml", "--name", "long", "--set", steps, "--set", "checkpoint.every_steps=50"], at);
    assert_eq!(told["jobs"][0]["name"], "long");
    let taken = hairpin(&["launch", "small.toml", "--name", "long"], at);
    assert!(String::from_utf8_lossy(&taken.stderr).contains("launch::name_taken") && taken.status.code() == Some(2));
    let step = |jobs: &[Value]| jobs[0]["step"].as_u64().unwrap();
    until(at, "past step 60", |jobs| step(jobs) > 60);
    // The program itself, by a signal that it cannot see: another attempt goes on from the checkpoint.
    let pid = fs::read_to_string(at.join("jobs/long/lock")).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let jobs = until(at, "running again", |jobs| jobs[0]["attempts"].as_array().unwrap().len() == 2 && jobs[0]["state"] == "running");
    assert_eq!(jobs[0]["attempts"][0]["cause"], "killed");
    // The queue: the job does not notice, and the next command starts another queue.
    let queue = fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()).find(|process| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("supervise") && words.contains(&at.display().to_string())
    });
    let queue = queue.expect("a queue").file_name().unwrap().to_string_lossy().into_owned();
    assert!(Command::new("kill").args(["-9", &queue]).status().unwrap().success());
    let before = step(&until(at, "there", |_| true));
    until(at, "further", |jobs| step(jobs) > before + 10 && jobs[0]["state"] == "running");
    ok(&["stop", "long"], at);
    let jobs = until(at, "stopped", all("stopped"));
    assert!(step(&jobs) < 1500 && jobs[0]["attempts"].as_array().unwrap().len() == 2, "{jobs:#?}");
    ok(&["resume", "long"], at);
    let jobs = until(at, "done", all("done"));
    assert_eq!((step(&jobs), jobs[0]["attempts"].as_array().unwrap().len()), (1500, 3));
    ok(&["train", "small.toml", "--out", "plain", "--set", steps, "--set", "checkpoint.every_steps=50"], at);
    assert!(weights(&at.join("jobs/long/run")) == weights(&at.join("plain")), "the bits of a run that nobody disturbed");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_launched() {
    let folder = prepared();
    let at = folder.path();
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = hairpin(args, at);
        let text = String::from_utf8_lossy(&output.stderr).replace(['\n', '│'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.code() == Some(code) && text.contains(words), "{args:?}: {:?} {text}", output.status.code());
    };
    let p4d = "sagemaker:ml.p4d.24xlarge:2";
    refused(&["launch", "small.toml", "--on", "moon"], 2, "there is no place `moon`");
    refused(&["launch", "small.toml", "--on", p4d], 2, "batch.sequences=16");
    fs::write(at.join("wide.toml"), RECIPE.replace("sequences = 4\nmicro_batch = 4", "sequences = 16\nmicro_batch = 1")).unwrap();
    refused(&["launch", "small.toml", "--set", "data.path=nowhere"], 2, "hairpin data");
    refused(&["launch", "wide.toml", "--on", p4d], 2, "role, image, checkpoints");
    refused(&["launch", "wide.toml", "--on", p4d, "--place", "colour=red"], 2, "its options are role");
    refused(&["launch", "small.toml", "--on", "sagemaker:ml.m5.xlarge", "--sweep", "seed=4..1"], 2, "launch::sweep");
    refused(&["launch", "none.toml"], 3, "none.toml");
    let set = ["role=arn:aws:iam::123456789012:role/x", "image=i", "checkpoints=s3://b/c"];
    let whole: Vec<&str> =
        ["launch", "wide.toml", "--on", p4d, "--data", "s3://b/d"].into_iter().chain(set.iter().flat_map(|set| ["--place", set])).collect();
    refused(&whole, 2, "nobody has said yes");
    refused(&[&whole[..], &["--max-usd", "0.0001"]].concat(), 1, "are allowed");
    let pods = ["launch", "wide.toml", "--on", "kubernetes:1", "--place", "image=i", "--data", "s3://b/d", "--dry-run", "--out"];
    refused(&[&pods[..], &["runs"]].concat(), 2, "checkpoints = `runs` is no URL");
    assert!(ok(&[&pods[..], &["s3://b/runs"]].concat(), at).contains("s3://b/runs/small-"));
    refused(&["stop", "nobody"], 2, "there is no job `nobody`");
    let shown = json(&[&whole[..], &["--dry-run"]].concat(), at);
    assert!(shown["requests"][0]["TrainingJobName"].as_str().unwrap().starts_with("small-"), "{shown}");
    assert_eq!(json(&["jobs"], at), serde_json::json!([]), "nothing was launched");
}
