"""Exports recordings of a million calls as pages, and opens each in a Chromium without a window. See benches/html.

    html.py PYSTAP

A row per recording: calls, how long the export took and how large the page is, and the time from the beginning of the
navigation to the end of the first picture, as the page itself has it in `data-drawn`: the median of five and the worst.
"""

import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

EPOCH = 1_800_000_000_000_000_000
BROWSER = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,900",
]


def events(calls, functions, threads):
    """Events of that many calls, which go as deep as chance has it, up to 40."""
    chance = random.Random(17)
    stacks = [[] for _ in range(threads)]
    now = begun = 0
    while begun < calls or any(stacks):
        tid = chance.randrange(threads)
        stack = stacks[tid]
        now += chance.randrange(200, 3_000)
        goes_in = begun < calls and len(stack) < 40 and (not stack or chance.random() < 0.5)
        if not (goes_in or stack):
            continue
        if goes_in:
            # What a function calls is nearly always the same, as in programs.
            below = stack[-1] if stack else 0
            near = (below * 7 + chance.choice((1, 1, 1, 2, 3))) % functions
            name = begun if functions >= calls else near
            stack.append(name)
            begun += 1
        else:
            name = stack.pop()
        yield {
            "event": "call" if goes_in else "return", "ts": EPOCH + now, "pid": 100, "tid": 100 + tid,
            "file": f"/srv/app/module{name % 97}.py", "function": f"function_{name}", "line": 1 + name % 900,
        }


def trace(path, calls, functions, threads):
    session = {
        "event": "session", "ts": EPOCH, "schema": 1, "pystap": "0", "engine": "none", "notes": [], "armed": [],
        "targets": [{"pid": 100, "command": "invented", "python": None}], "events": ["call", "return"],
    }
    with path.open("w") as out:
        out.write(json.dumps(session) + "\n")
        for event in events(calls, functions, threads):
            out.write(json.dumps(event) + "\n")
        summary = {
            "event": "summary", "ts": EPOCH, "delivered": 2 * calls, "lost": 0, "skipped": 0, "unparsed": 0, "unpaired": 0,
            "wall_ns": 0, "ended": "targets_ended",
        }
        out.write(json.dumps(summary) + "\n")


def drawn(page, profile):
    """Milliseconds to the first picture."""
    command = [*BROWSER, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
    return int(re.search(rb'data-drawn="(\d+)"', dom.stdout)[1])


def main():
    pystap = sys.argv[1]
    print(f"{'recording':34} {'export':>8} {'page':>8} {'picture':>9} {'worst':>9}")
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        for what, calls, functions, threads in (
            ("1 000 000 calls, 5 000 functions", 1_000_000, 5_000, 4),
            ("1 000 000 calls, as many functions", 1_000_000, 1_000_000, 4),
            ("1 000 calls, 50 functions", 1_000, 50, 4),
        ):
            recording, page = place / "trace.json", place / "page.html"
            trace(recording, calls, functions, threads)
            begun = time.monotonic()
            subprocess.run([pystap, "export", "-f", "html", "-o", page, recording], check=True)
            took = time.monotonic() - begun
            times = [drawn(page, place / "profile") for _ in range(5)]
            size = page.stat().st_size / 1e6
            print(f"{what:34} {took:6.1f} s {size:5.2f} MB {statistics.median(times):6.0f} ms {max(times):6.0f} ms", flush=True)


main()
