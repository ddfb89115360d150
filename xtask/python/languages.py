"""What share of good text each cleaning rule drops, language by language, for `cargo xtask bench languages`: HAIRPIN FOLDER BOOK LANGUAGE...

BOOK holds a folder of HTML pages for each LANGUAGE, a translation that was written for readers: whatever a rule drops of it is
dropped wrongly, but for pages of a title alone (`too_short`). A page is a document; paragraphs, items, headings and examples are
its lines; what stands around them (navigation, contents) is left out.
"""
import glob
import html.parser
import json
import os
import shutil
import subprocess
import sys

RULES = "too_short word_length few_letters repeated_lines repeated_ngram long_lines generated ellipses".split()
PROJECT = """name = "language"
[data]
tokenizer = { kind = "bytes" }
held_out_ratio = 0.2
[data.corpus]
paths = ["text"]
[data.dedup]
exact = false
near = false
[recipe]
model = { depth = 1 }
[[phases]]
name = "one"
data_fraction = 1.0
"""

BLOCKS = {"p", "li", "h1", "h2", "h3", "h4", "pre", "dt", "dd", "td", "th"}
LEFT_OUT = {"script", "style", "head"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.lines, self.depth, self.skipped, self.current, self.pre = [], 0, 0, [], 0

    def handle_starttag(self, tag, attrs):
        if tag in LEFT_OUT or dict(attrs).get("class") in ("navheader", "navfooter", "toc"):
            self.skipped += 1
        elif self.skipped and tag == "div":
            self.skipped += 1
        if tag in BLOCKS:
            self.close_line()
            self.depth += 1
            self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if self.skipped and (tag in LEFT_OUT or tag == "div"):
            self.skipped -= 1
        if tag in BLOCKS:
            self.close_line()
            self.depth -= 1
            self.pre -= tag == "pre"

    def close_line(self):
        text = "".join(self.current)
        text = text.strip("\n") if self.pre else " ".join(text.split())
        if text.strip():
            self.lines.append(text)
        self.current = []

    def handle_data(self, data):
        if not self.skipped and self.depth:
            self.current.append(data)


hairpin, folder, book, *languages = sys.argv[1:]
for language in languages:
    project = f"{folder}/{language}"
    shutil.rmtree(project, ignore_errors=True)
    os.makedirs(f"{project}/text")
    with open(f"{project}/text/pages.jsonl", "w") as lines:
        for path in sorted(glob.glob(f"{book}/{language}/*.html")):
            page = Page()
            page.feed(open(path, encoding="utf-8", errors="replace").read())
            if page.lines:
                lines.write(json.dumps({"text": "\n".join(page.lines)}, ensure_ascii=False) + "\n")
    with open(f"{project}/hairpin.toml", "w") as file:
        file.write(PROJECT)
    told = subprocess.run([hairpin, "--json", "data", project], check=True, stdout=subprocess.PIPE).stdout
    tally = json.loads(told)
    shares = []
    for rule in RULES:
        loss = tally["cleaned"].get(rule, {"count": 0, "bytes": 0})
        shares.append(f"{loss['count']} ({100 * loss['bytes'] / tally['bytes_read']:.2f}%)" if loss["count"] else "–")
    print(f"| {language} | {tally['documents_read']} | {tally['bytes_read'] / 1e6:.2f} | {' | '.join(shares)} |", flush=True)
