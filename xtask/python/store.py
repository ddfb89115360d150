"""Runs, data and exports on S3, through faults: the emulator `moto` behind a proxy of our own that fails as it is told.

    pip install 'moto[server]' boto3
    cargo build -p hairpin --features cloud
    python xtask/python/store.py target/debug/hairpin [SCENARIO ...]

Every scenario ends with the weights of a run on a plain folder, bit for bit, read on what is another machine to hairpin: an empty cache.
Where a process is killed, the proxy kills it, at the request that the scenario names. At the end, all that was written or said is searched for the credentials.
"""

import hashlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SECRET, KEY, TOKEN = "wJalrXUtnFEMIhunter2", "AKIAHAIRPINTEST", "FwoGZXIvYXdzsession"
MOTO, PROXY, BUCKET = 5597, 5598, "bucket"


class Faults:
    """What the proxy does to requests: `rule(handler) -> None or an action`."""

    def __init__(self):
        self.calm()

    def calm(self):
        self.rule, self.count, self.faulted = (lambda method, path, count: None), 0, 0


FAULTS = Faults()
LOCK = threading.Lock()


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with LOCK:
            FAULTS.count += 1
            action = FAULTS.rule(self.command, self.path, FAULTS.count)
            FAULTS.faulted += action is not None
        if action == "503":
            return self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
        if action == "403":
            text = f"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message><Token>{TOKEN}</Token></Error>"
            return self.answer(403, {}, text.encode())
        if action == "gone":
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(action, (int, float)):
            time.sleep(action)
        if callable(action):
            action()
        if action == "torn":
            body = body[: len(body) // 2]
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "content-length")}
        if action == "torn":
            headers = {k: v for k, v in headers.items() if "checksum" not in k.lower() and "content-md5" not in k.lower()}
        server = http.client.HTTPConnection("127.0.0.1", MOTO)
        server.request(self.command, self.path, body, headers | {"content-length": str(len(body))})
        answer = server.getresponse()
        data = answer.read()
        keep = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding", "content-length")}
        size = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
        self.answer(answer.status, keep, data, size)

    def answer(self, status, headers, data, size=None):
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in ("date", "server"):
                self.send_header(key, value)
        self.send_header("content-length", size or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any


RECIPE = """name = "small"
[model]
depth = 1
[batch]
sequences = 4
micro_batch = 4
context = 32
[train]
steps = {steps}
[data]
path = "data"
[checkpoint]
every_steps = 10
keep_last = 2
[eval]
every_steps = 10
windows = 4
[schedule]
warmup_steps = 5
"""


class Room:
    def __init__(self, hairpin, folder):
        self.hairpin, self.folder, self.machines, self.said = hairpin, folder, 0, []
        text = "".join(f"fn number_{i}(x: u64) -> u64 {{ x * {i * 7919 % 104729} + {i} }}\n" for i in range(4000))
        (folder / "corpus").mkdir()
        for i in range(20):
            (folder / f"corpus/{i}.txt").write_text(text[i * 8000 : (i + 1) * 8000])
        (folder / "hairpin.toml").write_text(
            'name = "room"\n[data]\nheld_out_ratio = 0.1\ntokenizer = { kind = "bytes" }\n[data.corpus]\npaths = ["corpus"]\n[data.dedup]\nnear = false\n'
            '[data.clean]\noff = ["repeated_ngram"]\n[recipe]\n[[phases]]\nname = "one"\ndata_fraction = 1.0\nrecipe = { model = { depth = 1 } }\n'
        )
        (folder / "small.toml").write_text(RECIPE.format(steps=60))
        (folder / "long.toml").write_text(RECIPE.format(steps=400))

    def machine(self):
        """The variables of a machine that has seen nothing."""
        self.machines += 1
        return os.environ | {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PROXY}",
            "AWS_ALLOW_HTTP": "true",
            "HAIRPIN_CACHE": str(self.folder / f"machine-{self.machines}"),
        }

    def start(self, args, env):
        log = open(self.folder / f"log-{len(self.said)}.txt", "w+")
        process = subprocess.Popen([self.hairpin, *args], cwd=self.folder, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.said.append(log.name)
        return process, log.name

    def run(self, args, env, codes=(0,)):
        process, log = self.start(args, env)
        code = process.wait(timeout=300)
        text = pathlib.Path(log).read_text()
        assert code in codes, f"{args}: exit {code}\n{text}"
        return text


def weights(folder):
    """Of the newest checkpoint of a run's folder."""
    newest = max(path for path in pathlib.Path(folder).glob("step-*") if path.is_dir())
    digest = hashlib.sha256()
    for path in sorted(newest.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return newest.name, digest.hexdigest()


def objects(s3, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def published(s3, run):
    return sorted(key.split("/")[1] for key in objects(s3, f"{run}/step-") if key.endswith("/published.json"))


def whole(s3, run):
    """That every published set holds what its manifest lists, and no published set is of two writers."""
    for name in published(s3, run):
        manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{run}/{name}/published.json")["Body"].read())
        for entry in manifest["files"]:
            body = s3.get_object(Bucket=BUCKET, Key=f"{run}/{name}/{manifest['id']}/{entry['file']}")["Body"].read()
            assert len(body) == entry["bytes"], (name, entry)


def fetched(room, run):
    """The weights of a run as another machine reads them."""
    env = room.machine()
    room.run(["eval", f"s3://{BUCKET}/{run}", "--context", "32", "--windows", "4"], env)
    return weights(next(pathlib.Path(env["HAIRPIN_CACHE"]).iterdir()))


def train(run, recipe="small.toml", *more):
    return ["train", recipe, "--out", f"s3://{BUCKET}/{run}", *more]


def quiet(room, s3, plain):
    room.run(train("quiet"), room.machine())
    names = published(s3, "quiet")
    return f"{len(names)} checkpoints kept, {len(objects(s3, 'quiet/'))} objects", "quiet"


def throttled(room, s3, plain):
    FAULTS.rule = lambda method, path, count: "503" if count % 3 == 0 else None
    room.run(train("throttled"), room.machine())
    return f"{FAULTS.faulted} of {FAULTS.count} requests answered by 503", "throttled"


def gone(room, s3, plain):
    state = {}

    def rule(method, path, count):
        if method == "PUT" and "step-00000020" in path:
            state.setdefault("since", time.time())
        return "gone" if "since" in state and time.time() - state["since"] < 20 else None

    FAULTS.rule = rule
    since = time.time()
    room.run(train("gone"), room.machine())
    return f"gone for 20 s, {FAULTS.faulted} requests cut; the run took {time.time() - since:.0f} s", "gone"


def slow(room, s3, plain):
    FAULTS.rule = lambda method, path, count: 0.3 if method == "PUT" else None
    text = room.run(train("slow"), room.machine())
    told = [line for line in text.splitlines() if "checkpoints wait for" in line]
    assert told, f"the bound was not told\n{text}"
    return f"{FAULTS.faulted} puts of 0.3 s each; told: {told[0].strip()}", "slow"


def killed_at(room, s3, run, at):
    """Train, killed by -9 when the request comes that `at` names; then resume on another machine."""
    holder = {}

    def rule(method, path, count):
        if method in ("PUT", "POST") and at in path and not holder.get("done"):
            holder["done"] = True
            os.kill(holder["pid"], signal.SIGKILL)
            return "gone"
        return "gone" if holder.get("done") and not holder.get("back") else None

    FAULTS.rule = rule
    process, _ = room.start(train(run), room.machine())
    holder["pid"] = process.pid
    assert process.wait(timeout=120) == -signal.SIGKILL
    holder["back"] = True
    before = published(s3, run)
    whole(s3, run)
    text = room.run(train(run, "small.toml", "--resume"), room.machine())
    resumed = [line.strip() for line in text.splitlines() if "resuming from" in line]
    return f"published by then: {', '.join(before)}; {resumed[0]}", run


def killed(room, s3, plain):
    return killed_at(room, s3, "killed", "step-00000030/")


def cut(room, s3, plain):
    return killed_at(room, s3, "cut", "step-00000030/published.json")


def same_machine(room, s3, plain):
    """Killed while the store is away: what was not uploaded is taken up from this machine's own folder."""
    env, holder = room.machine(), {}

    def rule(method, path, count):
        if method == "PUT" and "step-00000020" in path:
            holder["since"] = True
        return "gone" if holder.get("since") and not holder.get("back") else None

    FAULTS.rule = rule
    process, _ = room.start(train("same"), env)
    folder = pathlib.Path(env["HAIRPIN_CACHE"])
    while not list(folder.glob("*/step-00000030")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    holder["back"] = True
    before = published(s3, "same")
    text = room.run(train("same", "small.toml", "--resume"), env)
    assert "resuming from step 20" in text or "resuming from step 30" in text or "resuming from step 40" in text, text
    assert "is not in" in text, text
    return f"published by then: {', '.join(before)}; went on from its own folder", "same"


def writers(room, s3, plain):
    """Two runs of other seeds at one URL, from two machines."""
    both = [room.start(train("writers", "small.toml", "--set", f"seed={seed}"), room.machine()) for seed in (1, 2)]
    codes = [process.wait(timeout=300) for process, _ in both]
    texts = [pathlib.Path(log).read_text() for _, log in both]
    assert any(codes), codes
    refused = [text for text, code in zip(texts, codes) if code]
    assert all("something else is published" in text or "already holds a run" in text for text in refused), refused
    whole(s3, "writers")
    seeds = set()
    for name in published(s3, "writers"):
        manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=f"writers/{name}/published.json")["Body"].read())
        inner = s3.get_object(Bucket=BUCKET, Key=f"writers/{name}/{manifest['id']}/manifest.json")["Body"].read()
        seeds.add(next(line for line in json.loads(inner)["recipe"].splitlines() if line.startswith("seed")))
    return f"exit codes {codes}, checkpoints of {len(seeds)} run(s) stand, each whole", None


def ranks(room, s3, plain):
    """Four ranks with one URL, processes where this build has MPI and else threads: each object is put once."""
    puts = []
    FAULTS.rule = lambda method, path, count: puts.append(path.split("?")[0]) if method == "PUT" and "/step-" in path else None
    env = room.machine()
    sets = [word for key in ("parallel.ranks=4", "batch.lanes=4", "batch.micro_batch=1") for word in ("--set", key)]
    args = train("ranks", "small.toml", *sets)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "4"]
    by_mpi = shutil.which("mpirun") and subprocess.run([*mpirun, room.hairpin, *args], cwd=room.folder, env=env, capture_output=True, text=True)
    if not by_mpi or "without MPI" in by_mpi.stderr:
        room.run(args, env)
    else:
        assert by_mpi.returncode == 0, by_mpi.stderr
    twice = {path for path in puts if puts.count(path) > 1}
    assert puts and not twice, twice
    FAULTS.calm()
    room.run(["train", "small.toml", "--out", "plain-lanes", *sets], room.machine())
    whole(s3, "ranks")
    assert fetched(room, "ranks") == weights(room.folder / "plain-lanes")
    seals = sum(path.endswith("/published.json") for path in puts)
    kind = "threads" if not by_mpi or "without MPI" in by_mpi.stderr else "processes of mpirun"
    return f"4 ranks, {kind}: {len(puts)} objects of {seals} checkpoints, each put once; the same bits", None


def torn(room, s3, plain):
    """The store keeps half of what was sent, once; and later half of the newest checkpoint is lost."""
    state = {}

    def rule(method, path, count):
        if method == "PUT" and "step-00000010" in path and "tensors" in path and not state:
            state["done"] = True
            return "torn"

    FAULTS.rule = rule
    room.run(train("torn"), room.machine())
    assert state, "nothing was torn"
    whole(s3, "torn")
    newest = published(s3, "torn")[-1]
    key = next(key for key in objects(s3, f"torn/{newest}/") if key.endswith(".safetensors"))
    body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    s3.put_object(Bucket=BUCKET, Key=key, Body=body[: len(body) // 2])
    text = room.run(train("torn", "small.toml", "--resume"), room.machine())
    assert "going back to an earlier one" in text, text
    return f"one object torn on its way and sent again; `{newest}` torn later, passed over and mended", "torn"


def expired(room, s3, plain):
    """Credentials that expire in mid-run: told, and nothing lost."""
    FAULTS.rule = lambda method, path, count: "403" if "step-00000020" in path else None
    env = room.machine()
    process, log = room.start(train("expired"), env)
    time.sleep(6)
    FAULTS.calm()
    assert process.wait(timeout=120) == 0, pathlib.Path(log).read_text()
    text = pathlib.Path(log).read_text()
    assert "ExpiredToken" in text and "trying again" in text, text
    return "told with the store's own words, tried again, and gone on with when they were renewed", "expired"


def refused(room, s3, plain):
    since = time.time()
    text = room.run(["train", "small.toml", "--out", "s3://no-such-bucket/run"], room.machine(), codes=(2, 3))
    assert "store::refused" in text or "store::away" in text, text
    return f"a bucket that is not there: refused in {time.time() - since:.1f} s, before anything was trained", None


def road(room, s3, plain):
    """Data published, trained on from its URL, exported to a URL, and read on yet another machine."""
    env = room.machine()
    room.run(["data", ".", "--out", f"s3://{BUCKET}/data"], env)
    room.run(train("road", "small.toml", "--set", f"data.path=s3://{BUCKET}/data"), room.machine())
    room.run(["export", f"s3://{BUCKET}/road", f"s3://{BUCKET}/model"], room.machine())
    names = {key.rsplit("/", 1)[1] for key in objects(s3, "model/")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "published.json"} <= names, names
    again = room.run(["export", f"s3://{BUCKET}/road", f"s3://{BUCKET}/model"], room.machine())
    other = room.run(["export", f"s3://{BUCKET}/road", f"s3://{BUCKET}/model", "--dtype", "bf16"], room.machine(), codes=(2, 3))
    assert "store::taken" in other, other
    room.run(["generate", f"s3://{BUCKET}/road", "--tokens", "4"], room.machine())
    return f"{len(names)} files exported; the same again is no error, another is refused", "road"


SCENARIOS = [quiet, throttled, gone, slow, killed, cut, same_machine, writers, ranks, torn, expired, refused, road]


def main(hairpin, names):
    import boto3

    moto = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(MOTO)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", PROXY), Proxy)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{MOTO}", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        for _ in range(100):
            try:
                s3.create_bucket(Bucket=BUCKET)
                break
            except Exception:
                time.sleep(0.2)
        with tempfile.TemporaryDirectory() as folder:
            room = Room(hairpin, pathlib.Path(folder))
            room.run(["data"], room.machine())
            room.run(["train", "small.toml", "--out", "plain"], room.machine())
            plain = weights(room.folder / "plain")
            for scenario in SCENARIOS:
                if names and scenario.__name__ not in names:
                    continue
                FAULTS.calm()
                since = time.time()
                told, run = scenario(room, s3, plain)
                FAULTS.calm()
                if run:
                    whole(s3, run)
                    got = fetched(room, run)
                    assert got == plain, f"{scenario.__name__}: {got} is not {plain}"
                    told += "; the same bits"
                print(f"{scenario.__name__:13} {time.time() - since:5.1f} s  {told}", flush=True)
            secrets(room, s3)
    finally:
        proxy.shutdown()
        moto.terminate()


def secrets(room, s3):
    searched = 0
    wanted = [text.encode() for text in (SECRET, KEY, TOKEN)]
    for path in room.folder.rglob("*"):
        if path.is_file():
            searched += 1
            data = path.read_bytes()
            assert not any(text in data for text in wanted), f"a credential stands in {path}"
    for key in objects(s3, ""):
        searched += 1
        data = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert not any(text in data for text in wanted), f"a credential stands in {key}"
    print(f"no credential in {searched} logs, files and objects")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]), sys.argv[2:])
