"""What `pystap offcpu` costs.

Two processes send a byte to and fro through pipes, both on one processor, so that each byte is two context switches. They say how
much processor time both took for so many; each way of watching takes its turn, five times, and the best counts, because whatever
else runs on the machine only adds. Processor time of the watcher is its own, from its start to its end. "another process": the same,
while another process is watched.

    waits.py PYTHON PYSTAP
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
TRIPS = 50_000
PROGRAM = """
import os, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
there, back = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    while os.read(there[0], 1) == b"x":
        os.write(back[1], b"x")
    os._exit(0)
print(child, flush=True)
stat = lambda pid: int(open(f"/proc/{pid}/schedstat").read().split()[0])
for line in sys.stdin:
    trips = int(line)
    begin = stat(os.getpid()) + stat(child)
    for _ in range(trips):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    print(stat(os.getpid()) + stat(child) - begin, flush=True)
os.write(there[1], b"-")
"""


class Program:
    def __init__(self, python):
        self.process = subprocess.Popen(
            [python, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pids = [self.process.pid, int(self.process.stdout.readline())]

    def run(self, trips):
        """Nanoseconds of both."""
        self.process.stdin.write(f"{trips}\n")
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def watched(program, target, command, ready):
    """Processor time of the programs for each switch, and of the watcher, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile() as said:
        watcher = subprocess.Popen(command(target), stdout=subprocess.DEVNULL, stderr=said) if command else None
        while watcher and ready not in open(said.name).read():
            if watcher.poll() is not None:
                sys.exit(f"{command(target)}: {open(said.name).read()}")
            time.sleep(0.05)
        took = program.run(TRIPS)
        if watcher:
            watcher.send_signal(signal.SIGINT)
            watcher.wait()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return took / TRIPS / 2 / 1e3, own / TRIPS / 2 * 1e6


def main():
    python, pystap = sys.argv[1:]
    program, other = Program(python), Program(python)

    def pystap_offcpu(*more):
        return lambda pids: [pystap, "offcpu", "--json", *more, *(f"-p{pid}" for pid in pids)]

    ways = [
        ("nothing", None, "", program.pids),
        ("pystap offcpu", pystap_offcpu(), "watching", program.pids),
        ("pystap offcpu --no-wakers", pystap_offcpu("--no-wakers"), "watching", program.pids),
        ("pystap offcpu, another process", pystap_offcpu(), "watching", other.pids),
        ("pystap offcpu --no-wakers, another process", pystap_offcpu("--no-wakers"), "watching", other.pids),
    ]
    if shutil.which("perf"):
        # What perf needs for as much: the chains of switches, and wakings.
        perf = ["perf", "record", "-o", "/dev/null", "-g", "-c1", "-e", "sched:sched_switch", "-e", "sched:sched_waking"]
        ways.append(
            ("perf record", lambda pids: [*perf, "-v", "-p", ",".join(map(str, pids))], "mmap size", program.pids)
        )
    for tool in ("offcputime-bpfcc", "offcputime"):
        if shutil.which(tool):
            ways.append((tool, lambda pids, tool=tool: [tool, "-f", "-p", str(pids[0])], "", program.pids))
            break
    results = {name: [] for name, *_ in ways}
    for _ in range(ROUNDS):
        for name, command, ready, target in ways:
            results[name].append(watched(program, target, command, ready))
    bare = min(took for took, _ in results["nothing"])
    print("| watched by | a switch, us | more than nothing, us | watcher's own time a switch, us |")
    print("|---|---|---|---|")
    for name, values in results.items():
        took, own = min(it[0] for it in values), min(it[1] for it in values)
        print(f"| {name} | {took:.2f} | {took - bare:.2f} | {own:.2f} |", flush=True)
    program.end()
    other.end()


main()
