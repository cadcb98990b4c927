"""Reports of a large recording by two builds of pystap, in turns, and when a bar is on the terminal. See benches/report.

    report.py PYSTAP EARLIER ROUNDS MEGABYTES

The recording is a trace as JSON of that size, which holds some 600 000 events per 100 MB: more bytes per event than in
pystap's own format, and so the more work of those who count bytes. A row per build: the least of the rounds, in seconds on the clock
and of the processor; then their ratio. Output goes to files, so that neither draws. The time to the bar is that of the worst
of three, from the beginning of the process until a terminal of 100 columns has it.
"""

import json
import os
import pathlib
import pty
import random
import resource
import select
import subprocess
import sys
import tempfile
import time

EPOCH = 1_800_000_000_000_000_000


def trace(path, size):
    """Calls that go as deep as chance has it, until the file is that large."""
    chance = random.Random(23)
    session = {
        "event": "session", "ts": EPOCH, "schema": 1, "pystap": "0", "engine": "none", "notes": [], "armed": [],
        "targets": [{"pid": 100, "command": "invented", "python": None}], "events": ["call", "return"],
    }
    now, stack, written = EPOCH, [], 0
    with path.open("w") as out:
        out.write(json.dumps(session) + "\n")
        while written < size or stack:
            now += chance.randrange(200, 3_000)
            goes_in = written < size and len(stack) < 40 and (not stack or chance.random() < 0.5)
            if goes_in:
                stack.append(chance.randrange(5_000))
            name = stack[-1] if goes_in else stack.pop()
            event = {
                "event": "call" if goes_in else "return", "ts": now, "pid": 100, "tid": 100,
                "file": f"/usr/lib/python3/dist-packages/app/module{name % 97}.py", "function": f"function_{name}",
                "line": 1 + name % 900,
            }
            written += out.write(json.dumps(event) + "\n")


def took(pystap, recording):
    """Seconds on the clock and of the processor that a report takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run([pystap, "report", recording], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    clock = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def to_the_bar(pystap, recording):
    """Milliseconds until a terminal shows how far a report has come."""
    begun = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100")
        os.execv(pystap, [pystap, "report", recording])
    shown, bar = b"", None
    while True:
        if not select.select([terminal], [], [], 60)[0]:
            sys.exit("nothing came for a minute")
        try:
            some = os.read(terminal, 65536)
        except OSError:
            break
        shown += some
        if bar is None and b"reading " in shown:
            bar = (time.monotonic() - begun) * 1_000
    os.waitpid(child, 0)
    if bar is None:
        sys.exit("the terminal showed no bar")
    return bar


def main():
    now, earlier, rounds, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    builds = [build for build in (earlier, now) if build]
    times = {build: [] for build in builds}
    with tempfile.TemporaryDirectory() as directory:
        recording = pathlib.Path(directory) / "trace.json"
        trace(recording, megabytes * 1_000_000)
        for _ in range(rounds):
            for build in builds:
                times[build].append(took(build, recording))
        least = {build: [min(kind) for kind in zip(*times[build])] for build in builds}
        size = recording.stat().st_size / 1e6
        print(f"report of {size:.0f} MB, least of {rounds}: seconds on the clock, of the processor")
        for build in builds:
            print(f"{build:40} {least[build][0]:6.2f} {least[build][1]:6.2f}")
        if earlier:
            clock, cpu = (new / old for new, old in zip(least[now], least[earlier]))
            print(f"takes {clock:.2f} x the time of the earlier one, {cpu:.2f} x its processor time")
        print(f"a bar after {max(to_the_bar(now, recording) for _ in range(3)):.0f} ms at the latest")


if __name__ == "__main__":
    main()
