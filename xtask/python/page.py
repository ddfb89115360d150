"""The page on which people rank, in a real Chromium: hostile text, a browser that is killed, two servers on one file, a phone.

    target/venv/bin/python xtask/python/page.py HAIRPIN [CHROMIUM]

Needs `pip install playwright` and a Chromium (`apt-get install chromium`). Ends with 1 at the first promise that is broken.
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

HAIRPIN = os.path.abspath(sys.argv[1])
CHROMIUM = sys.argv[2] if len(sys.argv) > 2 else "/usr/bin/chromium"
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "</div></section><svg onload='window.hacked = 3'></svg>",
    "<a href='javascript:window.hacked=4'>click</a>",
    "<iframe srcdoc='<script>parent.hacked = 5</script>'></iframe>",
    "\"; window.hacked = 6; //",
    "<style>body { display: none }</style><base href='http://203.0.113.1/'>",
    "\u202e<form action=http://203.0.113.1><button>x</button></form>\u0000",
]


def hold(what, is_kept):
    print(("kept    " if is_kept else "BROKEN  ") + what)
    if not is_kept:
        sys.exit(1)


class Server:
    """`hairpin align rank --serve` on the files of `folder`."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [HAIRPIN, "align", "rank", "responses.jsonl", "--serve", "--out", "preferences.jsonl"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address, self.said = None, ""
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r"http://\S+", line):
                self.address = found.group(0)
                break

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


def judged(folder):
    path = os.path.join(folder, "preferences.jsonl")
    return [json.loads(line) for line in open(path, encoding="utf-8")] if os.path.exists(path) else []


def browser(playwright, **options):
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], **options)


def begin(context, server, name, asked, dialogs):
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(server.address)
    page.fill("#name", name)
    page.press("#name", "Enter")
    page.wait_for_selector("#work:not([hidden]), #end:not([hidden])")
    return page


def wait(page, is_so):
    """Until what is shown of progress is so; the policy of the page lets no condition be evaluated in it."""
    for _ in range(100):
        if is_so(page.inner_text("#progress")):
            return
        page.wait_for_timeout(100)
    hold("the page went on", False)


def rank(page):
    """Put the responses in their order on the page, by the keyboard; the answer is on disk when the next is shown."""
    before = page.inner_text("#progress")
    count = page.locator(".card").count()
    page.evaluate("document.activeElement.blur()")
    for i in range(count):
        page.keyboard.press(str(i + 1))
    page.keyboard.press("Enter")
    wait(page, lambda shown: shown != before)


with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
    with open(os.path.join(folder, "responses.jsonl"), "w", encoding="utf-8") as file:
        for i, text in enumerate(HOSTILE):
            others = [HOSTILE[(i + k) % len(HOSTILE)] for k in (1, 2)]
            file.write(json.dumps({"prompt": f"{i}: {text}", "responses": [text, *others], "seeds": [1, 2, 3], "model": "m"}) + "\n")
    server = Server(folder)
    asked, dialogs = [], []

    own = browser(playwright)
    context = own.new_context()
    page = begin(context, server, "<b>ann</b>", asked, dialogs)
    for done in range(3):
        shown = page.inner_text("#prompt")
        hold(f"hostile text is shown as its letters: {shown[:40]!r}", shown.split(": ", 1)[1].strip("\u0000\ufffd \n") in [t.strip("\u0000 \n") for t in HOSTILE])
        hold("and made nothing of the page but text", page.evaluate("document.querySelectorAll('#work img, #work svg, #work iframe, #work a, #work form, #work script').length") == 0)
        rank(page)
        hold("a judgement is on disk before the next is shown", len(judged(folder)) == done + 1)
    hold("no script of it ran", page.evaluate("window.hacked") is None and not dialogs)
    # A script that somebody gets into the page all the same is stopped by its policy.
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 7'; document.body.append(s); }")
    page.evaluate("() => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 8\">'); }")
    page.wait_for_timeout(300)
    hold("the policy of the page stops what is put in later", page.evaluate("window.hacked") is None)
    hold("nothing is asked of anybody else", all(url.startswith(server.address.split("?")[0]) for url in asked if not url.endswith("/x")))

    # Closed in the middle of an answer.
    shown = page.inner_text("#prompt")
    page.keyboard.press("1")
    page.keyboard.press("2")
    own.close()
    own = browser(playwright)
    page = begin(own.new_context(), server, "<b>ann</b>", asked, dialogs)
    hold("closed in the middle of an answer, the same prompt is shown again", page.inner_text("#prompt") == shown)
    hold("what was judged is there, and no half of an answer", len(judged(folder)) == 3 and page.inner_text("#progress").startswith("3 of"))
    rank(page)

    # Killed with an answer on its way.
    page.evaluate("document.activeElement.blur()")
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    for process in os.listdir("/proc"):
        try:
            command = open(f"/proc/{process}/cmdline", "rb").read()
            parent = open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            continue
        if b"chromium" in command and b"--type=" not in command and b"playwright" in command and parent != "1":
            os.kill(int(process), signal.SIGKILL)
    count = len(judged(folder))
    hold("killed with an answer on its way, it is there whole or not at all", count in (4, 5) and all(len(one["ranks"]) == 3 for one in judged(folder)))

    # A second server on the file.
    second = Server(folder)
    code = second.process.wait(timeout=30)
    said = second.said + second.process.stderr.read()
    hold("a second server on one file is refused by name", code != 0 and second.address is None and "another server" in said)

    # A phone, and somebody else.
    own = browser(playwright)
    context = own.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = begin(context, server, "bob", asked, dialogs)
    hold("nothing stands beyond the edge of a phone", page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
    for card in range(3):
        page.locator(".card").nth(card).tap()
    page.locator("#send").tap()
    wait(page, lambda shown: shown.startswith("1 of"))
    if len(sys.argv) > 3:
        page.screenshot(path=sys.argv[3])
    own.close()
    hold("a judgement by touch is on disk", len([one for one in judged(folder) if one["by"]["name"] == "bob"]) == 1)
    hold("the server ends at Ctrl-C", server.end() in (0, 3))
    everyone = judged(folder)
    hold("every line is whole", all(sorted(one) >= ["by", "prompt"] for one in everyone) and len(everyone) >= count + 1)
