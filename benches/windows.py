"""For how long pystap stops a process, and how long it takes to attach.

The process (tests/programs/heartbeat.py) looks at the clock every millisecond, in a thread of its own, and tells the longest
time between two looks: while it is attached to, and for as long before, when nobody touches it. So the first number has
everything in it that attaching does to a process: the stop, the agent that begins, the machine's other work. Beside it is
what pystap itself says of the stop, where it says so (-v). Attaching is from the line that says that the agent comes to the
one that says that the probes are live. The median of five rounds.

    windows.py TREE PYTHON PYSTAP...        PYTHON as it is called in the tree
"""

import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 5
HERE = Path(__file__).resolve().parent.parent


def beat(process):
    process.stdin.write("beat\n")
    return json.loads(process.stdout.readline())["longest"]


def round_of(pystap, command, threads):
    process = subprocess.Popen(
        [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    beat(process)
    time.sleep(1)
    before = beat(process)
    words = [pystap, "trace", "-v", "--engine", "uprobes", "--function", "leaf", "-p", str(process.pid)]
    tracing = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    begun = taken = stopped = None
    said = []
    for line in tracing.stderr:
        said.append(line)
        if "come from pystap's agent" in line:
            begun = time.monotonic()
        if found := re.search(r"was stopped for ([\d.]+) ms", line):
            stopped = float(found[1])
        if "live, tracing" in line:
            taken = (time.monotonic() - begun) * 1000
            break
    if taken is None:
        raise SystemExit("".join(said))
    longest = beat(process)
    tracing.send_signal(signal.SIGINT)
    tracing.stderr.read()
    assert tracing.wait() == 0
    process.stdin.close()
    assert json.loads(process.stdout.readlines()[-1])["unharmed"]
    process.wait()
    return before, longest, stopped, taken


def middle(numbers):
    known = [number for number in numbers if number is not None]
    return f"{statistics.median(known):.1f}" if known else "-"


def main():
    tree, python, *pystaps = sys.argv[1:]
    programs = Path(tree, "pystap", "benches")
    programs.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "tests/programs/heartbeat.py", programs)
    command = ["chroot", tree, python, "/pystap/benches/heartbeat.py"]
    print("| pystap | threads | stood still untouched, ms | while attached to, ms | the stop, ms | attaching, ms |")
    print("|---|---|---|---|---|---|")
    try:
        for pystap in pystaps:
            for threads in (1, 100, 3000):
                rounds = [round_of(pystap, command, threads) for _ in range(ROUNDS)]
                columns = " | ".join(middle(column) for column in zip(*rounds))
                print(f"| {pystap} | {threads} | {columns} |", flush=True)
    finally:
        shutil.rmtree(programs)


main()
