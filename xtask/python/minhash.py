"""datatrove's MinHash deduplication on one core beside hairpin's, for `cargo xtask bench minhash`: FOLDER.

FOLDER holds documents.jsonl and hairpin.json (seconds, and for each document the first of its cluster), from `cargo bench
-p data --bench minhash`. Measured twice: with words at white space, where the clusters have to be hairpin's, and as it comes,
with spaCy's words.
"""
import json
import shutil
import struct
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer

folder = sys.argv[1]
texts = [json.loads(line)["text"] for line in open(f"{folder}/documents.jsonl")]
ours = json.load(open(f"{folder}/hairpin.json"))


class WhiteSpace(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()

    sent_tokenize = span_tokenize = None


def datatrove(language):
    """Seconds, and for each document the first of its cluster."""
    config = MinhashConfig()
    sigs, buckets, removed = (f"{folder}/datatrove/{name}" for name in ("sigs", "buckets", "removed"))
    shutil.rmtree(f"{folder}/datatrove", ignore_errors=True)
    signature = MinhashDedupSignature(output_folder=sigs, config=config, language=language)
    signature.word_tokenizer.word_tokenize("loads what it needs")

    start = time.perf_counter()
    signature.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(input_folder=sigs, output_folder=buckets, config=config).run(None, bucket, config.num_buckets)
    MinhashDedupCluster(input_folder=buckets, output_folder=removed, config=config, save_cluster_id=True).run(None, 0, 1)
    secs = time.perf_counter() - start

    first, clusters = {}, list(range(len(texts)))
    for document, cluster in sorted(struct.iter_unpack("<II", open(f"{removed}/000000.clusters", "rb").read())):
        clusters[document] = first.setdefault(cluster, document)
    return secs, clusters


def dropped(clusters):
    return {i for i, first in enumerate(clusters) if i != first}


print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} MB; hairpin {ours['secs']:.3f} s")
mine = ours["clusters"]
for name, language in [("words at white space", WhiteSpace()), ("as it comes (spaCy's words)", Languages.english)]:
    secs, theirs = datatrove(language)
    both = len(dropped(mine) & dropped(theirs))
    print(f"datatrove, {name}: {secs:.2f} s, {secs / ours['secs']:.0f}x; near duplicates {len(dropped(theirs))}, hairpin {len(dropped(mine))}, both {both}")
    if isinstance(language, WhiteSpace):
        assert mine == theirs, [(i, a, b) for i, (a, b) in enumerate(zip(mine, theirs)) if a != b]
print("clusters are equal")
