"""Whether what would be sent to SageMaker and Kubernetes is what they take.

    pip install botocore kubernetes-validate
    hairpin launch recipes/llm-30b.toml --on sagemaker:ml.p4d.24xlarge:16 --dry-run --json | python xtask/python/launch.py sagemaker
    hairpin launch recipes/llm-30b.toml --on kubernetes:16 --dry-run --json | python xtask/python/launch.py kubernetes
    python xtask/python/launch.py golden        the golden files of crates/launch/tests
    python xtask/python/launch.py run HAIRPIN   jobs from beginning to end: against a small SageMaker of our own, and against moto

SageMaker's requests are judged by botocore's own validator over the service model that it carries, and by the patterns and limits of that
model, which the validator leaves to the service. Objects of core Kubernetes are judged by the published OpenAPI schemas; what others
define (JobSet, TrainJob) by their kind alone.
"""

import json
import pathlib
import re
import subprocess
import sys


def sagemaker(requests):
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    for request in requests:
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        limits(request, shape, "")
    print(f"{len(requests)} requests of CreateTrainingJob are valid by botocore {botocore.__version__}")


def limits(value, shape, at):
    """Patterns, enumerations and largest sizes, all the way down."""
    meta = shape.metadata
    kind = shape.type_name
    if kind == "string":
        # Java's classes of characters, as Python names them.
        pattern = re.sub(r"\\p\{[LN]\}", r"\\w", meta.get("pattern", ".*")).replace(r"\p{Z}", r"\s")
        assert re.fullmatch(pattern, value, re.DOTALL), f"{at}: {value!r} is not {pattern}"
        assert "max" not in meta or len(value) <= meta["max"], f"{at}: longer than {meta['max']}"
        assert not shape.enum or value in shape.enum, f"{at}: {value!r} is none of {shape.enum[:5]}..."
    elif kind in ("integer", "long"):
        assert value >= meta.get("min", value) and value <= meta.get("max", value), f"{at}: {value} is out of range"
    elif kind == "structure":
        for key, part in value.items():
            limits(part, shape.members[key], f"{at}.{key}")
    elif kind == "list":
        assert len(value) <= meta.get("max", len(value)), f"{at}: more than {meta['max']}"
        for i, part in enumerate(value):
            limits(part, shape.member, f"{at}[{i}]")
    elif kind == "map":
        assert len(value) <= meta.get("max", len(value)), f"{at}: more than {meta['max']}"
        for key, part in value.items():
            limits(key, shape.key, f"{at} key")
            limits(part, shape.value, f"{at}.{key}")


def kubernetes(objects):
    import kubernetes_validate

    judged = 0
    # Calls that are no object: what is deleted.
    objects = [item for item in objects if "apiVersion" in item]
    for item in objects:
        if item["apiVersion"] in ("v1", "batch/v1"):
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
            judged += 1
        else:
            assert (item["apiVersion"], item["kind"]) in (
                ("jobset.x-k8s.io/v1alpha2", "JobSet"),
                ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
            ), item["kind"]
            if item["kind"] == "JobSet":
                # What it holds is a Job's.
                spec = item["spec"]["replicatedJobs"][0]["template"]["spec"]
                job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec}
                kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
                judged += 1
    print(f"{judged} of {len(objects)} objects are judged and valid by the schemas of Kubernetes {kubernetes_validate.latest_version()}")


def slurm(requests):
    """Of `sbatch` itself, at whatever cluster SLURM_CONF names (xtask/slurm/cluster.sh): that it knows every option. Of bash: that it can read the script."""
    for request in requests:
        script = request["stdin"]
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        said = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True).stderr
        assert not re.search("unrecognized|fatal", said), said
    print(f"{len(requests)} scripts are valid bash, and sbatch knows all their options")


def golden():
    folder = pathlib.Path(__file__).parents[2] / "crates/launch/tests/golden"
    files = sorted(folder.glob("*.json"))
    assert files, f"no golden files in {folder}"
    for path in files:
        print(path.name, end=": ")
        {"sagemaker": sagemaker, "kubernetes": kubernetes, "slurm": slurm}[path.name.split("-")[0]](json.loads(path.read_text()))


class Small:
    """A SageMaker of one table: what moto lacks of it (states, Stop, warm pools, faults), its answers judged by the service model."""

    STAGES = ["Starting", "Downloading", "Training", "Training", "Uploading"]

    def __init__(self):
        import botocore.session

        self.model = botocore.session.get_session().get_service_model("sagemaker")
        self.jobs, self.pools, self.calls, self.creates = {}, [], 0, {}

    def answer(self, operation, request):
        from botocore.validate import ParamValidator

        self.calls += 1
        shape = self.model.operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        # Every third call is throttled, which says nothing of whether it took effect: a create does, and its answer is lost.
        is_lost = self.calls % 3 == 0
        if is_lost and operation != "CreateTrainingJob":
            return 400, {"__type": "ThrottlingException", "message": "Rate exceeded"}
        code, answer = getattr(self, operation)(request["TrainingJobName"], request)
        if is_lost:
            return 503, {"__type": "ServiceUnavailable", "message": "after it took effect"}
        return code, answer

    def CreateTrainingJob(self, name, request):
        if name in self.jobs:
            return 400, {"__type": "ResourceInUse", "message": "Training job names must be unique within an AWS account"}
        resources = request["ResourceConfig"]
        kind = (resources["InstanceType"], resources["InstanceCount"], request["AlgorithmSpecification"]["TrainingImage"], request["RoleArn"])
        pool = next((pool for pool in self.pools if pool["kind"] == kind and pool["status"] == "Available"), None)
        if pool:
            pool["status"], self.jobs[pool["of"]]["pool"] = "Reused", ("Reused", name)
        self.creates[name] = self.creates.get(name, 0) + 1
        self.jobs[name] = {"request": request, "looks": 2 if pool else 0, "kind": kind, "stopped": False, "pool": None}
        return 200, {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}"}

    def DescribeTrainingJob(self, name, _):
        job = self.jobs.get(name)
        if not job:
            return 400, {"__type": "ValidationException", "message": "Requested resource not found."}
        job["looks"] += 1
        request, at = job["request"], job["looks"] - 1
        stage = self.STAGES[at] if at < len(self.STAGES) else "Completed"
        status = "Completed" if stage == "Completed" else "InProgress"
        if job["stopped"]:
            status, stage = "Stopped", "Stopped"
        keep = request["ResourceConfig"].get("KeepAlivePeriodInSeconds")
        if keep and status != "InProgress" and not job["pool"]:
            job["pool"] = ("Available", None)
            self.pools.append({"kind": job["kind"], "status": "Available", "of": name})
        answer = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}",
            "ModelArtifacts": {"S3ModelArtifacts": "s3://example/none"},
            "HyperParameters": request["HyperParameters"],
            "TrainingJobStatus": status,
            "SecondaryStatus": stage,
            "AlgorithmSpecification": {"TrainingInputMode": "File"},
            "ResourceConfig": request["ResourceConfig"],
            "StoppingCondition": request["StoppingCondition"],
            "CreationTime": 1.0,
            "FinalMetricDataList": [{"MetricName": "step", "Value": 10.0 * at, "Timestamp": 1.0}, {"MetricName": "loss", "Value": 3.5, "Timestamp": 1.0}],
        }
        if status != "InProgress":
            answer["BillableTimeInSeconds"] = 3600
        if job["pool"]:
            answer["WarmPoolStatus"] = {"Status": job["pool"][0], **({"ReusedByJob": job["pool"][1]} if job["pool"][1] else {})}
        from botocore.validate import ParamValidator

        report = ParamValidator().validate({**answer, "CreationTime": "2026-01-01"} | {"FinalMetricDataList": []}, self.model.operation_model("DescribeTrainingJob").output_shape)
        assert not report.has_errors(), report.generate_report()
        return 200, answer

    def StopTrainingJob(self, name, _):
        self.jobs[name]["stopped"] = True
        return 200, {}

    def serve(self):
        import http.server
        import threading

        small = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                operation = self.headers["X-Amz-Target"].split(".")[1]
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code, answer = small.answer(operation, body)
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        # One call after another, as the table is one.
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"


def run(hairpin):
    """Three jobs, one after another so that a warm pool is met, one of them stopped; then one job against moto."""
    import os
    import tempfile
    import time

    recipe = str(pathlib.Path(__file__).parents[2] / "recipes/gpt2-124m.toml")
    given = {"role": "arn:aws:iam::123456789012:role/hairpin", "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/h:1", "checkpoints": "s3://example/runs"}
    options = [word for key, value in given.items() for word in ("--place", f"{key}={value}")]
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-to-be-seen", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}

    def drive(endpoint, words, stop=None):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, **keys, "AWS_ENDPOINT_URL": endpoint}

            def call(*args):
                out = subprocess.run([hairpin, *args, "--json"], cwd=folder, env=env, capture_output=True, text=True)
                assert out.returncode == 0, out.stderr
                return json.loads(out.stdout)

            told = call("launch", recipe, "--on", "sagemaker:ml.p4d.24xlarge:1", "--data", "s3://example/data", "--yes", *options, *words)
            names, since = [job["name"] for job in told["jobs"]], time.time()
            if stop is not None:
                while next(job for job in call("jobs") if job["name"] == names[stop])["state"] not in ("sent", "running"):
                    assert time.time() - since < 600, call("jobs")
                    time.sleep(1)
                call("stop", names[stop])
            while not all(job["state"] in ("done", "stopped", "failed") for job in call("jobs")):
                assert time.time() - since < 600, call("jobs")
                time.sleep(1)
            everything = b"".join(path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file())
            assert b"not-to-be-seen" not in everything, "a secret is on the disk"
            return call("jobs"), call("cost")

    small = Small()
    jobs, cost = drive(small.serve(), ["--place", "keep_alive_secs=1800", "--sweep", "seed=1..3", "--at-once", "1"], stop=2)
    print("small:", [(job["name"], job["state"], job["step"], job["usd"]) for job in jobs], "dollars", cost["usd"], "calls", small.calls, "reused", sum(p["status"] == "Reused" for p in small.pools))
    assert [job["state"] for job in jobs] == ["done", "done", "stopped"]
    assert set(small.creates.values()) == {1} and len(small.creates) == 3, small.creates
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "5591"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)
        jobs, _ = drive("http://127.0.0.1:5591", [])
        print("moto:", [(job["name"], job["state"]) for job in jobs])
        assert [job["state"] for job in jobs] == ["done"]
    finally:
        server.terminate()


if __name__ == "__main__":
    place = sys.argv[1] if len(sys.argv) > 1 else "golden"
    if place == "golden":
        golden()
    elif place == "run":
        run(str(pathlib.Path(sys.argv[2]).resolve()))
    else:
        {"sagemaker": sagemaker, "kubernetes": kubernetes, "slurm": slurm}[place](json.load(sys.stdin)["requests"])
