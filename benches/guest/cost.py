"""Inside the guest: one row a way of tracing; see benches/guest/cost."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time

CALLS = int(sys.argv[1])
REPEATS = 5
PYSTAP = ["/pystap-cost/pystap", "-q", "trace", "-f", "json", "-o", "/dev/null"]
WORK = f"""
import sys, time
def a(n):
    return n + 1
def run():
    numbers = range({CALLS})
    began = time.process_time_ns()
    for n in numbers:
        a(n)
    return (time.process_time_ns() - began) / {CALLS}
run()
print("ready", flush=True)
sys.stdin.readline()
print([run() for _ in range({REPEATS})], flush=True)
"""


def module(name):
    with open(f"/pystap-cost/{name}.module") as path:
        return path.read().strip()


def wait_for(what, condition):
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"cost: {what} did not happen within two minutes")
        time.sleep(0.05)


def armed(pid):
    """Whether the semaphore of function__entry is raised in the process: every tracer here raises it."""
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(ENTRY_SEMAPHORE)
        return int.from_bytes(memory.read(2), "little") > 0


def entry_semaphore():
    marks = subprocess.run(["/pystap-cost/pystap", "marks", "--json", "/usr/bin/python3.15"],
                           capture_output=True, text=True, check=True).stdout
    import json
    (image,) = json.loads(marks)
    (mark,) = [mark for mark in image["marks"] if mark["name"] == "function__entry"]
    return mark["sites"][0]["semaphore"]["address"]


ENTRY_SEMAPHORE = entry_semaphore()


def measure(name, tracer):
    target = subprocess.Popen(["python3.15", "-S", "-E", "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    assert target.stdout.readline() == "ready\n"
    tracing = None
    errors = open("/tmp/errors", "w+")
    if tracer:
        arguments = [argument.replace("PID", str(target.pid)) for argument in tracer]
        tracing = subprocess.Popen(arguments, stdout=open("/tmp/output", "wb"), stderr=errors)
        wait_for(f"{name}: arming", lambda: armed(target.pid))
    target.stdin.write("go\n")
    target.stdin.close()
    times = eval(target.stdout.readline())
    target.wait()
    if tracing:
        tracing.send_signal(signal.SIGINT)
        tracing.wait()
    errors.seek(0)
    lost = re.findall(r"(?:lost|Lost|transport failures)[^\n]*", errors.read())
    return statistics.median(times), lost


rows = [
    ("nothing", None),
    ("stap, two empty aggregates", ["staprun", "-R", "-x", "PID", module("count")]),
    ("stap, hand-written text line", ["staprun", "-R", "-x", "PID", module("text")]),
    ("pystap top", ["/pystap-cost/pystap", "-q", "top", "--json", "-i", "1s", "-p", "PID"]),
    ("pystap trace, JSON", [*PYSTAP, "--events", "call,return", "-p", "PID"]),
    ("pystap trace, a filter that matches nothing",
     [*PYSTAP, "--events", "call,return", "--function", "no_such_function", "-p", "PID"]),
    ("pystap trace --min-duration 1s", [*PYSTAP, "--min-duration", "1s", "--events", "return", "-p", "PID"]),
]
results = {}
for name, tracer in rows:
    results[name], lost = measure(name, tracer)
    print(f"{name:<46} {results[name]:>8.0f} ns   {'; '.join(lost)}", flush=True)

bare = results["nothing"]
text = results["stap, hand-written text line"] - bare
ours = results["pystap trace, JSON"] - bare
top = results["pystap top"] / results["stap, two empty aggregates"]
print(f"\na call under pystap top takes {top:.2f} times what it takes under two empty aggregates (reach: at most 1.60)")
print(f"pystap's script costs {ours / text:.2f} times the hand-written text line (reach: at most 1.00)")
sys.exit(0 if ours <= text and top <= 1.6 else 1)
