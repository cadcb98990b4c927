"""What tracing costs the traced program on this machine, compared with other tools: `make overhead`, as root.

One run, one machine. Each row is the median of ROUNDS runs, and the rows take turns, so that what else the machine does
meets all of them alike. A run: a Python 3.9 of Debian 11 (it has every mark, and neither quirks nor an own profiler) calls
an empty function CALLS times in a loop and says how many nanoseconds a call took; the tool is attached before, which is
seen by calls that suddenly take longer. viztracer and cProfile trace from the inside, on
Debian 12's Python 3.11; their rows are for scale.

A second table is about the agent: Pythons without function marks, in which it waits (loaded by the program itself, as
`pystap agent install` would have it), and beside them the marks that Python 3.15 has itself, through the same engine.
"Added" is what a call takes more than in the same process before it was traced.

A third one is about attaching: an asyncio server that waits for its first client is entered again and again. From "arming"
to "live" is all that happens to the process; the whole includes the start of pystap.

Usage: overhead.py PYSTAP AGENT-LIBRARY TREES PYTHON-WITH-VIZTRACER [ROUNDS [CALLS [OTHER-PYTHON...]]]
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PYSTAP, AGENT, TREES, VIZTRACER = sys.argv[1:5]
ROUNDS = int(sys.argv[5]) if len(sys.argv) > 5 else 5
CALLS = int(sys.argv[6]) if len(sys.argv) > 6 else 200000
OTHERS = sys.argv[7:]
TREE, GUEST = TREES + "/bullseye", TREES + "/guest"
PYTHON = TREE + "/usr/bin/python3.9"
TRACEFS = "/sys/kernel/tracing"
GROUP = "pystap_bench"

PROGRAM = """
import sys, time
def f():
    pass
def main(n):
    begun = time.perf_counter()
    for _ in range(n):
        f()
    return (time.perf_counter() - begun) * 1e9 / n
print("ready", flush=True)
for line in sys.stdin:
    print(main(int(line)), flush=True)
"""


# What `pystap agent install` has an interpreter do, with a library that lies elsewhere.
DORMANT = """
import importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", "%s")
agent = importlib.util.module_from_spec(importlib.util.spec_from_file_location("_pystap_agent", loader.path, loader=loader))
loader.exec_module(agent)
agent.start(True)
"""


class Program:
    """The traced program: calls when it is told to. With the path of an agent's library, that waits in it."""

    def __init__(self, tree=TREE, python="/usr/bin/python3.9", library=None):
        # chroot becomes Python: one process.
        self.process = subprocess.Popen(
            [*(["chroot", tree] if tree else []), python, "-c", (DORMANT % library if library else "") + PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.line()
        self.call(10000)
        self.untraced = self.call(10000)

    def line(self):
        return self.process.stdout.readline()

    def call(self, times):
        self.process.stdin.write("%d\n" % times)
        self.process.stdin.flush()
        return float(self.line())

    def raise_semaphores(self):
        """As a tracer does that raises them itself; bpftrace does not find a program whose root is another one."""
        with open("/proc/%d/mem" % self.pid, "r+b", 0) as memory:
            for name in ("function__entry", "function__return"):
                memory.seek(MARKS[name]["semaphore"]["address"])
                memory.write((1).to_bytes(2, sys.byteorder))

    def wait_until_traced(self):
        """Until calls take much longer than they did."""
        deadline = time.monotonic() + 60
        while self.call(1000) < 5 * self.untraced:
            if time.monotonic() > deadline:
                sys.exit("the tool does not trace")

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def marks():
    text = subprocess.run([PYSTAP, "marks", "--json", PYTHON], capture_output=True, check=True).stdout
    listed = json.loads(text)
    listed = listed[0] if isinstance(listed, list) else listed
    return {mark["name"]: mark["sites"][0] for mark in listed["marks"]}


def tell(line):
    """Python's own open() seeks when it appends, which the kernel refuses here."""
    events = os.open(TRACEFS + "/uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(events, line.encode() + b"\n")
    finally:
        os.close(events)


def define():
    """The same two probes as uprobe events, for perf."""
    def register(operand):
        """As the kernel calls it: without the r or e, except for the numbered ones."""
        name = operand.split("%")[1]
        return name if name[1].isdigit() else name[1:]

    for name in ("function__entry", "function__return"):
        site = MARKS[name]
        file, function, line = (register(word) for word in site["argument_text"].split())
        tell(
            "p:%s/%s %s:%#x(%#x) file=+0(%%%s):ustring function=+0(%%%s):ustring line=%%%s:s32"
            % (GROUP, name, PYTHON, site["file_offset"], site["semaphore"]["file_offset"], file, function, line)
        )


def undefine():
    for name in ("function__entry", "function__return"):
        try:
            tell("-:%s/%s" % (GROUP, name))
        except OSError:
            pass


def attached(command, raises=False):
    """A run with a tool that is given the program's process id."""

    def run():
        program = Program()
        tool = subprocess.Popen(
            [str(program.pid) if word == "PID" else word for word in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if raises:
            program.raise_semaphores()
        program.wait_until_traced()
        program.call(1000)
        taken = program.call(CALLS)
        tool.send_signal(signal.SIGINT)
        program.end()
        tool.wait()
        return taken

    return run


def nothing():
    program = Program()
    taken = program.call(CALLS)
    program.end()
    return taken


def inside(arguments):
    """A run with a tool that is a Python program itself."""
    with open(SCRATCH + "/inside.py", "w") as file:
        file.write(PROGRAM.replace("for line in sys.stdin:", "for line in ['%d']:" % CALLS))

    def run():
        said = subprocess.run(
            [VIZTRACER, *arguments, SCRATCH + "/inside.py"], capture_output=True, text=True, cwd=SCRATCH
        ).stdout
        return float(re.search(r"^([0-9.]+)$", said, re.M).group(1))

    return run


SCRATCH = tempfile.mkdtemp()
# Directories in trees.
PLACES = [SCRATCH]
MARKS = marks()
USDT = "usdt:%s:python:" % PYTHON
COUNT = USDT + "function__entry { @e = count(); } " + USDT + "function__return { @r = count(); }"
PRINT = "".join(
    USDT + '%s { printf("%%lld %%d %%s %%s %%d\\n", nsecs, tid, str(arg0), str(arg1), arg2); } ' % name
    for name in ("function__entry", "function__return")
)
TRACE = [PYSTAP, "trace", "--engine", "uprobes", "-q", "-e", "call,return", "-p", "PID", "-o", SCRATCH + "/events.json"]
ROWS = [
    ("nothing", nothing),
    ("bare trap: bpftrace, two count()", attached(["bpftrace", "-e", COUNT], raises=True)),
    ("pystap, uprobes engine, JSON to a file", attached(TRACE)),
    ("pystap, a filter that matches nothing", attached([*TRACE, "--function", "no_such_*"])),
    ("perf record of the same events", attached(
        ["perf", "record", "-q", "-m", "16M", "-o", SCRATCH + "/perf.data", "-p", "PID",
         "-e", GROUP + ":function__entry", "-e", GROUP + ":function__return"])),
    ("bpftrace, printf of the same fields", attached(["bpftrace", "-o", SCRATCH + "/printed", "-e", PRINT], raises=True)),
    ("viztracer, from the inside", inside(["-m", "viztracer", "--quiet", "--tracer_entries", "5000000", "-o", SCRATCH + "/viz.json"])),
    ("cProfile, from the inside", inside(["-m", "cProfile", "-o", "/dev/null"])),
]


def overhead():
    taken = {name: [] for name, _ in ROWS}
    for _ in range(ROUNDS):
        for name, run in ROWS:
            # Only perf needs them, and pystap's own may not stand at the same place with others.
            if name.startswith("perf"):
                define()
            try:
                taken[name].append(run())
            finally:
                undefine()
    medians = {name: statistics.median(runs) for name, runs in taken.items()}
    bare = medians[ROWS[1][0]]
    print("| what is armed | ns a call | of the bare trap |")
    print("|---|---|---|")
    for name, median in medians.items():
        print("| %s | %.0f | %.2f |" % (name, median, median / bare))
    pystap, printed = medians[ROWS[2][0]], medians["bpftrace, printf of the same fields"]
    print("\nbpftrace's printf costs %.1f times what pystap costs" % (printed / pystap))


def latency():
    """From the start of pystap to the first event in the reader's hands, and from the interrupt to its end."""
    firsts, ends = [], []
    program = Program()
    for _ in range(max(ROUNDS, 5)):
        begun = time.monotonic()
        tool = subprocess.Popen(
            [PYSTAP, "trace", "--engine", "uprobes", "-q", "-f", "json", "-e", "call,return", "-p", str(program.pid)],
            stdout=subprocess.PIPE,
        )
        # The session line, which comes when the probes are live.
        tool.stdout.readline()
        program.process.stdin.write("1000\n")
        program.process.stdin.flush()
        tool.stdout.readline()
        firsts.append(time.monotonic() - begun)
        begun = time.monotonic()
        tool.send_signal(signal.SIGINT)
        tool.stdout.read()
        tool.wait()
        ends.append(time.monotonic() - begun)
        program.line()
    program.end()
    print("\nattached and first event read after %.0f ms, detached after %.0f ms (medians)"
          % (statistics.median(firsts) * 1e3, statistics.median(ends) * 1e3))


def live(tool):
    """Waits until pystap says that the probes are live; seconds from "arming" to there."""
    armed = time.monotonic()
    for line in tool.stderr:
        if "arming" in line:
            armed = time.monotonic()
        if "probes are live" in line:
            return time.monotonic() - armed
    sys.exit("pystap does not trace")


def ended(tool):
    tool.send_signal(signal.SIGINT)
    tool.stderr.read()
    tool.wait()


def agents():
    """Interpreters without function marks, through the agent, and 3.15 with its own marks."""
    interpreters = [(GUEST, "/usr/bin/python3.15", False)]
    interpreters += [("", python, True) for python in OTHERS]
    interpreters += [(GUEST, "/usr/bin/python3.13", True), (GUEST, "/usr/bin/python3.14", True)]
    rows = []
    for tree, python, has_agent in interpreters:
        library = None
        if has_agent:
            place = tempfile.mkdtemp(prefix="pystap-bench.", dir=tree + "/tmp")
            PLACES.append(place)
            library = shutil.copy(AGENT, place + "/libpystap_agent.so")[len(tree) :]
        rows.append((tree, python, library))
    patterns = ("*", "no_such_*")
    untraced = {row: [] for row in rows}
    added = {(row, pattern): [] for row in rows for pattern in patterns}
    for _ in range(ROUNDS):
        for row in rows:
            for pattern in patterns:
                program = Program(*row)
                before = min(program.call(CALLS) for _ in range(2))
                untraced[row].append(before)
                tool = subprocess.Popen(
                    [PYSTAP, "trace", "--engine", "uprobes", "-f", "json", "-e", "call,return", "--function", pattern,
                     "-p", str(program.pid), "-o", SCRATCH + "/events.json"],
                    stderr=subprocess.PIPE, text=True,
                )
                live(tool)
                program.call(1000)
                taken = program.call(CALLS)
                if row[2] and pattern != "*":
                    # A function that no filter wants costs nothing after its first call, so it takes another look.
                    taken = min(taken, program.call(CALLS))
                added[row, pattern].append(taken - before)
                ended(tool)
                program.end()
    own = statistics.median(added[rows[0], "*"])
    print("\n| Python | untraced, ns a call | added, nothing matches | added, everything matches | of 3.15's own marks |")
    print("|---|---|---|---|---|")
    for row in rows:
        tree, python, library = row
        matched = statistics.median(added[row, "*"])
        print("| %s, %s | %.1f | %.1f | %.0f | %.2f |" % (
            os.path.basename(os.path.realpath(tree + python)), "the agent" if library else "its own marks",
            statistics.median(untraced[row]), statistics.median(added[row, "no_such_*"]), matched, matched / own))


def attaching():
    """How long it takes to come into an idle asyncio server of 3.14, and how long 3.15's own marks take."""
    server = """
import asyncio
async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
    print("\n| an idle asyncio server | from arming to live, ms: median, worst | from the start of pystap, ms |")
    print("|---|---|---|")
    for python, what in (("3.15", "its own marks"), ("3.14", "the agent, through PEP 768")):
        program = subprocess.Popen(
            ["chroot", GUEST, "/usr/bin/python" + python, "-c", server], stdout=subprocess.PIPE, text=True
        )
        program.stdout.readline()
        attached, whole = [], []
        for _ in range(4 * ROUNDS):
            begun = time.monotonic()
            tool = subprocess.Popen(
                [PYSTAP, "trace", "--engine", "uprobes", "-f", "json", "-e", "call,return", "-p", str(program.pid),
                 "-o", SCRATCH + "/events.json"], stderr=subprocess.PIPE, text=True,
            )
            attached.append(live(tool) * 1e3)
            whole.append((time.monotonic() - begun) * 1e3)
            ended(tool)
        program.kill()
        program.wait()
        print("| %s, %s | %.0f, %.0f | %.0f |"
              % (python, what, statistics.median(attached), max(attached), statistics.median(whole)))


def sustained(what, arguments, account, seconds=30):
    """As many events as two programs make at once, for a while. `account` finds lost and delivered in the output."""
    programs = [Program() for _ in range(2)]
    output = SCRATCH + "/sustained.json"
    pids = [word for one in programs for word in ("-p", str(one.pid))]
    tool = subprocess.Popen([PYSTAP, "-q", *arguments, "--engine", "uprobes", *pids, "-o", output], stderr=subprocess.DEVNULL)
    for program in programs:
        program.wait_until_traced()
    begun = time.monotonic()
    calls = 0
    while time.monotonic() - begun < seconds:
        for program in programs:
            program.process.stdin.write("100000\n")
            program.process.stdin.flush()
        for program in programs:
            program.line()
            calls += 100000
    taken = time.monotonic() - begun
    tool.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(tool.pid, 0)
    for program in programs:
        program.end()
    with open(output, "rb") as file:
        file.seek(max(0, os.path.getsize(output) - 100000))
        lost, delivered = account(json.loads(file.read().splitlines()[-1]))
    os.unlink(output)
    cpu = usage.ru_utime + usage.ru_stime
    print("\n%s, sustained for %.0f s: %.2f million events a second from two programs, %d lost, %d delivered;"
          % (what, taken, calls * 2 / taken / 1e6, lost, delivered))
    print("pystap took %.0f %% of a processor (%.0f ns an event) and %d MB at most"
          % (cpu / taken * 100, cpu * 1e9 / max(delivered, 1), usage.ru_maxrss // 1024))


def of_summary(summary):
    return summary["lost"] + summary["skipped"], summary["delivered"]


def of_table(table):
    # A call of the table is two events.
    return table["account"]["lost"], 2 * sum(row["calls"] for row in table["functions"])


overhead()
agents()
attaching()
latency()
sustained("JSON in a file", ["trace", "-e", "call,return", "-f", "json"], of_summary)
sustained("pystap top", ["top", "-e", "call,return", "--json", "-i", "2s"], of_table)
for directory in PLACES:
    shutil.rmtree(directory)
