"""Runs on Azure's blobs: the emulator `azurite`, with real conditional puts, behind `az://`.

    npm install azurite && pip install azure-storage-blob
    cargo build -p hairpin --features cloud
    python xtask/python/other_stores.py target/debug/hairpin node_modules/.bin/azurite-blob

A run is trained there and read on what is another machine to hairpin, to the bits of a run on a plain folder; a run of another seed at its URL is refused; one
that was killed goes on from what is published.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from store import Room, weights

# Of the emulator, known to all.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PORT = 10000


def main(hairpin, azurite):
    from azure.storage.blob import BlobServiceClient

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "room").mkdir()
        words = [azurite, "--silent", "--blobPort", str(PORT), "--location", str(folder / "blobs"), "--skipApiVersionCheck", "--disableTelemetry"]
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            service = BlobServiceClient(f"http://127.0.0.1:{PORT}/{ACCOUNT}", credential=KEY, retry_total=20)
            for _ in range(100):
                try:
                    container = service.create_container("runs")
                    break
                except Exception:
                    time.sleep(0.2)
            room = Room(hairpin, folder / "room")
            machine = lambda: room.machine() | {"AZURE_STORAGE_USE_EMULATOR": "true"}
            published = lambda run: sorted(b.name.split("/")[1] for b in container.list_blobs(f"{run}/step-") if b.name.endswith("/published.json"))
            room.run(["data"], machine())
            room.run(["train", "small.toml", "--out", "plain"], machine())
            plain = weights(room.folder / "plain")

            def fetched(run):
                env = machine()
                room.run(["eval", f"az://runs/{run}", "--context", "32", "--windows", "4"], env)
                return weights(next(pathlib.Path(env["HAIRPIN_CACHE"]).iterdir()))

            room.run(["train", "small.toml", "--out", "az://runs/quiet"], machine())
            assert fetched("quiet") == plain
            print(f"quiet: {', '.join(published('quiet'))} published; the same bits")
            refused = room.run(["train", "small.toml", "--out", "az://runs/quiet", "--set", "seed=2"], machine(), codes=(2, 3))
            print("another run at its URL is refused:", next(line.strip() for line in refused.splitlines() if "×" in line))
            process, _ = room.start(["train", "small.toml", "--out", "az://runs/killed"], machine())
            while not published("killed"):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            before = published("killed")
            text = room.run(["train", "small.toml", "--out", "az://runs/killed", "--resume"], machine())
            assert fetched("killed") == plain
            print(f"killed with {', '.join(before)} published: {next(line.strip() for line in text.splitlines() if 'resuming' in line)}; the same bits")
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*map(os.path.abspath, sys.argv[1:3]))
