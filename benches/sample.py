"""What `pystap top --sample` costs a program, and what it takes itself, beside py-spy at the same rate.

**Cost to the program.** A server and a client, threads of one process, answer each other through a pair of sockets: a request is
decoded from JSON, handled in ten nested calls, and answered. The program says how many requests it made in a second, and their median
and 99th percentile. Ways of watching take turns, so many rounds; told is the median of the rounds, and the ratio of untraced throughput
to watched throughput.

**Time of the watcher.** Its own processor time over ten seconds in which it watches, from two seconds after its start, in percent of
one processor: a program of 60 threads, each of which works for a moment and sleeps for 50 ms, and a program of one thread that
computes. The least of three, because whatever else runs on the machine only adds.

**Truth of shares.** Two programs of which one function works in C, and the others call others all the time: one with functions that
return at once (tests/programs/sampled_calls.py), one with generators. Each measures itself by the clock on the wall. Told are the share
of the functions that call, by the program and by samples, 500 times a second over ten seconds, in so many turns: how far apart the two
are in the mean, and where that is furthest, with its sign.

py-spy stops the program for each sample unless it is told not to (`--nonblocking`). Both read all threads, the idle ones, too, as
pystap does (`--threads --idle`).

    sample.py PYTHON PYSTAP PY_SPY
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 7
TURNS = 3
SECONDS = 10
RPC = """
import json, socket, statistics, sys, threading, time
one, other = socket.socketpair()

def handle(request, depth):
    if depth:
        return handle(request, depth - 1)
    return {"id": request["id"], "result": sum(request["args"])}

def serve():
    while True:
        request = other.recv(4096)
        if not request:
            return
        other.sendall(json.dumps(handle(json.loads(request), 10)).encode())

threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    took, end = [], time.perf_counter() + float(line)
    while (begun := time.perf_counter()) < end:
        one.sendall(json.dumps({"id": len(took), "args": [1, 2, 3]}).encode())
        json.loads(one.recv(4096))
        took.append(time.perf_counter() - begun)
    took.sort()
    print(len(took) / float(line), took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6, flush=True)
"""
THREADS = """
import threading, time

def work(depth):
    if depth:
        return work(depth - 1)
    return sum(range(500))

def serve():
    while True:
        work(20)
        time.sleep(0.05)

for _ in range(60):
    threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
time.sleep(3600)
"""
BUSY = """
def inner(n):
    return sum(range(n))

def outer(depth):
    if depth:
        return outer(depth - 1)
    for _ in range(1000):
        inner(200)

print("ready", flush=True)
while True:
    outer(20)
"""


CALLS = open(os.path.join(os.path.dirname(__file__), "../tests/programs/sampled_calls.py")).read()


def ways(pystap, py_spy, into):
    record = [py_spy, "record", "-r", "100", "-s", "--threads", "--idle", "-f", "raw", "-d", "3600", "-o", f"{into}/raw"]
    return {
        "nothing": None,
        "pystap top --sample": [pystap, "top", "--sample", "--idle", "--json", "-i", "1h", "-s"],
        "py-spy record": record,
        "py-spy record --nonblocking": [*record, "--nonblocking"],
    }


def start(python, program, *arguments):
    process = subprocess.Popen(
        [python, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    return process


def watch(command, pid, seconds=2):
    if not command:
        return None
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    watcher = subprocess.Popen([*command, "-p", str(pid)], **quiet)
    time.sleep(seconds)
    if watcher.poll() is not None:
        sys.exit(f"{command} has ended by itself")
    return watcher


def end(watcher):
    if watcher:
        watcher.send_signal(signal.SIGINT)
        watcher.wait()


def processor_time(pid):
    """Seconds that all threads of a process have used so far."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(python, all_ways):
    program = start(python, RPC)
    results = {name: [] for name in all_ways}
    for _ in range(ROUNDS):
        for name, command in all_ways.items():
            watcher = watch(command, program.pid)
            program.stdin.write("3\n")
            results[name].append([float(number) for number in program.stdout.readline().split()])
            end(watcher)
    program.kill()
    program.wait()
    median = {name: [statistics.median(it) for it in zip(*rounds)] for name, rounds in results.items()}
    print("| watched by | requests a second | untraced / watched | median, us | 99 % below, us |")
    print("|---|---|---|---|---|")
    for name, (rate, half, most) in median.items():
        print(f"| {name} | {rate:.0f} | {median['nothing'][0] / rate:.3f} | {half:.1f} | {most:.1f} |")
    print(flush=True)


def own(python, all_ways, program_name, source):
    program = start(python, source)
    results = {name: [] for name, command in all_ways.items() if command}
    for _ in range(TURNS):
        for name in results:
            watcher = watch(all_ways[name], program.pid)
            begun, at = processor_time(watcher.pid), time.monotonic()
            time.sleep(SECONDS)
            used = processor_time(watcher.pid) - begun
            results[name].append(used * 100 / (time.monotonic() - at))
            end(watcher)
    program.kill()
    program.wait()
    for name, shares in results.items():
        print(f"| {program_name} | {name} | {min(shares):.2f} |", flush=True)


def by_pystap(pystap, pid, into):
    """Samples of a process by the function that they are in, without classes and what is around it."""
    command = [pystap, "record", "--sample=500", "-o", f"{into}/samples"]
    end(watch(command, pid, SECONDS))
    report = [pystap, "report", "--json", "--limit", "1000", f"{into}/samples"]
    rows = json.loads(subprocess.check_output(report, stderr=subprocess.DEVNULL))["functions"]
    os.remove(f"{into}/samples")
    return [(row["function"].rsplit(".", 1)[-1], row["self"]["samples"]) for row in rows]


def by_py_spy(py_spy, pid, into, more):
    command = [py_spy, "record", "-r", "500", "-f", "raw", "-d", "3600", "-o", f"{into}/raw", *more]
    end(watch(command, pid, SECONDS))
    lines = [line.rsplit(" ", 1) for line in open(f"{into}/raw")]
    return [(stack.rsplit(";", 1)[-1].split(" (")[0].rsplit(".", 1)[-1], int(samples)) for stack, samples in lines]


def truth(python, pystap, py_spy, into):
    watchers = {
        "pystap": lambda pid: by_pystap(pystap, pid, into),
        "py-spy": lambda pid: by_py_spy(py_spy, pid, into, []),
        "py-spy --nonblocking": lambda pid: by_py_spy(py_spy, pid, into, ["--nonblocking"]),
    }
    calling = {"calls", "middle", "innermost", "resume", "numbers", "<genexpr>"}
    print("| program | sampled by | points apart in the mean | at most |")
    print("|---|---|---|---|")
    for program_name in ["calls", "generators"]:
        apart = {name: [] for name in watchers}
        for _ in range(TURNS):
            for name, samples in watchers.items():
                program = start(python, CALLS, program_name)
                found = samples(program.pid)
                program.stdin.write("\n")
                took = json.loads(program.stdout.readline())
                program.wait()
                calls = sum(count for function, count in found if function in calling)
                works = sum(count for function, count in found if function == "works")
                exact = took["calls"] / (took["calls"] + took["works"])
                apart[name].append((calls / (calls + works) - exact) * 100)
        for name, points in apart.items():
            mean, most = statistics.mean(points), max(points, key=abs)
            print(f"| {program_name} | {name} | {mean:+.1f} | {most:+.1f} |", flush=True)


def main():
    python, pystap, py_spy = sys.argv[1:]
    with tempfile.TemporaryDirectory() as into:
        all_ways = ways(pystap, py_spy, into)
        cost(python, all_ways)
        print("| program | watched by | watcher's own time, % of a processor |")
        print("|---|---|---|")
        own(python, all_ways, "60 threads", THREADS)
        own(python, all_ways, "1 busy thread", BUSY)
        print()
        truth(python, pystap, py_spy, into)


main()
