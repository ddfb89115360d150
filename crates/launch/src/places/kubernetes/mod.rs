//! Kubernetes: an Indexed Job behind a headless Service, a JobSet, or a TrainJob of Kubeflow, through `kubectl`.
//!
//! `kubectl` and no client library: it brings contexts, plug-ins for credentials and proxies as the cluster's people set them up, its
//! `apply` makes sending twice sending once, and nothing heavy is built for it. Every attempt is one object of its own name, so that
//! a failed one is looked at and not started over its own remains; what is done again, is done by the queue, from checkpoints.

mod manifests;

use serde::Deserialize;
use serde_json::Value;

use super::{Ended, Launcher, Logs, Place, Seen, options};
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
    name: "kubernetes",
    what: "a cluster under Kubernetes",
    shares_files: false,
    launcher: &Kubernetes,
    options: &[
        ("image", "container image"),
        (
            "data_claim",
            "persistent volume claim that holds the prepared data; `--data` is the folder in it, or a URL and no claim is needed",
        ),
        ("checkpoints_claim", "persistent volume claim under which each job has its own folder"),
        ("checkpoints", "in its place a URL under which each job has its own, `s3://BUCKET/runs`"),
        ("form", "`job` (default), `jobset`, or `trainjob` of Kubeflow"),
        ("runtime", "of a TrainJob: the ClusterTrainingRuntime"),
        ("context", "of kubectl; default: the current one"),
        ("namespace", "default: the context's own"),
        ("resources", "of each machine: `{ cpu = \"32\", memory = \"200Gi\" }`"),
        ("node_selector", "`{ \"node.kubernetes.io/instance-type\" = \"p4d.24xlarge\" }`"),
        ("service_account", "that pods have"),
        ("pull_secret", "for the image"),
        ("queue", "of Kueue: a job then starts with all its machines, or waits"),
        ("priority_class", "of Kueue: before whom it goes in its queue"),
        (
            "keep_alive_secs",
            "after a job, pods that sleep keep its machines and the image for so long, or until the next job of the same kind",
        ),
    ],
};
static HERE: Place = PLACE;

const HELP: &str = "install `kubectl` (kubernetes.io/docs/tasks/tools) and point it at your cluster";
/// The label of everything of an attempt.
const LABEL: &str = "hairpin/attempt";

struct Kubernetes;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    image: Option<String>,
    data_claim: Option<String>,
    checkpoints_claim: Option<String>,
    checkpoints: Option<String>,
    form: Form,
    runtime: Option<String>,
    context: Option<String>,
    namespace: Option<String>,
    resources: serde_json::Map<String, Value>,
    node_selector: serde_json::Map<String, Value>,
    service_account: Option<String>,
    pull_secret: Option<String>,
    queue: Option<String>,
    priority_class: Option<String>,
    keep_alive_secs: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Job,
    JobSet,
    TrainJob,
}

impl Form {
    /// As kubectl names it.
    fn resource(self) -> &'static str {
        match self {
            Self::Job => "jobs.batch",
            Self::JobSet => "jobsets.jobset.x-k8s.io",
            Self::TrainJob => "trainjobs.trainer.kubeflow.org",
        }
    }
}

impl Options {
    fn kubectl(&self, words: &[&str]) -> Request {
        let pairs = [("--context", &self.context), ("--namespace", &self.namespace)];
        let given = pairs.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value.as_ref()?)));
        Request::new(["kubectl".to_owned()].into_iter().chain(given).chain(words.iter().map(|word| (*word).to_owned())))
    }

    fn apply(&self, object: Value) -> Request {
        self.kubectl(&["apply", "--filename=-"]).with(Input::Json(object))
    }

    fn call(&self, words: &[&str]) -> Result<String, LaunchError> {
        self.kubectl(words).call(HERE.name, HELP, cause)
    }

    /// What stands under a name; `None` where nothing does.
    fn get(&self, words: &[&str]) -> Result<Option<Value>, LaunchError> {
        let all: Vec<&str> = ["get"].iter().chain(words).chain(&["--output=json"]).copied().collect();
        match self.call(&all) {
            Ok(told) => serde_json::from_str(&told).map(Some).map_err(|e| LaunchError::Call {
                program: "kubectl".into(),
                problem: format!("what is no JSON: {e}"),
                cause: Cause::Unreachable,
            }),
            Err(LaunchError::Call { problem, .. }) if problem.contains("NotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Launcher for Kubernetes {
    /// One object a call, the one that runs last: what was cut off before it has started nothing.
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError> {
        let options: Options = options(&HERE, job)?;
        let objects = manifests::objects(job, attempt, &options)?;
        // Pods that keep machines make room before there is anything that needs it.
        let kept = options.keep_alive_secs.map(|_| manifests::keepers_name(job, &options));
        let release = |name: String| options.kubectl(&["delete", Form::Job.resource(), &name, "--ignore-not-found", "--wait=false"]);
        Ok(kept.map(release).into_iter().chain(objects.into_iter().map(|object| options.apply(object))).collect())
    }

    fn check(&self, job: &Job) -> Result<(), LaunchError> {
        let missing = manifests::missing(job, &options(&HERE, job)?);
        if missing.is_empty() {
            return Ok(());
        }
        let help = "write it under `[kubernetes]` in places.toml, or give `--place KEY=VALUE`";
        Err(LaunchError::Option { place: HERE.name, problem: format!("{} not set", missing.join(", ")), help: help.into() })
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        let options: Options = options(&HERE, job)?;
        let name = job.attempt_name(attempt);
        let Some(found) = options.get(&[options.form.resource(), &name])? else { return Ok(None) };
        let is_own = found["metadata"]["annotations"][manifests::CONTENT] == serde_json::json!(job.content());
        if is_own { Ok(Some(name)) } else { Err(super::other_job("kubectl", &name)) }
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        for request in self.requests(job, attempt)? {
            request.call(HERE.name, HELP, cause)?;
        }
        Ok(job.attempt_name(attempt))
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        let options: Options = options(&HERE, job)?;
        let name = job.attempt_name(attempt.number);
        let Some(object) = options.get(&[options.form.resource(), &name])? else {
            return Ok(Seen { ended: Some(Ended::Failed(Cause::Gone, "Kubernetes does not know it".into())), ..Seen::default() });
        };
        let pods = options.get(&["pods", &format!("--selector={LABEL}={name}")])?.unwrap_or_default();
        let mut seen = seen(&object, &pods);
        if seen.is_running || seen.ended.is_some() {
            let log = options.call(&["logs", &format!("--selector={}", first_pod(&name)), "--tail=50"]);
            seen.progress = log.ok().as_deref().and_then(progress::of_log);
        }
        if let (Some(Ended::Done | Ended::Failed(..)), Some(secs)) = (&seen.ended, options.keep_alive_secs) {
            options.apply(manifests::keepers(job, &options, secs)).call(HERE.name, HELP, cause)?;
        }
        Ok(seen)
    }

    /// Pods get SIGTERM and the time to save.
    fn stop(&self, job: &Job, attempt: &Attempt, now: bool) -> Result<(), LaunchError> {
        let options: Options = options(&HERE, job)?;
        let name = job.attempt_name(attempt.number);
        let all = [options.form.resource(), &name];
        let mut words = vec!["delete", all[0], all[1], "--ignore-not-found", "--cascade=foreground", "--wait=false"];
        if now {
            words.extend(["--grace-period=0", "--force"]);
        }
        options.call(&words).map(|_| ())
    }

    fn logs(&self, job: &Job, attempt: &Attempt) -> Logs {
        let options: Options = options(&HERE, job).unwrap_or_default();
        let selector = format!("--selector={}", first_pod(&job.attempt_name(attempt.number)));
        let of = |more: &[&str]| options.kubectl(&[&["logs", &selector, "--tail=-1"], more].concat()).argv;
        Logs::Commands { once: of(&[]), follow: of(&["--follow"]) }
    }

    fn notes(&self, job: &Job, _quoted: &Quoted) -> Vec<String> {
        let Ok(options) = options::<Options>(&HERE, job) else { return Vec::new() };
        let missing = manifests::missing(job, &options);
        let mut notes = Vec::new();
        if !missing.is_empty() {
            notes.push(format!("{} not set: what is shown has a stand-in there, and cannot be sent", missing.join(", ")));
        }
        if job.machines.count > 1 && options.queue.is_none() && options.form != Form::TrainJob {
            notes.push("pods start one by one as there is room: with Kueue and `--place queue=NAME` all start together or wait".into());
        }
        if let Some(secs) = options.keep_alive_secs {
            let usd = job
                .machines
                .usd_per_hour
                .map_or("what the machines cost".to_owned(), |usd| format!("up to ${:.2}", usd * secs as f64 / 3600.0));
            let name = manifests::keepers_name(job, &options);
            notes.push(format!(
                "machines are kept for {secs} s after the last job ({usd}), by pods that sleep: `kubectl delete job {name}` gives them back"
            ));
        }
        notes
    }
}

/// The pod in which training speaks.
fn first_pod(name: &str) -> String {
    format!("{LABEL}={name},batch.kubernetes.io/job-completion-index=0")
}

/// What `kubectl` says when it fails.
fn cause(said: &str) -> Cause {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["exceeded quota"]) {
        Cause::Quota
    } else if says(&["Unauthorized", "You must be logged in", "getting credentials", "expired"]) {
        Cause::Credentials
    } else if says(&["TooManyRequests", "ServiceUnavailable", "ServerTimeout", "etcdserver"]) {
        Cause::Throttled
    } else if says(&["was refused", "Unable to connect", "i/o timeout", "no such host", "TLS handshake", "EOF"]) {
        Cause::Unreachable
    } else {
        Cause::Refused
    }
}

/// What an object and its pods mean. Jobs, JobSets and TrainJobs tell their end in conditions.
fn seen(object: &Value, pods: &Value) -> Seen {
    let list = |at: &Value, path: &str| at.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = list(object, "/status/conditions");
    let holds = |kind: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
    let pods = list(pods, "/items");
    let containers: Vec<Value> = pods.iter().flat_map(|pod| list(pod, "/status/containerStatuses")).collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if holds("Complete").is_some() || holds("Completed").is_some() {
        return Seen { ended: Some(Ended::Done), ..Seen::default() };
    }
    if let Some(failed) = holds("Failed") {
        let is_disturbed =
            pods.iter().any(|pod| list(pod, "/status/conditions").iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"));
        // The first that failed is the cause, the others followed.
        let mut ends: Vec<&Value> =
            containers.iter().filter_map(|c| c.pointer("/state/terminated")).filter(|t| t["exitCode"] != 0).collect();
        ends.sort_by_key(|end| text(&end["finishedAt"]));
        let code = ends.first().and_then(|end| end["exitCode"].as_i64()).and_then(|code| i32::try_from(code).ok());
        let cause = match (is_disturbed, ends.first().map(|end| text(&end["reason"])).as_deref()) {
            (true, _) => Cause::NodeLost,
            (_, Some("OOMKilled")) => Cause::Environment,
            _ => code.and_then(Cause::of_exit).unwrap_or(Cause::NodeLost),
        };
        let said = ends.first().map(|end| text(&end["message"])).unwrap_or_default();
        return Seen { ended: Some(Ended::Failed(cause, format!("{} {said}", text(&failed["message"])))), ..Seen::default() };
    }
    let waits =
        containers.iter().filter_map(|c| c.pointer("/state/waiting/reason").map(&text)).find(|reason| reason != "ContainerCreating");
    if let Some(reason) = waits.as_deref().filter(|reason| ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"].contains(reason)) {
        return Seen { note: Some(format!("Kubernetes: {reason}: the image cannot be read")), ..Seen::default() };
    }
    let running = containers.iter().filter(|c| c.pointer("/state/running").is_some()).count();
    let note = waits.or_else(|| (running == 0).then(|| "waits for machines".to_owned())).map(|why| format!("Kubernetes: {why}"));
    Seen { is_running: running > 0, note, ..Seen::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_and_pods_are_a_state() {
        let job = |condition: Value| json!({"status": {"conditions": [condition]}});
        let pod = |state: Value| json!({"items": [{"status": {"containerStatuses": [{"state": state}]}}]});
        let of = |condition: &str, state: Value| seen(&job(json!({"type": condition, "status": "True", "message": "m"})), &pod(state));
        assert_eq!(of("Complete", json!({})).ended, Some(Ended::Done));
        assert_eq!(of("Completed", json!({})).ended, Some(Ended::Done));
        let ended = |code: i64, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": "why"}});
        assert_eq!(of("Failed", ended(2, "Error")).ended, Some(Ended::Failed(Cause::Input, "m why".into())));
        assert_eq!(of("Failed", ended(137, "OOMKilled")).ended, Some(Ended::Failed(Cause::Environment, "m why".into())));
        assert!(seen(&json!({}), &pod(json!({"running": {}}))).is_running);
        let stuck = seen(&json!({}), &pod(json!({"waiting": {"reason": "ImagePullBackOff"}})));
        assert!(!stuck.is_running && stuck.note.unwrap().contains("image"));
        assert_eq!(seen(&json!({}), &json!({})).ended, None);
        let lost = json!({"items": [{"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}}]});
        assert!(matches!(seen(&job(json!({"type": "Failed", "status": "True"})), &lost).ended, Some(Ended::Failed(Cause::NodeLost, _))));
    }

    #[test]
    fn what_kubectl_says_is_understood() {
        assert_eq!(
            cause("The connection to the server localhost:8080 was refused - did you specify the right host or port?"),
            Cause::Unreachable
        );
        assert_eq!(cause("error: You must be logged in to the server (Unauthorized)"), Cause::Credentials);
        assert_eq!(cause("Error from server (Forbidden): pods \"a\" is forbidden: exceeded quota: q"), Cause::Quota);
        assert_eq!(cause("Error from server (Invalid): error when creating"), Cause::Refused);
    }
}
