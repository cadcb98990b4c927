"""What `pystap offcpu` and `pystap syscalls` cost.

Two processes send a byte to and fro through pipes, both on one processor, so that each byte is two context switches. They say how
much processor time both took for so many; each way of watching takes its turn, five times, and the best counts, because whatever
else runs on the machine only adds. Processor time of the watcher is its own, from when it watches to its end: what it takes to
begin is not in it. "another process": the same, while another process is watched.

For `pystap syscalls` a program asks for its parent's number again and again, which is one of the shortest system calls, and says
how much processor time one took it.

    waits.py PYTHON PYSTAP [offcpu] [syscalls]
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


CALLS = 500_000
CALLER = """
import os, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
print(os.getpid(), flush=True)
for line in sys.stdin:
    calls, ask = int(line), os.getppid
    begin = time.process_time_ns()
    for _ in range(calls):
        ask()
    print(time.process_time_ns() - begin, flush=True)
"""


# What offcputime of bcc does, for a bpftrace without headers of the kernel: both stacks at each switch, summed in the kernel.
OFFCPUTIME = """
BEGIN {{ printf("watching\\n"); }}
tracepoint:sched:sched_switch /{leaves}/ {{
    @left[args->prev_pid] = nsecs;
    @kernel[args->prev_pid] = kstack;
    @user[args->prev_pid] = ustack;
}}
tracepoint:sched:sched_switch /@left[args->next_pid]/ {{
    @off[args->next_pid, @kernel[args->next_pid], @user[args->next_pid]] = sum(nsecs - @left[args->next_pid]);
    delete(@left[args->next_pid]);
}}
"""


class Program:
    def __init__(self, python, program):
        self.process = subprocess.Popen(
            [python, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pids = sorted({self.process.pid, int(self.process.stdout.readline())})

    def run(self, trips):
        """Nanoseconds of both."""
        self.process.stdin.write(f"{trips}\n")
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def processor_time(pid):
    """Seconds that a process has used so far."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(program, target, command, ready, number, each):
    """Processor time of the programs for each of so many, of which a number has `each`, and of the watcher, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile() as said:
        watcher = subprocess.Popen(command(target), stdout=subprocess.DEVNULL, stderr=said) if command else None
        while watcher and ready not in open(said.name).read():
            if watcher.poll() is not None:
                sys.exit(f"{command(target)}: {open(said.name).read()}")
            time.sleep(0.05)
        begun = processor_time(watcher.pid) if watcher else 0
        took = program.run(number)
        if watcher:
            watcher.send_signal(signal.SIGINT)
            watcher.wait()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime - begun
    return took / number / each / 1e3, own / number / each * 1e6


def compared(ways, number, each, unit):
    """A table of ways of watching, which take turns."""
    results = {name: [] for name, *_ in ways}
    for _ in range(ROUNDS):
        for name, program, command, ready, target in ways:
            results[name].append(watched(program, target, command, ready, number, each))
    bare = min(took for took, _ in results["nothing"])
    print(f"| watched by | {unit}, us | more than nothing, us | watcher's own time {unit}, us | more in all, us |")
    print("|---|---|---|---|---|")
    for name, values in results.items():
        took, own = min(it[0] for it in values), min(it[1] for it in values)
        print(f"| {name} | {took:.3f} | {took - bare:.3f} | {own:.3f} | {took - bare + own:.3f} |", flush=True)
    print()


def switches(python, pystap):
    program, other = Program(python, PROGRAM), Program(python, PROGRAM)

    def offcpu(*more):
        return lambda pids: [pystap, "offcpu", "--json", *more, *(f"-p{pid}" for pid in pids)]

    ways = [
        ("nothing", program, None, "", program.pids),
        ("pystap offcpu", program, offcpu(), "watching", program.pids),
        ("pystap offcpu --no-wakers", program, offcpu("--no-wakers"), "watching", program.pids),
        ("pystap offcpu, another process", program, offcpu(), "watching", other.pids),
        ("pystap offcpu --no-wakers, another process", program, offcpu("--no-wakers"), "watching", other.pids),
    ]
    if shutil.which("perf"):
        # What `--no-wakers` listens to, and nothing else; and what perf needs for as much as without it.
        perf = ["perf", "record", "-v", "-o", "/dev/null", "-c1", "-e", "sched:sched_switch"]
        same = [*perf, "-g", "--kernel-callchains", "--switch-events", "--user-regs=di,si,sp"]
        more = [*perf, "-g", "-e", "sched:sched_waking"]
        for name, command in (("perf record of the same events", same), ("perf record -g with wakings", more)):
            listing = lambda pids, command=command: [*command, "-p", ",".join(map(str, pids))]
            ways.append((name, program, listing, "mmap size", program.pids))
    if shutil.which("bpftrace"):
        leaves = lambda pids: " || ".join(f"args->prev_pid == {pid}" for pid in pids)
        # It says that it is ready on its output, which is line-buffered for files only with -B line.
        bpftrace = lambda pids: ["sh", "-c", 'exec bpftrace -B line -e "$1" >&2', "sh", OFFCPUTIME.format(leaves=leaves(pids))]
        ways.append(("bpftrace", program, bpftrace, "watching", program.pids))
    for tool in ("offcputime-bpfcc", "offcputime"):
        if shutil.which(tool):
            ways.append((tool, program, lambda pids, tool=tool: [tool, "-f", "-p", str(pids[0])], "", program.pids))
            break
    compared(ways, TRIPS, 2, "a switch")
    program.end()
    other.end()


def system_calls(python, pystap):
    program, other = Program(python, CALLER), Program(python, CALLER)

    def syscalls(*more):
        return lambda pids: [pystap, "syscalls", "--json", *more, f"-p{pids[0]}"]

    ways = [
        ("nothing", program, None, "", program.pids),
        ("pystap syscalls", program, syscalls(), "watching", program.pids),
        ("pystap syscalls --errors", program, syscalls("--errors"), "watching", program.pids),
        ("pystap syscalls --syscall read", program, syscalls("--syscall", "read"), "watching", program.pids),
        ("pystap syscalls, another process", program, syscalls(), "watching", other.pids),
    ]
    if shutil.which("strace"):
        strace = lambda pids: ["strace", "-c", "-f", "-p", str(pids[0])]
        ways.append(("strace -c", program, strace, "attached", program.pids))
    if shutil.which("perf"):
        # The same two events of each call, and nothing else.
        events = ["-e", "raw_syscalls:sys_enter", "-e", "raw_syscalls:sys_exit"]
        record = lambda pids: ["perf", "record", "-o", "/dev/null", "-c1", *events, "-v", "-p", str(pids[0])]
        ways.append(("perf record of the same events", program, record, "mmap size", program.pids))
        trace = lambda pids: ["perf", "trace", "-v", "-s", "-p", str(pids[0])]
        ways.append(("perf trace -s", program, trace, "mmap size", program.pids))
    compared(ways, CALLS, 1, "a call")
    program.end()
    other.end()


def main():
    python, pystap, *only = sys.argv[1:]
    for name, measure in (("offcpu", switches), ("syscalls", system_calls)):
        if not only or name in only:
            measure(python, pystap)


main()
