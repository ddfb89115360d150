"""Each stage of preparing data on one core, hairpin beside datatrove, on the same documents: HAIRPIN FOLDER TEXT...

TEXTs are folders of packed text files, each file a document. The first stage reads JSON lines, cleans (Gopher's quality and
repetition filters there, hairpin's rules here, which are fewer) and finds near duplicates by MinHash, both with words at white
space; hairpin does all three in one pass. The second tokenises by one byte-level BPE of 16,384 tokens, trained by hairpin.
"""
import glob
import gzip
import json
import os
import shutil
import subprocess
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.utils.word_tokenizers import WordTokenizer

hairpin, folder, *sources = sys.argv[1:]
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(f"{folder}/text")
texts = []
for source in sources:
    for path in sorted(glob.glob(f"{source}/**/*.gz", recursive=True)):
        text = gzip.open(path, "rt", errors="replace").read()
        if len(text) > 200:
            texts.append(text)
with open(f"{folder}/text/documents.jsonl", "w") as file:
    for text in texts:
        file.write(json.dumps({"text": text}) + "\n")
mb = sum(len(text.encode()) for text in texts) / 1e6

project = """name = "stages"
[data]
tokenizer = { kind = "train", vocab = 16384 }
[data.corpus]
paths = ["text"]
[recipe]
model = { depth = 1 }
[[phases]]
name = "one"
data_fraction = 1.0
"""
open(f"{folder}/hairpin.toml", "w").write(project)
subprocess.run([hairpin, "data", folder], check=True, env={**os.environ, "RAYON_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
stats = json.load(open(f"{folder}/data/stats.json"))
ours = {
    "read": stats["stage_bytes"]["read"] / 1e6 / (stats["secs"]["read"] + stats["secs"]["dedup"]),
    "tokenise": stats["stage_bytes"]["tokenise"] / 1e6 / stats["secs"]["tokenise"],
}


class WhiteSpace(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()

    sent_tokenize = span_tokenize = None


def documents():
    return [Document(text=text, id=str(i)) for i, text in enumerate(texts)]


def timed(work):
    start = time.perf_counter()
    work()
    return mb / (time.perf_counter() - start)


def read():
    found = JsonlReader(f"{folder}/text").run(None, 0, 1)
    filters = [GopherRepetitionFilter(), GopherQualityFilter()]
    for one in filters:
        # Words at white space, as hairpin cuts them; spaCy's would take most of the time.
        one.language = WhiteSpace()
    for document in found:
        for one in filters:
            one.filter(document)


def near():
    config = MinhashConfig()
    sigs, buckets, removed = (f"{folder}/datatrove/{name}" for name in ("sigs", "buckets", "removed"))
    signature = MinhashDedupSignature(output_folder=sigs, config=config, language=WhiteSpace())
    signature.run(iter(documents()), 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(input_folder=sigs, output_folder=buckets, config=config).run(None, bucket, config.num_buckets)
    MinhashDedupCluster(input_folder=buckets, output_folder=removed, config=config).run(None, 0, 1)


def tokenise():
    writer = DocumentTokenizer(
        output_folder=f"{folder}/datatrove/tokens", tokenizer_name_or_path=f"{folder}/data/tokenizer.json", eos_token=None, shuffle_documents=False
    )
    writer.run(iter(documents()), 0, 1)


os.environ["RAYON_NUM_THREADS"] = os.environ["TOKENIZERS_PARALLELISM"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
print(f"{len(texts)} documents, {mb:.1f} MB, one core each\n| stage | hairpin, MB/s | datatrove, MB/s | ratio |\n|---|---|---|---|")
for stage, name, works in [("read", "read, clean, find duplicates", [read, near]), ("tokenise", "tokenise", [tokenise])]:
    theirs = 1 / sum(1 / timed(work) for work in works)
    print(f"| {name} | {ours[stage]:.1f} | {theirs:.2f} | {ours[stage] / theirs:.0f}x |", flush=True)
