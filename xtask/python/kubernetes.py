"""Jobs on Kubernetes from beginning to end, through the real kubectl, against a small API server of our own.

    python xtask/python/kubernetes.py HAIRPIN

The server holds what is applied, has pods that wait, run and end, and answers every fourth write with 503 after it took effect. What kubectl needs
of discovery is served; validation is left to `launch.py kubernetes`, which has the published schemas.
"""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

KINDS = {
    "api/v1": [("configmaps", "ConfigMap"), ("services", "Service"), ("pods", "Pod"), ("namespaces", "Namespace")],
    "apis/batch/v1": [("jobs", "Job")],
    "apis/jobset.x-k8s.io/v1alpha2": [("jobsets", "JobSet")],
}
LOG = "  step    {} of 500  loss 3.214  1234 tokens/s\n"


class Server(http.server.BaseHTTPRequestHandler):
    objects, created, looks, writes = {}, {}, {}, 0

    def do_GET(self):
        path = urllib.parse.urlparse(self.path)
        query, path = urllib.parse.parse_qs(path.query), path.path.strip("/")
        if path == "api":
            return self.tell({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            groups = [group.split("/")[1:] for group in KINDS if group.startswith("apis")]
            version = lambda g, v: {"groupVersion": f"{g}/{v}", "version": v}
            return self.tell({"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": g, "versions": [version(g, v)], "preferredVersion": version(g, v)} for g, v in groups]})
        if path in KINDS:
            verbs = ["get", "list", "create", "patch", "delete"]
            resources = [{"name": n, "singularName": "", "namespaced": True, "kind": k, "verbs": verbs} for n, k in KINDS[path]]
            return self.tell({"kind": "APIResourceList", "groupVersion": path.split("/", 1)[1], "resources": resources})
        if path == "openapi/v3":
            return self.tell({"paths": {group: {"serverRelativeURL": f"/openapi/v3/{group}"} for group in KINDS}})
        if path.startswith("openapi/v3/"):
            group = path.removeprefix("openapi/v3/")
            name, version = (group.split("/")[1:] if group.startswith("apis") else ("", "v1"))
            patch = lambda kind: {
                "x-kubernetes-group-version-kind": {"group": name, "version": version, "kind": kind},
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
            }
            return self.tell({"openapi": "3.0.0", "info": {"title": "t", "version": "v"}, "paths": {f"/{n}": {"patch": patch(k)} for n, k in KINDS[group]}})
        parts = path.split("/")
        if parts[-1] == "log":
            return self.tell(LOG.format(42).encode(), kind="text/plain")
        if parts[-1] == "pods":
            name = query["labelSelector"][0].split(",")[0].split("=")[1]
            return self.tell({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods(name)})
        found = self.objects.get(path)
        if not found:
            return self.missing(parts)
        if found["kind"] in ("Job", "JobSet"):
            self.looks[path] = self.looks.get(path, 0) + 1
            if self.looks[path] > 3:
                done = "Complete" if found["kind"] == "Job" else "Completed"
                found["status"] = {"conditions": [{"type": done, "status": "True"}]}
        self.tell(found)

    def pods(self, name):
        seen = [n for path, n in self.looks.items() if path.endswith("/" + name)]
        if not seen:
            return []
        state = {"waiting": {"reason": "ContainerCreating"}} if seen[0] < 2 else {"running": {}}
        status = {"phase": "Running", "containerStatuses": [{"name": "hairpin", "state": state}]}
        spec = {"containers": [{"name": "hairpin", "image": "i"}]}
        return [{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": f"{name}-0-x", "namespace": "default"}, "spec": spec, "status": status}]

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")

    def do_POST(self):
        path, item = urllib.parse.urlparse(self.path).path.strip("/"), self.body()
        path += "/" + item["metadata"]["name"]
        item["metadata"].update(namespace="default", uid=path, resourceVersion="1")
        self.objects[path] = item
        self.created[path] = self.created.get(path, 0) + 1
        self.written(item, 201)

    def do_PATCH(self):
        self.body()
        self.written(self.objects[urllib.parse.urlparse(self.path).path.strip("/")], 200)

    def do_DELETE(self):
        self.body()
        path = urllib.parse.urlparse(self.path).path.strip("/")
        found = self.objects.pop(path, None)
        self.tell({"kind": "Status", "apiVersion": "v1", "status": "Success"}) if found else self.missing(path.split("/"))

    def written(self, item, code):
        Server.writes += 1
        if Server.writes % 4 == 0:
            return self.tell({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "message": "ServiceUnavailable", "code": 503}, code=503)
        self.tell(item, code=code)

    def missing(self, parts):
        self.tell({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": f"{parts[-1]} not found", "code": 404}, code=404)

    def tell(self, value, code=200, kind="application/json"):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main(hairpin):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recipe = str(pathlib.Path(__file__).parents[2] / "recipes/gpt2-124m.toml")
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "kubeconfig"
        cluster = {"name": "small", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "small", "context": {"cluster": "small", "user": ""}}
        config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "current-context": "small"}))
        env = {**os.environ, "KUBECONFIG": str(config), "HOME": folder}

        def call(*args):
            out = subprocess.run([hairpin, *args, "--json"], cwd=folder, env=env, capture_output=True, text=True)
            assert out.returncode == 0, out.stderr
            return json.loads(out.stdout)

        options = [word for key in ("image=i", "data_claim=corpus", "checkpoints_claim=runs") for word in ("--place", key)]
        call("launch", recipe, "--on", "kubernetes:2", "--data", "data", "--set", "batch.lanes=2", "--sweep", "seed=1..2", *options)
        call("launch", recipe, "--on", "kubernetes:2", "--data", "data", "--set", "batch.lanes=2", "--name", "a-set", "--place", "form=jobset", *options)
        call("launch", recipe, "--on", "kubernetes:1", "--data", "data", "--name", "to-stop", *options)
        since, stopped = time.time(), False
        while not all(job["state"] in ("done", "stopped", "failed") for job in call("jobs")):
            assert time.time() - since < 400, call("jobs")
            if not stopped and next(job for job in call("jobs") if job["name"] == "to-stop")["state"] == "running":
                call("stop", "to-stop")
                stopped = True
            time.sleep(1)
        jobs = {job["name"]: (job["state"], job["step"], len(job["attempts"])) for job in call("jobs")}
        print(jobs)
        assert jobs.pop("to-stop")[0] == "stopped" and all(state == ("done", 42, 1) for state in jobs.values()), jobs
        twice = {path: n for path, n in Server.created.items() if n > 1}
        assert not twice, f"created twice: {twice}"
        # Kept machines: by pods that sleep from the end of a job to the beginning of the next.
        kept = lambda: sorted(path for path in Server.objects if "hairpin-kept-" in path)
        for i, name in enumerate(("first", "second")):
            call("launch", recipe, "--on", "kubernetes:1", "--data", "data", "--name", name, "--place", "keep_alive_secs=600", *options)
            while next(job for job in call("jobs") if job["name"] == name)["state"] != "running":
                time.sleep(0.2)
            assert not kept(), f"{name} runs, and {kept()} takes its machines"
            while next(job for job in call("jobs") if job["name"] == name)["state"] != "done":
                time.sleep(0.2)
            assert len(kept()) == 1, kept()
        print(f"kept for the next job: {kept()[0].split('/')[-1]}, made {max(n for path, n in Server.created.items() if 'kept' in path)} times, once after each job")
        others = [n for path, n in Server.created.items() if "kept" not in path]
        assert all(n == 1 for n in others), Server.created
        print(f"{len(others)} other objects, each created once, {Server.writes} writes, every fourth answered with 503")


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()))
