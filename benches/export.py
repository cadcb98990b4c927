"""Exports of a large recording: speed, memory and size of each format. See benches/export.

    export.py PYSTAP MILLIONS EARLIER ROUNDS
    export.py PYSTAP --functions MILLIONS

A trace of 100 MB (benches/report.py) is merged with itself, each time as that of another host, until the recording has as many
events. Each format is written to a file and removed, ROUNDS times, by each build in turns. A row per format and build, of the least
of the rounds: events per second of the clock and of the processor, the most memory that pystap had at once, and bytes as a multiple
of those of Chrome's JSON, which is written first.

With --functions, each call is of another function, as of a program that makes its functions as it goes, a report is made, too, and what
each said is printed.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from report import EPOCH, trace

# Not speedscope, whose viewer takes no recording of this size, and for which such a one is refused.
FORMATS = ("chrome", "perfetto", "pprof", "parquet", "folded", "html")


def run(command):
    """Seconds on the clock and of the processor, the most megabytes in memory, and what was said."""
    begun = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command}: {said}")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def size(path):
    """Bytes of a file, or of all files of a directory."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def distinct(path, functions):
    """A program that calls so many functions, each once."""
    session = {
        "event": "session", "ts": EPOCH, "schema": 1, "pystap": "0", "engine": "none", "notes": [], "armed": [],
        "targets": [{"pid": 100, "command": "invented", "python": None}], "events": ["call", "return"],
    }
    with path.open("w") as out:
        out.write(json.dumps(session) + "\n")
        for number in range(functions):
            place = f'"pid":100,"tid":100,"file":"/srv/made/module{number // 1000}.py","function":"made_{number}","line":{1 + number % 1000}'
            for at, event in enumerate(("call", "return")):
                out.write(f'{{"event":"{event}","ts":{EPOCH + 2000 * number + 900 * at},{place}}}\n')


def with_functions(pystap, millions):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        directory = pathlib.Path(directory)
        trace_of_all = directory / "trace.json"
        distinct(trace_of_all, round(millions * 1e6))
        print(f"{millions:.1f} million functions, each called once; the trace has {size(trace_of_all) / 1e6:.0f} MB")
        print(f"{'':12} {'events/s':>12} {'MB at most':>11} {'MB written':>11}")
        jobs = [("report", ["report", trace_of_all])]
        jobs += [(name, ["export", "-f", name, "-o", directory / f"exported.{name}", trace_of_all]) for name in FORMATS]
        for name, arguments in jobs:
            seconds, _, memory, said = run([pystap, *arguments])
            written = directory / f"exported.{name}"
            megabytes = f"{size(written) / 1e6:11.1f}" if written.exists() else f"{'':11}"
            print(f"{name:12} {2e6 * millions / seconds:12,.0f} {memory:11.0f} {megabytes}")
            print("".join(f"             {line}\n" for line in said.splitlines()), end="", flush=True)
            if written.exists():
                subprocess.run(["rm", "-r", written], check=True)


def main():
    if sys.argv[2] == "--functions":
        return with_functions(sys.argv[1], float(sys.argv[3]))
    pystap, millions = sys.argv[1], float(sys.argv[2])
    earlier, rounds = sys.argv[3], int(sys.argv[4])
    builds = [build for build in (earlier, pystap) if build]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        directory = pathlib.Path(directory)
        single = directory / "single.json"
        trace(single, 100_000_000)
        with single.open() as lines:
            each = sum(1 for _ in lines) - 1
        copies = max(1, round(millions * 1e6 / each))
        hosts = []
        for number in range(copies):
            # One file may not come twice.
            copy = directory / f"copy{number}.json"
            shutil.copyfile(single, copy)
            hosts.append(f"host{number}={copy}")
        recording = directory / "recording"
        clock, processor, memory, _ = run([pystap, "merge", *hosts, "-o", recording])
        for number in range(copies):
            (directory / f"copy{number}.json").unlink()
        events = each * copies
        print(f"{events / 1e6:.1f} million events of {copies} hosts; the recording has {size(recording) / 1e6:.0f} MB")
        print(f"{'':12} {'events/s':>12} {'of processor':>12} {'MB at most':>11} {'size/chrome':>12}")
        print(f"{'merge':12} {events / clock:12,.0f} {events / processor:12,.0f} {memory:11.0f}", flush=True)
        chrome = None
        for name in FORMATS:
            written = directory / f"exported.{name}"
            taken = {build: [] for build in builds}
            sizes = {}
            for _ in range(rounds):
                for build in builds:
                    taken[build].append(run([build, "export", "-f", name, "-o", written, recording])[:3])
                    sizes[build] = size(written)
                    subprocess.run(["rm", "-r", written], check=True)
            chrome = chrome or sizes[pystap]
            for build in builds:
                clock, processor, memory = (min(kind) for kind in zip(*taken[build]))
                print(
                    f"{name:12} {events / clock:12,.0f} {events / processor:12,.0f} {memory:11.0f} {sizes[build] / chrome:12.3f}"
                    f"{'   earlier' if build != pystap else ''}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
