//! What is sent, whole, as golden files: `UPDATE_GOLDEN=1 cargo test -p launch --test golden` writes them anew for review in the diff,
//! and `python xtask/python/launch.py golden` judges them by the services' own models.

use std::{collections::BTreeMap, path::PathBuf};

use launch::{
    job::{Job, Machines},
    outside::Request,
    places,
};

fn job(on: &str, options: &str) -> Job {
    let recipe = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/llm-30b.toml")).unwrap();
    let options = serde_json::to_value(options.parse::<toml::Table>().unwrap()).unwrap();
    let argv = ["train", "{files}/recipe.toml", "--out", "{out}", "--resume", "--set", "data.path={data}"];
    Job {
        name: "llm-30b-1a2b3c4d".into(),
        argv: argv.map(Into::into).to_vec(),
        files: BTreeMap::from([("recipe.toml".into(), recipe)]),
        env: BTreeMap::new(),
        machines: Machines { ranks_each: 8, usd_per_hour: Some(404.02), ..Machines::parse(on).unwrap() },
        data: if on.starts_with("sagemaker") { "s3://example/data".into() } else { "data".into() },
        checkpoints: "/home/someone/jobs/llm-30b-1a2b3c4d/run".into(),
        max_secs: None,
        options: options.as_object().unwrap().clone(),
        folder: "/home/someone".into(),
        home: "/home/someone/jobs/llm-30b-1a2b3c4d".into(),
    }
}

fn check(name: &str, on: &str, options: &str) {
    check_job(name, &job(on, options));
}

fn check_job(name: &str, job: &Job) {
    let requests = places::launcher(&job.machines.place).unwrap().requests(job, 1).unwrap();
    let requests: Vec<_> = requests.iter().map(Request::to_json).collect();
    let got = serde_json::to_string_pretty(&requests).unwrap() + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} is no longer what {} holds: look at the difference, then UPDATE_GOLDEN=1\n{got}", path.display());
}

const SAGEMAKER: &str = r#"
role = "arn:aws:iam::123456789012:role/hairpin"
image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/hairpin:latest"
checkpoints = "s3://example/runs"
"#;

#[test]
fn sagemaker_on_demand_with_a_warm_pool() {
    check("sagemaker-warm", "sagemaker:ml.p4d.24xlarge:16", &format!("{SAGEMAKER}keep_alive_secs = 1800"));
}

#[test]
fn sagemaker_on_spare_machines_behind_a_vpc_with_everything() {
    let more = r#"
spot = true
max_runtime_secs = 432000
max_wait_secs = 864000
volume_gb = 500
subnets = ["subnet-0a1b2c3d"]
security_groups = ["sg-0a1b2c3d"]
isolated = true
kms_key = "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d"
tags = { team = "speech" }
fsx = { file_system_id = "fs-0a1b2c3d4e5f6a7b8", path = "/fsx/data" }
"#;
    check("sagemaker-spot", "sagemaker:ml.p4d.24xlarge:4", &format!("{SAGEMAKER}{more}"));
}

const KUBERNETES: &str = r#"
image = "registry.example.com/hairpin:latest"
data_claim = "corpus"
checkpoints_claim = "runs"
resources = { cpu = "90", memory = "1000Gi" }
"#;

#[test]
fn kubernetes_as_an_indexed_job() {
    check("kubernetes-job", "kubernetes:4", KUBERNETES);
}

#[test]
fn kubernetes_as_a_jobset_in_a_queue() {
    check("kubernetes-jobset", "kubernetes:4", &format!("{KUBERNETES}form = \"jobset\"\nqueue = \"research\""));
}

#[test]
fn kubernetes_as_a_trainjob() {
    check("kubernetes-trainjob", "kubernetes:4", &format!("{KUBERNETES}form = \"trainjob\"\nruntime = \"hairpin-mpi\""));
}

#[test]
fn kubernetes_with_stores_and_kept_machines() {
    let options = r#"
image = "registry.example.com/hairpin:latest"
checkpoints = "s3://example/runs"
service_account = "hairpin"
keep_alive_secs = 1800
resources = { cpu = "90", memory = "1000Gi" }
"#;
    check_job("kubernetes-stores", &Job { data: "s3://example/data".into(), ..job("kubernetes:4", options) });
}

/// The options that docs/launch.md gives for HyperPod, by the name of their table.
fn documented(table: &str) -> String {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/launch.md")).unwrap();
    let section = docs.split("\n## ").find(|section| section.starts_with("HyperPod\n")).expect("a section of its own");
    let block = section.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    block.filter_map(|block| block.strip_prefix(&format!("[{table}]\n"))).next().expect("a table").to_owned()
}

#[test]
fn hyperpod_under_slurm_as_it_is_documented() {
    let options = documented("slurm") + "program = \"/fsx/hairpin\"";
    check("slurm-hyperpod", "slurm:4", &options);
}

#[test]
fn hyperpod_under_kubernetes_as_it_is_documented() {
    let job = Job { data: "s3://BUCKET/data".into(), ..job("kubernetes:4", &documented("kubernetes")) };
    check_job("kubernetes-hyperpod", &job);
}
