//! Amazon SageMaker: one training job for each attempt, through the `aws` command line.
//!
//! All of a job is in its one `CreateTrainingJob`: the recipe travels in hyperparameters, so that there is nothing to upload before it and
//! nothing to be cut between. SageMaker takes a name once for ever, which makes sending idempotent. In the container `hairpin work`
//! reads them back ([`crate::work`]).
//!
//! Source of shapes and limits: the service model `sagemaker/2017-07-24` (also in PyPI's `botocore`, against which
//! `xtask/python/launch.py` validates what is sent), and the developer guide's "How Amazon SageMaker AI Runs Your Training Image".

mod body;

use serde::Deserialize;
use serde_json::Value;

use super::{Ended, Launcher, Logs, Place, Seen, options};
use crate::{
    LaunchError,
    cause::Cause,
    job::Job,
    keep,
    outside::{Input, Request},
    progress::Progress,
    quote::Quoted,
    record::Attempt,
    spare::Spare,
};

pub(super) const PLACE: Place = Place {
    name: "sagemaker",
    what: "training jobs of Amazon SageMaker",
    shares_files: false,
    launcher: &SageMaker,
    options: &[
        ("role", "ARN of the role that jobs have"),
        ("image", "container image, in ECR"),
        ("checkpoints", "`s3://bucket/prefix` under which each job has its own"),
        ("region", "default: the client's own"),
        ("data_mode", "`FastFile` (default), `File` or `Pipe`"),
        ("fsx", "`{ file_system_id, path, kind }`: data on FSx for Lustre (`FSxLustre`, default) or EFS (`EFS`)"),
        ("spot", "true: spare machines, which may be taken back and come again"),
        ("spot_usd_per_hour", "what one of them costs today, for the quote"),
        ("keep_alive_secs", "keep machines for the next job that matches, up to 3600"),
        ("max_runtime_secs", "when SageMaker ends it; a run that needs more goes on in the next job"),
        ("max_wait_secs", "with `spot`: with the waiting"),
        ("volume_gb", "of each machine, where the instance has no disks of its own"),
        ("training_plan", "ARN of a training plan: reserved machines"),
        ("subnets", "of your VPC"),
        ("security_groups", "of your VPC"),
        ("isolated", "true: no network but between the job's machines"),
        ("kms_key", "for what is written to S3"),
        ("volume_kms_key", "for the machines' volumes"),
        ("tags", "`{ team = \"speech\" }`"),
    ],
};
static HERE: Place = PLACE;

const HELP: &str = "install the AWS command line (`pip install awscli`, or version 2 from aws.amazon.com/cli) and sign in";

struct SageMaker;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    role: Option<String>,
    image: Option<String>,
    checkpoints: Option<String>,
    region: Option<String>,
    data_mode: Option<String>,
    fsx: Option<FileSystem>,
    spot: bool,
    spot_usd_per_hour: Option<f64>,
    keep_alive_secs: Option<u64>,
    max_runtime_secs: Option<u64>,
    max_wait_secs: Option<u64>,
    volume_gb: Option<u64>,
    training_plan: Option<String>,
    subnets: Vec<String>,
    security_groups: Vec<String>,
    isolated: bool,
    kms_key: Option<String>,
    volume_kms_key: Option<String>,
    tags: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSystem {
    file_system_id: String,
    path: String,
    #[serde(default = "lustre")]
    kind: String,
}

fn lustre() -> String {
    "FSxLustre".into()
}

impl Options {
    fn aws(&self, words: &[&str]) -> Request {
        let region = self.region.iter().flat_map(|region| ["--region", region]);
        Request::new(["aws"].into_iter().chain(words.iter().copied()).chain(region).chain(["--output", "json"]))
    }
}

impl Launcher for SageMaker {
    fn requests(&self, job: &Job, attempt: u32) -> Result<Vec<Request>, LaunchError> {
        let options: Options = options(&HERE, job)?;
        let body = body::create(job, attempt, &options)?;
        // By a file, as the client reads it more than once.
        let file = format!("file://{}", request_path(job, attempt).display());
        let call = options.aws(&["sagemaker", "create-training-job", "--cli-input-json", &file]);
        Ok(vec![call.with(Input::Json(body))])
    }

    fn check(&self, job: &Job) -> Result<(), LaunchError> {
        body::missing(job, &options(&HERE, job)?).map_or(Ok(()), |missing| {
            Err(LaunchError::Option {
                place: HERE.name,
                problem: format!("{} not set", missing.join(", ")),
                help: "write it under `[sagemaker]` in places.toml, or give `--place KEY=VALUE`; docs/launch.md shows where to get it"
                    .into(),
            })
        })
    }

    fn find(&self, job: &Job, attempt: u32) -> Result<Option<String>, LaunchError> {
        let name = job.attempt_name(attempt);
        let options = options(&HERE, job)?;
        let Some(told) = describe(&options, &name)? else { return Ok(None) };
        let own = body::create(job, attempt, &options)?;
        let is_own = told.get("HyperParameters").is_none_or(|theirs| *theirs == own["HyperParameters"]);
        if is_own { Ok(Some(name)) } else { Err(super::other_job("aws", &name)) }
    }

    fn send(&self, job: &Job, attempt: u32) -> Result<String, LaunchError> {
        let Request { argv, input } = self.requests(job, attempt)?.swap_remove(0);
        let path = request_path(job, attempt);
        if let Input::Json(body) = input {
            disk::write(&path, body.to_string()).map_err(LaunchError::io("write", &path))?;
        }
        match (Request { argv, input: Input::None }).call(HERE.name, HELP, cause) {
            // It is there: this very attempt, as its name is nobody else's.
            Err(LaunchError::Call { problem, .. }) if problem.contains("ResourceInUse") => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok(job.attempt_name(attempt))
    }

    fn look(&self, job: &Job, attempt: &Attempt) -> Result<Seen, LaunchError> {
        let name = job.attempt_name(attempt.number);
        Ok(match describe(&options(&HERE, job)?, &name)? {
            Some(told) => seen(&told),
            None => Seen { ended: Some(Ended::Failed(Cause::Gone, "SageMaker does not know it".into())), ..Seen::default() },
        })
    }

    fn stop(&self, job: &Job, attempt: &Attempt, _now: bool) -> Result<(), LaunchError> {
        let options: Options = options(&HERE, job)?;
        let name = job.attempt_name(attempt.number);
        match options.aws(&["sagemaker", "stop-training-job", "--training-job-name", &name]).call(HERE.name, HELP, cause) {
            // One that has ended cannot be stopped, which the next look finds.
            Err(LaunchError::Call { problem, cause: Cause::Refused, .. }) if problem.contains("ValidationException") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn logs(&self, job: &Job, attempt: &Attempt) -> Logs {
        let name = job.attempt_name(attempt.number);
        let options: Options = options(&HERE, job).unwrap_or_default();
        let tail =
            ["logs", "tail", "/aws/sagemaker/TrainingJobs", "--log-stream-name-prefix", &name, "--since", "30d", "--format", "short"];
        let once = options.aws(&tail).argv;
        let follow = once.iter().cloned().chain(["--follow".into()]).collect();
        Logs::Commands { once, follow }
    }

    fn fetch(&self, job: &Job, to: &std::path::Path) -> Option<Request> {
        let options: Options = options(&HERE, job).ok()?;
        let from = format!("{}/{}/run", options.checkpoints.as_ref()?.trim_end_matches('/'), job.name);
        Some(options.aws(&["s3", "sync", &from, &to.display().to_string()]))
    }

    fn notes(&self, job: &Job, quoted: &Quoted) -> Vec<String> {
        let Ok(options) = options::<Options>(&HERE, job) else { return Vec::new() };
        let mut notes: Vec<String> = body::missing(job, &options)
            .map(|missing| format!("{} not set: what is shown has a stand-in there, and cannot be sent", missing.join(", ")))
            .into_iter()
            .collect();
        let (instance, count) = (job.machines.instance.as_deref().unwrap_or_default(), job.machines.count);
        let kind = if options.spot { "spot training job usage" } else { "training job usage" };
        notes.push(format!("quota that is needed: \"{instance} for {kind}\" of {count} (Service Quotas, Amazon SageMaker)"));
        let most = body::runtime_secs(job, &options);
        notes.extend(quoted.secs.filter(|secs| *secs > most as f64).map(|secs| {
            let jobs = (secs / most as f64).ceil();
            format!("a training job ends after {:.0} days at most: this run goes through {jobs:.0} of them, each from the checkpoints of the one before", most as f64 / 86_400.0)
        }));
        if let Some(usd_per_hour) = job.machines.usd_per_hour {
            let of_all = |usd: f64| usd * count as f64;
            notes.extend(quoted.interval_secs.into_iter().flat_map(|interval_secs| {
                let spare_usd_per_hour = options.spot_usd_per_hour.map(of_all);
                Spare { usd_per_hour, spare_usd_per_hour, usd: quoted.usd, interval_secs }.notes()
            }));
            notes.extend(keep::Pool::sagemaker(usd_per_hour, options.keep_alive_secs).notes());
        }
        notes
    }
}

fn request_path(job: &Job, attempt: u32) -> std::path::PathBuf {
    job.home.join(format!("request-{attempt}.json"))
}

/// What SageMaker tells of a job; `None` where it knows none of this name.
fn describe(options: &Options, name: &str) -> Result<Option<Value>, LaunchError> {
    let call = options.aws(&["sagemaker", "describe-training-job", "--training-job-name", name]);
    match call.call(HERE.name, HELP, cause) {
        Ok(told) => serde_json::from_str(&told).map(Some).map_err(|e| LaunchError::Call {
            program: "aws".into(),
            problem: format!("what is no JSON: {e}"),
            cause: Cause::Unreachable,
        }),
        Err(LaunchError::Call { problem, .. }) if is_unknown(&problem) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_unknown(problem: &str) -> bool {
    let problem = problem.to_lowercase();
    problem.contains("resource not found") || problem.contains("could not find training job") || problem.contains("resourcenotfound")
}

/// By the code that stands in brackets: "An error occurred (ThrottlingException) when calling ...".
fn cause(said: &str) -> Cause {
    let code = said.split_once("An error occurred (").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(code, _)| code);
    match code {
        "ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded" | "SlowDown" => Cause::Throttled,
        "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "InternalFailure"
        | "InternalServerError"
        | "503"
        | "500"
        | "502"
        | "504" => Cause::Throttled,
        "ResourceLimitExceeded" => Cause::Quota,
        "CapacityError" | "InsufficientCapacity" | "InsufficientCapacityException" => Cause::Capacity,
        "ExpiredToken" | "ExpiredTokenException" | "UnrecognizedClientException" | "InvalidClientTokenId" => Cause::Credentials,
        "RequestExpired" | "InvalidSignatureException" | "SignatureDoesNotMatch" => Cause::Clock,
        "ValidationException" if said.contains("ECR") || said.contains("image") => Cause::Image,
        _ if said.contains("Could not connect")
            || said.contains("timed out")
            || said.contains("timeout")
            || said.contains("Connection was closed") =>
        {
            Cause::Unreachable
        }
        _ if said.contains("Unable to locate credentials") || said.contains("has expired") || said.contains("sso login") => {
            Cause::Credentials
        }
        _ => Cause::Refused,
    }
}

/// What a description means.
fn seen(told: &Value) -> Seen {
    let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default();
    let (status, stage, reason) = (text("TrainingJobStatus"), text("SecondaryStatus"), text("FailureReason"));
    let metric = |name: &str| {
        let all = told.get("FinalMetricDataList").and_then(Value::as_array)?;
        all.iter().find(|m| m.get("MetricName").and_then(Value::as_str) == Some(name))?.get("Value")?.as_f64()
    };
    let progress =
        metric("step").map(|step| Progress { step: step as u64, loss: metric("loss"), tokens_per_sec: metric("tokens_per_sec") });
    let is_running = matches!(stage, "Downloading" | "Training" | "Uploading" | "Stopping");
    let pool = told.pointer("/WarmPoolStatus/Status").and_then(Value::as_str);
    let note = match (pool, stage) {
        (Some(pool), _) => Some(format!("SageMaker: {stage}, warm pool {pool}")),
        (None, "Training" | "") => None,
        (None, stage) => Some(format!("SageMaker: {stage}")),
    };
    let ended = match (status, stage) {
        ("Completed", _) => Some(Ended::Done),
        (_, "MaxRuntimeExceeded" | "MaxWaitTimeExceeded") if status != "InProgress" => {
            Some(Ended::Failed(Cause::TimeLimit, format!("SageMaker: {stage}")))
        }
        ("Stopped", _) => Some(Ended::Stopped),
        ("Failed", _) => Some(Ended::Failed(failure(reason), reason.to_owned())),
        _ => None,
    };
    Seen { is_running, ended, progress, billed_secs: told.get("BillableTimeInSeconds").and_then(Value::as_f64), note }
}

/// `CapacityError: ...`, `ClientError: ...`, `InternalServerError: ...`, `AlgorithmError: ..., exit code: 3`
fn failure(reason: &str) -> Cause {
    let code = reason.rsplit_once("exit code: ").and_then(|(_, rest)| rest.trim().trim_end_matches('.').parse().ok());
    match reason.split(':').next().unwrap_or_default() {
        "CapacityError" => Cause::Capacity,
        "InternalServerError" => Cause::NodeLost,
        "AlgorithmError" => code.and_then(Cause::of_exit).unwrap_or(Cause::Environment),
        "ClientError" if reason.contains("image") || reason.contains("ECR") => Cause::Image,
        "ClientError" if reason.contains("nterrupt") => Cause::Spot,
        _ => Cause::Input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_says_is_understood() {
        let said = |code: &str| format!("\nAn error occurred ({code}) when calling the CreateTrainingJob operation: Rate exceeded");
        for (code, want) in [
            ("ThrottlingException", Cause::Throttled),
            ("503", Cause::Throttled),
            ("ResourceLimitExceeded", Cause::Quota),
            ("ExpiredTokenException", Cause::Credentials),
            ("RequestExpired", Cause::Clock),
            ("AccessDeniedException", Cause::Refused),
        ] {
            assert_eq!(cause(&said(code)), want, "{code}");
        }
        assert_eq!(cause("An error occurred (ValidationException) when calling: Cannot find the requested image in ECR"), Cause::Image);
        assert_eq!(cause("Could not connect to the endpoint URL: \"https://x\""), Cause::Unreachable);
        assert_eq!(cause("Unable to locate credentials"), Cause::Credentials);
        assert_eq!(failure("AlgorithmError: no room, exit code: 3"), Cause::Environment);
        assert_eq!(failure("AlgorithmError: , exit code: 2"), Cause::Input);
        assert_eq!(failure("CapacityError: Unable to provision requested ML compute capacity."), Cause::Capacity);
        assert_eq!(failure("InternalServerError: We encountered an internal error."), Cause::NodeLost);
    }

    #[test]
    fn a_description_is_a_state() {
        let of = |status: &str, stage: &str| {
            let metrics = serde_json::json!([{"MetricName": "step", "Value": 7.0}, {"MetricName": "loss", "Value": 2.5}]);
            seen(
                &serde_json::json!({"TrainingJobStatus": status, "SecondaryStatus": stage, "FinalMetricDataList": metrics, "BillableTimeInSeconds": 60}),
            )
        };
        assert!(!of("InProgress", "Starting").is_running && of("InProgress", "Training").is_running);
        assert_eq!(of("InProgress", "Interrupted").ended, None, "SageMaker starts it anew by itself");
        assert_eq!(of("Completed", "Completed").ended, Some(Ended::Done));
        assert_eq!(of("Stopped", "Stopped").ended, Some(Ended::Stopped));
        assert!(matches!(of("Stopped", "MaxRuntimeExceeded").ended, Some(Ended::Failed(Cause::TimeLimit, _))));
        let seen = of("InProgress", "Training");
        assert_eq!((seen.progress.map(|p| (p.step, p.loss)), seen.billed_secs), (Some((7, Some(2.5))), Some(60.0)));
    }
}
