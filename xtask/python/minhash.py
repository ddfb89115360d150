"""datatrove's MinHash deduplication on one core beside hairpin's, for `cargo xtask bench minhash`: FOLDER.

FOLDER holds documents.jsonl and hairpin.json (seconds, and the documents that it would drop), from `cargo bench -p data
--bench minhash`. Both use shingles of five words and 14 bands of 8 hashes; datatrove joins whatever shares a band, hairpin
holds whole signatures against each other first.
"""
import json
import shutil
import struct
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.utils.typeshelper import Languages

folder = sys.argv[1]
texts = [json.loads(line)["text"] for line in open(f"{folder}/documents.jsonl")]
ours = json.load(open(f"{folder}/hairpin.json"))
config = MinhashConfig()
sigs, buckets, removed = (f"{folder}/datatrove/{name}" for name in ("sigs", "buckets", "removed"))
shutil.rmtree(f"{folder}/datatrove", ignore_errors=True)
signature = MinhashDedupSignature(output_folder=sigs, config=config, language=Languages.english)
signature.word_tokenizer.word_tokenize("loads what it needs")

start = time.perf_counter()
signature.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), 0, 1)
for bucket in range(config.num_buckets):
    MinhashDedupBuckets(input_folder=sigs, output_folder=buckets, config=config).run(None, bucket, config.num_buckets)
MinhashDedupCluster(input_folder=buckets, output_folder=removed, config=config).run(None, 0, 1)
secs = time.perf_counter() - start

data = open(f"{removed}/000000.remove", "rb").read()
theirs = {i for (i,) in struct.iter_unpack("<I", data)}
mine = set(ours["dropped"])
# Which of a cluster stays is each one's own choice; sizes agree where clusters do.
print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} MB")
print(f"hairpin {ours['secs']:.2f} s, datatrove {secs:.2f} s, {secs / ours['secs']:.0f}x")
print(f"dropped: hairpin {len(mine)}, datatrove {len(theirs)}, both {len(mine & theirs)}")
