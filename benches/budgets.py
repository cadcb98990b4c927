"""What pystap takes when its targets make names for ever and files are huge: `benches/budgets` runs this.

`top`: the resident memory of a live table while a program compiles and runs 1 000 pieces of code a second (2 000 new functions
a second, tests/programs/generated.py), looked at every half minute. The table is full after half a minute; what it grows by
after that, a minute, is what counts for an hour. `ps`: the time of a listing, the median of several, with ten running
programs called python whose files have a gigabyte (sparse), and with the same ten of ordinary size, taking turns. Exports:
the peak memory and time of each format for a recording of deep stacks and for one of very many calls.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

pystap, seconds = sys.argv[1], int(sys.argv[2])
python = sys.executable
here = os.path.dirname(os.path.abspath(__file__))
generated = os.path.join(here, "..", "tests", "programs", "generated.py")


def memory(pid, what):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(what + ":"):
                return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has no {what}")


def live_table():
    program = subprocess.Popen([python, generated, "0", "1000", "0"], stdin=subprocess.PIPE)
    table = subprocess.Popen(
        [pystap, "top", "--engine", "uprobes", "--json", "--interval", "1s", "-p", str(program.pid)],
        stdout=subprocess.DEVNULL,
    )
    seen = []
    try:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(30)
            seen.append((time.monotonic() - began, memory(table.pid, "VmRSS")))
        peak = memory(table.pid, "VmHWM")
    finally:
        table.send_signal(2)
        table.wait()
        program.stdin.close()
        program.wait()
    print("| `top`, 2 000 new functions a second | resident, MB |")
    print("|---|---|")
    for at, resident in seen:
        print(f"| after {at:.0f} s | {resident:.0f} |")
    print(f"| peak | {peak:.0f} |")
    # From when the table is full: names and rows do not grow any longer.
    full = [(at, resident) for at, resident in seen if at > 60]
    if len(full) > 1:
        growth = (full[-1][1] - full[0][1]) / (full[-1][0] - full[0][0]) * 60
        print(f"| growth a minute, table full | {growth:.2f} |")
        print(f"| after an hour at that rate | {full[-1][1] + max(0, growth) * 60:.0f} |")
    print()


def listing(size):
    """Ten programs called python with files of at least this size, and what a listing takes with them."""
    with tempfile.TemporaryDirectory() as place:
        running = []
        for number in range(10):
            path = os.path.join(place, str(number), "python3.11")
            os.mkdir(os.path.dirname(path))
            shutil.copy(python, path)
            os.truncate(path, max(size, os.path.getsize(path)))
            running.append(
                subprocess.Popen([path, "-S", "-c", "input()"], stdin=subprocess.PIPE)
            )
        try:
            began = time.monotonic()
            subprocess.run([pystap, "ps", "--json"], stdout=subprocess.DEVNULL, check=True)
            return time.monotonic() - began
        finally:
            for process in running:
                process.kill()
                process.wait()


def listings(rounds=9):
    small, huge = [], []
    for _ in range(rounds):
        small.append(listing(0))
        huge.append(listing(1 << 30))
    small, huge = statistics.median(small), statistics.median(huge)
    print("| `ps` with ten more programs called python | ms |")
    print("|---|---|")
    print(f"| of ordinary size | {small * 1e3:.0f} |")
    print(f"| of a gigabyte, sparse | {huge * 1e3:.0f} |")
    print(f"| ratio | {huge / small:.2f} |")
    print()


DEEP = """
import sys
sys.setrecursionlimit(10_000)
names = [f"level_{depth:_>100}" for depth in range(2_500)]
place = {}
for depth in reversed(range(2_500)):
    below = names[depth + 1] + "()" if depth + 1 < 2_500 else "None"
    exec(f"def {names[depth]}():\\n    return {below}\\n", place)
for _ in range(20):
    place[names[0]]()
"""
MANY = """
def work():
    pass
for _ in range(2_000_000):
    work()
"""


def exports():
    print("| export | recording, MB | peak, MB | seconds |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for what, program in (("deep stacks", DEEP), ("four million events", MANY)):
            path = os.path.join(place, "run.pystap")
            subprocess.run(
                [pystap, "record", "--engine", "uprobes", "-o", path, "--", python, "-c", program],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            size = os.path.getsize(path) / 1e6
            for form in ("folded", "flamegraph", "chrome", "html", "speedscope", "pstats", "json"):
                began = time.monotonic()
                child = os.fork()
                if child == 0:
                    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
                    os.execv(pystap, [pystap, "export", path, "-f", form, "-o", path + "." + form])
                _, status, usage = os.wait4(child, 0)
                took = time.monotonic() - began
                ended = "" if status == 0 else ", refused"
                print(f"| {what}, {form}{ended} | {size:.2f} | {usage.ru_maxrss / 1024:.0f} | {took:.1f} |")


live_table()
listings()
exports()
