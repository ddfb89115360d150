//! The body of `CreateTrainingJob`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{HERE, Options};
use crate::{
    LaunchError,
    job::{Job, Paths},
    work,
};

/// Of one hyperparameter's value, in characters; the service's limit is 2,500.
const CHUNK_CHARS: usize = 2400;
const MOST_HYPERPARAMETERS: usize = 100;
/// 28 days: no training job runs longer. Longer runs go on in the next one.
const LONGEST_SECS: u64 = 28 * 86_400;
const LONGEST_KEEP_SECS: u64 = 3600;
/// Stand-ins for what is shown without being sent.
const NO_ROLE: &str = "arn:aws:iam::000000000000:role/NOT-SET";
const NO_IMAGE: &str = "000000000000.dkr.ecr.us-east-1.amazonaws.com/not-set:latest";
const NO_BUCKET: &str = "s3://not-set";
/// Instances whose network is EFA, by the beginning of their names.
const EFA: [&str; 8] = ["ml.p4d", "ml.p4de", "ml.p5", "ml.p6", "ml.trn1n", "ml.trn2", "ml.trn1.32", "ml.g6e.48"];

/// What has to be set before it can be sent.
pub(super) fn missing(job: &Job, options: &Options) -> Option<Vec<&'static str>> {
    let mut missing = Vec::new();
    missing.extend(options.role.is_none().then_some("role"));
    missing.extend(options.image.is_none().then_some("image"));
    missing.extend(options.checkpoints.is_none().then_some("checkpoints"));
    missing.extend((!job.data.contains("://") && options.fsx.is_none()).then_some("data (an `s3://` URL, by `--data`)"));
    (!missing.is_empty()).then_some(missing)
}

pub(super) fn create(job: &Job, attempt: u32, options: &Options) -> Result<Value, LaunchError> {
    check(job, options)?;
    let root = options.checkpoints.as_deref().unwrap_or(NO_BUCKET).trim_end_matches('/');
    let own = format!("{root}/{}", job.name);
    let with = |pairs: Vec<(&str, Option<Value>)>| -> Value {
        Value::Object(pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>())
    };
    let instance = job.machines.instance.clone().unwrap_or_else(|| "ml.m5.xlarge".into());
    let runtime = runtime_secs(job, options);
    let wait = options.spot.then(|| json!(options.max_wait_secs.unwrap_or(2 * runtime).max(runtime)));
    let tags = std::iter::once(("hairpin:job", &job.name)).chain(options.tags.iter().map(|(key, value)| (key.as_str(), value)));
    let vpc = (!options.subnets.is_empty()).then(|| json!({"Subnets": options.subnets, "SecurityGroupIds": options.security_groups}));
    Ok(with(vec![
        ("TrainingJobName", Some(json!(job.attempt_name(attempt)))),
        ("RoleArn", Some(json!(options.role.as_deref().unwrap_or(NO_ROLE)))),
        ("AlgorithmSpecification", Some(algorithm(options))),
        ("HyperParameters", Some(hyperparameters(job)?)),
        ("InputDataConfig", Some(json!([channel(job, options)]))),
        (
            "OutputDataConfig",
            Some(with(vec![
                ("S3OutputPath", Some(json!(format!("{own}/output")))),
                ("KmsKeyId", options.kms_key.as_ref().map(|key| json!(key))),
            ])),
        ),
        (
            "ResourceConfig",
            Some(with(vec![
                ("InstanceType", Some(json!(instance))),
                ("InstanceCount", Some(json!(job.machines.count))),
                ("VolumeSizeInGB", Some(json!(options.volume_gb.unwrap_or(100)))),
                ("VolumeKmsKeyId", options.volume_kms_key.as_ref().map(|key| json!(key))),
                ("KeepAlivePeriodInSeconds", options.keep_alive_secs.map(|secs| json!(secs))),
                ("TrainingPlanArn", options.training_plan.as_ref().map(|arn| json!(arn))),
            ])),
        ),
        ("VpcConfig", vpc),
        ("EnableNetworkIsolation", options.isolated.then(|| json!(true))),
        ("StoppingCondition", Some(with(vec![("MaxRuntimeInSeconds", Some(json!(runtime))), ("MaxWaitTimeInSeconds", wait)]))),
        ("EnableManagedSpotTraining", options.spot.then(|| json!(true))),
        ("CheckpointConfig", Some(json!({"S3Uri": format!("{own}/run"), "LocalPath": work::CHECKPOINTS}))),
        ("Environment", Some(json!(environment(job, &instance)))),
        ("Tags", Some(tags.map(|(key, value)| json!({"Key": key, "Value": value})).collect())),
        ("RetryStrategy", Some(json!({"MaximumRetryAttempts": 3}))),
    ]))
}

/// When SageMaker ends it at the latest.
pub(super) fn runtime_secs(job: &Job, options: &Options) -> u64 {
    options.max_runtime_secs.unwrap_or(LONGEST_SECS).min(job.max_secs.unwrap_or(LONGEST_SECS))
}

/// What SageMaker would refuse, or what would not be what was meant.
fn check(job: &Job, options: &Options) -> Result<(), LaunchError> {
    let wrong = |problem: String, help: &str| Err(LaunchError::Option { place: HERE.name, problem, help: help.into() });
    if options.keep_alive_secs.is_some_and(|secs| !(1..=LONGEST_KEEP_SECS).contains(&secs)) {
        return wrong("keep_alive_secs is not from 1 to 3600".into(), "take what SageMaker keeps machines for, at most an hour");
    }
    if options.keep_alive_secs.is_some() && options.spot {
        return wrong("spare machines are not kept".into(), "take `spot` or `keep_alive_secs`");
    }
    if options.spot_usd_per_hour.is_some_and(|usd| !(usd > 0.0 && usd.is_finite())) {
        return wrong("spot_usd_per_hour is no price".into(), "take that of one machine from the maker's page of today, or leave it out");
    }
    if options.max_runtime_secs.is_some_and(|secs| !(1..=LONGEST_SECS).contains(&secs)) {
        return wrong("max_runtime_secs is not from 1 to 2419200".into(), "leave it out: a run that needs more goes on in the next job");
    }
    if options.subnets.is_empty() != options.security_groups.is_empty() || options.fsx.is_some() && options.subnets.is_empty() {
        return wrong("subnets and security_groups belong together, and fsx needs both".into(), "give those that the file system lies in");
    }
    if options.data_mode.as_deref().is_some_and(|mode| !["FastFile", "File", "Pipe"].contains(&mode)) {
        return wrong("data_mode is not FastFile, File or Pipe".into(), "leave it out: data is then read as it is needed");
    }
    if let Some(url) = options.checkpoints.as_deref().filter(|url| !url.starts_with("s3://")) {
        return wrong(format!("checkpoints: `{url}` is no `s3://` URL"), "give a bucket and prefix that the role may write");
    }
    if job.data.contains("://") && !job.data.starts_with("s3://") {
        return wrong(format!("data: `{}` is no `s3://` URL", job.data), "copy it to S3, or give `fsx`");
    }
    if let Some(instance) = job.machines.instance.as_deref().filter(|name| !name.starts_with("ml.")) {
        return wrong(format!("`{instance}` is EC2's name of an instance"), "SageMaker's begin with `ml.`");
    }
    Ok(())
}

/// Metrics are read from what training says.
fn algorithm(options: &Options) -> Value {
    let metric = |name: &str, regex: &str| json!({"Name": name, "Regex": regex});
    json!({
        "TrainingImage": options.image.as_deref().unwrap_or(NO_IMAGE),
        "TrainingInputMode": if options.data_mode.as_deref() == Some("Pipe") { "Pipe" } else { "File" },
        "ContainerEntrypoint": ["hairpin", "work"],
        "MetricDefinitions": [
            metric("step", r"step +([0-9]+) of"),
            metric("loss", r"loss ([0-9.]+)"),
            metric("tokens_per_sec", r"([0-9.]+) tokens/s"),
            metric("held_out", r"held-out ([0-9.]+)"),
        ],
        "EnableSageMakerMetricsTimeSeries": true,
    })
}

/// Files in pieces that a value holds, and the arguments: what `hairpin work` puts together again.
fn hyperparameters(job: &Job) -> Result<Value, LaunchError> {
    let mut all = BTreeMap::new();
    for (name, text) in &job.files {
        let chars: Vec<char> = text.chars().collect();
        for (i, part) in chars.chunks(CHUNK_CHARS).enumerate() {
            all.insert(format!("file.{i:03}.{name}"), part.iter().collect::<String>());
        }
    }
    let paths = Paths { files: work::FILES.into(), data: work::DATA.into(), out: work::CHECKPOINTS.into() };
    all.insert("argv".into(), serde_json::to_string(&job.command(&paths)).unwrap_or_default());
    all.insert("ranks_each".into(), job.machines.ranks_each.to_string());
    let longest = all.values().map(|value| value.chars().count()).max().unwrap_or(0);
    if all.len() > MOST_HYPERPARAMETERS || longest > 2500 {
        return Err(LaunchError::Option {
            place: HERE.name,
            problem: "the recipe is longer than hyperparameters hold".into(),
            help: "shorten it, or put it into the image".into(),
        });
    }
    Ok(json!(all))
}

fn channel(job: &Job, options: &Options) -> Value {
    if let Some(fsx) = &options.fsx {
        let source = json!({"FileSystemId": fsx.file_system_id, "FileSystemType": fsx.kind, "DirectoryPath": fsx.path, "FileSystemAccessMode": "ro"});
        return json!({"ChannelName": "data", "InputMode": "File", "DataSource": {"FileSystemDataSource": source}});
    }
    let url = if job.data.contains("://") { job.data.clone() } else { format!("{NO_BUCKET}/data") };
    // Every machine reads what it needs of all of it: ranks share out windows, not files.
    let source = json!({"S3DataType": "S3Prefix", "S3Uri": url, "S3DataDistributionType": "FullyReplicated"});
    json!({"ChannelName": "data", "InputMode": options.data_mode.as_deref().unwrap_or("FastFile"), "DataSource": {"S3DataSource": source}})
}

fn environment(job: &Job, instance: &str) -> BTreeMap<String, String> {
    let mut all = job.env.clone();
    if job.machines.count > 1 && EFA.iter().any(|start| instance.starts_with(start)) {
        // Open MPI over libfabric's EFA provider.
        for (key, value) in [("FI_PROVIDER", "efa"), ("FI_EFA_USE_DEVICE_RDMA", "1"), ("OMPI_MCA_mtl", "ofi"), ("OMPI_MCA_pml", "cm")] {
            all.entry(key.into()).or_insert_with(|| value.into());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::{Launcher, options, sagemaker::SageMaker, tests::job};

    fn body(options_text: &str) -> Result<Value, LaunchError> {
        let mut job = job("sagemaker:ml.p4d.24xlarge:2", options_text);
        job.data = "s3://bucket/data".into();
        create(&job, 1, &options(&HERE, &job)?)
    }

    const WHOLE: &str = "role = \"arn:aws:iam::123456789012:role/hairpin\"\nimage = \"123456789012.dkr.ecr.us-east-1.amazonaws.com/hairpin:1\"\ncheckpoints = \"s3://bucket/runs/\"\n";

    #[test]
    fn what_has_to_be_set_is_named_and_what_cannot_be_is_refused() {
        let bare = job("sagemaker:ml.p4d.24xlarge:2", "");
        assert_eq!(missing(&bare, &Options::default()).unwrap().len(), 4);
        assert!(matches!(SageMaker.check(&bare), Err(LaunchError::Option { .. })));
        assert_eq!(body(WHOLE).unwrap()["CheckpointConfig"]["S3Uri"], "s3://bucket/runs/small-1a2b3c4d/run");
        for bad in [
            "spot_usd_per_hour = 0.0",
            "keep_alive_secs = 3601",
            "keep_alive_secs = 600\nspot = true",
            "max_runtime_secs = 0",
            "subnets = [\"subnet-1\"]",
            "data_mode = \"Fast\"",
            "checkpoints = \"/here\"",
        ] {
            assert!(matches!(body(bad), Err(LaunchError::Option { .. })), "{bad}");
        }
    }

    #[test]
    fn files_come_apart_and_together() {
        let mut long = job("sagemaker:ml.p4d.24xlarge:2", WHOLE);
        long.files.insert("recipe.toml".into(), "é".repeat(6000));
        let body = create(&long, 1, &options(&HERE, &long).unwrap()).unwrap();
        let hyperparameters = serde_json::from_value(body["HyperParameters"].clone()).unwrap();
        assert_eq!(work::files_of(&hyperparameters).unwrap(), long.files);
        long.files.insert("recipe.toml".into(), "x".repeat(300_000));
        assert!(create(&long, 1, &options(&HERE, &long).unwrap()).is_err());
    }
}
