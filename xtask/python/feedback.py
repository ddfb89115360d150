"""Write the data of `cargo xtask feedback` into a folder: text, prompts, raters and judges, from two packages of PyPI, and sums.

    python3 xtask/python/feedback.py target/feedback

- `vaderSentiment` (sdist): a lexicon with the numbers that ten people gave to each word, and 20,000 short texts (reviews of films and of
  goods, tweets, editorials) that at least ten people rated each (Hutto and Gilbert, *VADER*, ICWSM 2014).
- `textblob`: a lexicon by other people, for judging alone.
"""
import ast
import collections
import io
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile

SETS = ["movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets"]


def fetch(package, folder, *flags):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *flags, package], check=True)
    return next(path for path in pathlib.Path(folder).iterdir() if path.name.lower().startswith(package.split("==")[0].lower()))


def vader(folder):
    """The ratings of each word by each of ten people, and rated texts: {text: mean rating}."""
    outer = tarfile.open(fetch("vaderSentiment==3.3.2", folder, "--no-binary", ":all:"))
    read = lambda archive, end: archive.extractfile(next(m for m in archive.getmembers() if m.name.endswith(end))).read()
    lexicon = {}
    for line in read(outer, "/vaderSentiment/vader_lexicon.txt").decode().splitlines():
        word, _, _, ratings = line.split("\t")
        if re.fullmatch(r"[a-z']+", word):
            lexicon[word] = ast.literal_eval(ratings)
    inner = tarfile.open(fileobj=io.BytesIO(read(outer, "hutto_ICWSM_2014.tar.gz")))
    texts = {}
    for name in SETS:
        for line in read(inner, f"{name}_GroundTruth.txt").decode("utf-8", "replace").splitlines():
            parts = line.split("\t")
            if len(parts) == 3:
                text = re.sub(r"\s+", " ", parts[2].replace("http://url_removed", "")).strip().lower()
                if text.isascii() and 20 <= len(text) <= 400:
                    texts[text] = float(parts[1])
    return lexicon, texts


def textblob(folder):
    """The mean polarity of each word over its senses."""
    archive = zipfile.ZipFile(fetch("textblob==0.20.1", folder))
    senses = collections.defaultdict(list)
    for word in ElementTree.fromstring(archive.read("textblob/en/en-sentiment.xml")).iter("word"):
        senses[word.get("form").lower()].append(float(word.get("polarity")))
    return {word: sum(all) / len(all) for word, all in senses.items()}


def lexicon(path, words):
    path.write_text("".join(f"{word}\t{number}\n" for word, number in sorted(words.items()) if number != 0))


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        (ratings, texts), polarity = vader(one), textblob(two)
    for rater in range(10):
        lexicon(out / f"rater-{rater}.tsv", {word: numbers[rater] for word, numbers in ratings.items()})
    lexicon(out / "judge.tsv", polarity)
    draw = random.Random(1)
    order = sorted(texts)
    draw.shuffle(order)
    lines(out / "texts.jsonl", ({"text": text} for text in order))
    # The first three words of a text are what is gone on from.
    prompts = list(dict.fromkeys(" ".join(text.split()[:3]) for text in order if len(text.split()) >= 8))
    lines(out / "prompts.jsonl", ({"prompt": prompt} for prompt in prompts[:2000]))
    lines(out / "held-out.jsonl", ({"prompt": prompt} for prompt in prompts[2000:2400]))
    # The gold reward model learns what people said of whole texts: four at a time, by their mean rating.
    groups = [order[i : i + 4] for i in range(0, len(order) - 3, 4)]
    ranks = lambda group: [sum(texts[other] > texts[text] for other in group) for text in group]
    by = {"kind": "person", "name": "raters of texts"}
    lines(
        out / "gold.jsonl",
        ({"prompt": "", "responses": group, "ranks": ranks(group), "by": by} for group in groups),
    )


def sums(out, most=12, count=60_000, asked_share=0.1, right_share=0.5):
    """Lines that tell sums, and one of ten that asks for one and is answered by somebody of whose answers half are wrong by a little. No
    form of a sum that is held out is among the prompts."""
    draw = random.Random(2)
    questions = ["what is", "how much is", "and", "tell me"]
    texts = []
    for _ in range(count):
        a, b = draw.randint(0, most), draw.randint(0, most)
        answer = a + b
        if draw.random() < asked_share:
            if draw.random() >= right_share:
                wrong = draw.choice([1, 2, 10])
                answer = answer + wrong if draw.random() < 0.5 else abs(answer - wrong)
            texts.append(f"{draw.choice(questions)} {a} + {b}? {answer}")
        else:
            texts.append(f"{a} + {b} {draw.choice(['=', 'make'])} {answer}")
    lines(out / "sums.jsonl", ({"text": text} for text in texts))
    all = [(a, b) for a in range(most + 1) for b in range(most + 1)]
    draw.shuffle(all)
    asked = lambda some: ({"prompt": f"{question} {a} + {b}?"} for a, b in some for question in questions)
    lines(out / "sum-prompts.jsonl", asked(all[40:]))
    lines(out / "sum-held-out.jsonl", asked(all[:40]))


main(pathlib.Path(sys.argv[1]))
sums(pathlib.Path(sys.argv[1]))
