"""Whether what would be sent to SageMaker and Kubernetes is what they take.

    pip install botocore kubernetes-validate
    hairpin launch recipes/llm-30b.toml --on sagemaker:ml.p4d.24xlarge:16 --dry-run --json | python xtask/python/launch.py sagemaker
    hairpin launch recipes/llm-30b.toml --on kubernetes:16 --dry-run --json | python xtask/python/launch.py kubernetes
    python xtask/python/launch.py golden        the golden files of crates/launch/tests

SageMaker's requests are judged by botocore's own validator over the service model that it carries, and by the patterns and limits of that
model, which the validator leaves to the service. Objects of core Kubernetes are judged by the published OpenAPI schemas; what others
define (JobSet, TrainJob) by their kind alone.
"""

import json
import pathlib
import re
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
        assert "pattern" not in meta or re.fullmatch(meta["pattern"], value, re.DOTALL), f"{at}: {value!r} is not {meta['pattern']}"
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


def golden():
    folder = pathlib.Path(__file__).parents[2] / "crates/launch/tests/golden"
    files = sorted(folder.glob("*.json"))
    assert files, f"no golden files in {folder}"
    for path in files:
        print(path.name, end=": ")
        {"sagemaker": sagemaker, "kubernetes": kubernetes}[path.name.split("-")[0]](json.loads(path.read_text()))


if __name__ == "__main__":
    place = sys.argv[1] if len(sys.argv) > 1 else "golden"
    if place == "golden":
        golden()
    else:
        {"sagemaker": sagemaker, "kubernetes": kubernetes}[place](json.load(sys.stdin)["requests"])
