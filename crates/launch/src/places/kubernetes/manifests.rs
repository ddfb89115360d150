//! What is applied: the job's files as a ConfigMap, a headless Service that gives its pods names, and the object that runs.
//!
//! Sources: the API reference of `batch/v1` Job, `jobset.x-k8s.io/v1alpha2` JobSet and `trainer.kubeflow.org/v1alpha1` TrainJob.

use serde_json::{Map, Value, json};

use super::{Form, HERE, LABEL, Options};
use crate::{
    LaunchError,
    job::{Job, Paths},
    work,
};

const NO_IMAGE: &str = "not-set";
/// The annotation that tells our job from another of its name.
pub(super) const CONTENT: &str = "hairpin/content";
/// For a checkpoint, between SIGTERM and SIGKILL.
const GRACE_SECS: u32 = 120;
/// Of the one group of pods in a JobSet.
const WORKERS: &str = "w";

/// Whether data or checkpoints are reached by their URL, from within, and not mounted.
fn is_url(place: &str) -> bool {
    ::store::is_url(std::path::Path::new(place))
}

pub(super) fn missing(job: &Job, options: &Options) -> Vec<&'static str> {
    let mut missing = Vec::new();
    missing.extend(options.image.is_none().then_some("image"));
    missing.extend((options.data_claim.is_none() && !is_url(&job.data)).then_some("data_claim"));
    missing.extend((options.checkpoints_claim.is_none() && options.checkpoints.is_none()).then_some("checkpoints_claim"));
    missing.extend((options.form == Form::TrainJob && options.runtime.is_none()).then_some("runtime"));
    missing
}

/// In the order in which they are applied.
pub(super) fn objects(job: &Job, attempt: u32, options: &Options) -> Result<Vec<Value>, LaunchError> {
    let name = job.attempt_name(attempt);
    if let Some(path) = options.checkpoints.as_ref().filter(|path| !is_url(path)) {
        let help = "give a URL of an object store, or name a claim with `checkpoints_claim`".into();
        return Err(LaunchError::Option { place: HERE.name, problem: format!("checkpoints = `{path}` is no URL"), help });
    }
    let sizes: usize = job.files.values().map(String::len).sum();
    if sizes > 900_000 {
        let help = "shorten the recipe: a ConfigMap holds a mebibyte".into();
        return Err(LaunchError::Option { place: HERE.name, problem: format!("its files are {sizes} bytes"), help });
    }
    let files = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(job, &name, options), "data": job.files});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(job, &name, options),
        // Pods find one another before they are ready, for that is how they get ready.
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {LABEL: name}, "ports": [{"name": "ssh", "port": 22}]},
    });
    Ok(match options.form {
        Form::Job => {
            let indexed = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(job, &name, options), "spec": indexed_job(job, &name, options)});
            vec![files, service, indexed]
        }
        Form::JobSet => {
            let template = json!({"spec": indexed_job(job, &name, options)});
            let set = json!({
                "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata(job, &name, options),
                "spec": {
                    "network": {"enableDNSHostnames": true, "subdomain": name, "publishNotReadyAddresses": true},
                    "failurePolicy": {"maxRestarts": 0},
                    "suspend": options.queue.is_some(),
                    "replicatedJobs": [{"name": WORKERS, "replicas": 1, "template": template}],
                },
            });
            vec![files, set]
        }
        Form::TrainJob => vec![files, train_job(job, &name, options)],
    })
}

/// Of the pods that keep machines: the same for all jobs of one kind.
pub(super) fn keepers_name(job: &Job, options: &Options) -> String {
    let kind = json!([options.image, options.resources, options.node_selector, job.machines.count]).to_string();
    format!("hairpin-kept-{}", &blake3::hash(kind.as_bytes()).to_hex()[..8])
}

/// A Job of pods that sleep where a job has ended, as large as its own were, and end by themselves: as long as they are there no
/// autoscaler takes the machines away, and the image is on them.
pub(super) fn keepers(job: &Job, options: &Options, secs: u64) -> Value {
    let name = keepers_name(job, options);
    let mut pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "kept",
            "image": options.image.as_deref().unwrap_or(NO_IMAGE),
            "command": ["sleep", secs.to_string()],
            "resources": {"limits": options.resources, "requests": options.resources},
        }],
    });
    if !options.node_selector.is_empty() {
        pod["nodeSelector"] = json!(options.node_selector);
    }
    if let Some(secret) = &options.pull_secret {
        pod["imagePullSecrets"] = json!([{"name": secret}]);
    }
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "hairpin", "hairpin/kept": name}},
        "spec": {
            "completions": job.machines.count,
            "parallelism": job.machines.count,
            "backoffLimit": 0,
            "activeDeadlineSeconds": secs,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": {"hairpin/kept": name}}, "spec": pod},
        },
    })
}

fn metadata(job: &Job, name: &str, options: &Options) -> Value {
    let mut labels = json!({"app.kubernetes.io/managed-by": "hairpin", LABEL: name});
    for (label, value) in [("queue-name", &options.queue), ("priority-class", &options.priority_class)] {
        if let Some(value) = value {
            labels[format!("kueue.x-k8s.io/{label}")] = json!(value);
        }
    }
    json!({"name": name, "labels": labels, "annotations": {CONTENT: job.content()}})
}

/// The spec of a Job whose pods have numbers, all at once or none of use.
fn indexed_job(job: &Job, name: &str, options: &Options) -> Value {
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": job.machines.count,
        "parallelism": job.machines.count,
        // What failed goes on as another attempt, with its reason on record.
        "backoffLimit": 0,
        "suspend": options.queue.is_some() && options.form == Form::Job,
        "template": {"metadata": {"labels": {LABEL: name}}, "spec": pod(job, name, options)},
    });
    if let Some(secs) = job.max_secs {
        spec["activeDeadlineSeconds"] = json!(secs);
    }
    spec
}

fn pod(job: &Job, name: &str, options: &Options) -> Value {
    let mut spec = Map::new();
    spec.insert("restartPolicy".into(), json!("Never"));
    spec.insert("subdomain".into(), json!(name));
    spec.insert("terminationGracePeriodSeconds".into(), json!(GRACE_SECS));
    spec.insert("containers".into(), json!([container(job, name, options)]));
    spec.insert("volumes".into(), volumes(job, name, options));
    if !options.node_selector.is_empty() {
        spec.insert("nodeSelector".into(), json!(options.node_selector));
    }
    if let Some(account) = &options.service_account {
        spec.insert("serviceAccountName".into(), json!(account));
    }
    if let Some(secret) = &options.pull_secret {
        spec.insert("imagePullSecrets".into(), json!([{"name": secret}]));
    }
    Value::Object(spec)
}

fn command(job: &Job, options: &Options) -> Vec<String> {
    let data = if is_url(&job.data) { job.data.clone() } else { work::DATA.into() };
    let out = options.checkpoints.as_ref().map(|url| format!("{}/{}", url.trim_end_matches('/'), job.name));
    job.command(&Paths { files: work::FILES.into(), data, out: out.unwrap_or_else(|| work::CHECKPOINTS.into()) })
}

fn container(job: &Job, name: &str, options: &Options) -> Value {
    // An Indexed Job calls its pods NAME-INDEX; in a JobSet the group and the number of the job stand between.
    let pod_name = if options.form == Form::JobSet { format!("{name}-{WORKERS}-0") } else { name.to_owned() };
    let hosts: Vec<String> = (0..job.machines.count).map(|i| format!("{pod_name}-{i}.{name}")).collect();
    let own = [
        ("HAIRPIN_ARGV", serde_json::to_string(&command(job, options)).unwrap_or_default()),
        ("HAIRPIN_HOSTS", hosts.join(",")),
        ("HAIRPIN_RANKS_EACH", job.machines.ranks_each.to_string()),
    ];
    let env: Vec<Value> = own
        .iter()
        .map(|(key, value)| (*key, value))
        .chain(job.env.iter().map(|(key, value)| (key.as_str(), value)))
        .map(|(key, value)| json!({"name": key, "value": value}))
        .collect();
    json!({
        "name": "hairpin",
        "image": options.image.as_deref().unwrap_or(NO_IMAGE),
        "command": ["hairpin", "work"],
        "env": env,
        "resources": {"limits": options.resources, "requests": options.resources},
        "volumeMounts": mounts(job, options),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn volumes(job: &Job, name: &str, options: &Options) -> Value {
    let claim = |volume: &str, claim: &Option<String>| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim.as_deref().unwrap_or(NO_IMAGE)}});
    let mut all = vec![json!({"name": "files", "configMap": {"name": name}})];
    if !is_url(&job.data) {
        all.push(claim("data", &options.data_claim));
    }
    if options.checkpoints.is_none() {
        all.push(claim("checkpoints", &options.checkpoints_claim));
    }
    all.push(json!({"name": "shm", "emptyDir": {"medium": "Memory"}}));
    Value::Array(all)
}

fn mounts(job: &Job, options: &Options) -> Value {
    let mut all = vec![json!({"name": "files", "mountPath": work::FILES, "readOnly": true})];
    if !is_url(&job.data) {
        // Relative to the claim, whatever it is called here.
        let data = job.data.trim_start_matches('/');
        all.push(json!({"name": "data", "mountPath": work::DATA, "subPath": data, "readOnly": true}));
    }
    if options.checkpoints.is_none() {
        all.push(json!({"name": "checkpoints", "mountPath": work::CHECKPOINTS, "subPath": job.name}));
    }
    all.push(json!({"name": "shm", "mountPath": "/dev/shm"}));
    Value::Array(all)
}

/// The runtime of the cluster's people starts `mpirun`; we say what it runs.
fn train_job(job: &Job, name: &str, options: &Options) -> Value {
    let env: Vec<Value> = job.env.iter().map(|(key, value)| json!({"name": key, "value": value})).collect();
    let command: Vec<String> = std::iter::once("hairpin".to_owned()).chain(command(job, options)).collect();
    json!({
        "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata(job, name, options),
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": options.runtime.as_deref().unwrap_or(NO_IMAGE)},
            "suspend": options.queue.is_some(),
            "trainer": {
                "image": options.image.as_deref().unwrap_or(NO_IMAGE),
                "command": command,
                "env": env,
                "numNodes": job.machines.count,
                "numProcPerNode": job.machines.ranks_each,
                "resourcesPerNode": {"limits": options.resources, "requests": options.resources},
            },
            "podTemplateOverrides": [{
                "targetJobs": [{"name": "node"}],
                "spec": {"volumes": volumes(job, name, options), "containers": [{"name": "node", "volumeMounts": mounts(job, options)}]},
            }],
        },
    })
}
