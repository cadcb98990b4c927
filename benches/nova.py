"""What tracing costs a remote call of a real nova-conductor: the median latency, as its caller sees it; and how far the shares of
functions by samples are from exact ones.

Run by benches/nova, while nova is up: two workers under eventlet, RabbitMQ, databases in files; Debian 13's nova and Python 3.13, or
Debian 12's and 3.11, which has probes of its own; with pystap's agent installed and asleep. A round is two remote calls, one after
the other, from a process of its own that lives as long as the turn does. Ways take turns; a figure is the median of the turns'
medians, and the range is that of the turns.

- untraced: with the agent asleep
- top, record: `pystap top|record nova --engine direct`, every call of every worker
- stats: `pystap stats --service nova --engine direct` of two functions, the ones that answer
- stats by probes: the same with `--engine uprobes --no-agent`, where the interpreter has probes
- sample: `pystap top nova --sample`, 100 times a second
- py-spy: `py-spy record -r 100 --subprocesses` of the conductor

Behind that everything is recorded twice at once, each call and by samples, and then by samples alone. Of the twenty functions with the
largest exact share of the time of their own the three shares are told, without idleness and without functions that do little but wait
for work. What calls are traced with is in the first two, but for what pystap knows and takes out of the exact ones; the third are those of a
program that is not traced.

Before that it is told what an event costs there: by pystap, and really, which is the processor time that the workers take more in a turn in
which every call is recorded than in one in which none is, divided by calls and returns. One turn of each is not many.

Usage: nova.py TURNS ROUNDS [WAY…], all ways unless some are named, with PYSTAP and NOVA_TREE in the environment.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TURNS, ROUNDS, WAYS = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
PYSTAP, TREE = os.environ["PYSTAP"], os.environ["NOVA_TREE"]
INSIDE = ["chroot", TREE, "/usr/bin/env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
LOAD = [*INSIDE, "python3", "-W", "ignore", "/nova/load.py", "reading", ROUNDS]


def conductor():
    """The parent of the workers."""
    ps = json.loads(subprocess.check_output([PYSTAP, "ps", "nova", "--json"], stderr=subprocess.DEVNULL))
    pids = {process["pid"] for process in ps}
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            parent = int(stat.read().rsplit(")", 1)[1].split()[1])
        if parent not in pids:
            return pid
    sys.exit("no conductor runs")


def has_probes():
    """Whether nova's Python has probes for calls of its own."""
    marks = subprocess.check_output([PYSTAP, "marks", os.path.join(TREE, "usr/bin/python3")], text=True, stderr=subprocess.DEVNULL)
    return "function__entry" in marks


def latency():
    """Median of a turn, in milliseconds."""
    return json.loads(subprocess.check_output(LOAD, stderr=subprocess.DEVNULL))["median_ms"]


def while_running(command, words):
    """The same while a tool runs, from when it has said these words; and its last line."""
    with tempfile.TemporaryFile("w+") as said:
        with running(command, words, said):
            took = latency()
        return took, text(said).strip().rsplit("\n", 1)[-1]


@contextlib.contextmanager
def running(command, words, said):
    """A tool that runs, from when it has said these words into a file until it is interrupted and has ended."""
    tool = subprocess.Popen(command, stdout=said, stderr=said)
    end = time.monotonic() + 60
    while words not in text(said):
        if tool.poll() is not None or time.monotonic() > end:
            sys.exit(f"{command} did not begin: {text(said)}")
        time.sleep(0.1)
    yield
    tool.send_signal(signal.SIGINT)
    tool.wait()


def text(file):
    file.seek(0)
    return file.read()


def processor_time():
    """That the conductor and its workers have taken so far, in nanoseconds."""
    ps = json.loads(subprocess.check_output([PYSTAP, "ps", "nova", "--json"], stderr=subprocess.DEVNULL))
    total = 0
    for process in ps:
        tasks = f"/proc/{process['pid']}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
    return total


def event_cost():
    """What an event costs in nova: by pystap, and by the processor time of a turn with events and of one without; nanoseconds."""
    begun = processor_time()
    latency()
    untraced = processor_time() - begun
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as said:
        recording = os.path.join(directory, "calls")
        tracer = [PYSTAP, "record", "--service", "nova", "--engine", "direct", "-o", recording]
        with running(tracer, "live, tracing", said):
            begun = processor_time()
            latency()
            traced = processor_time() - begun
        table = report(recording)
    events = 2 * sum(row["calls"] for row in table["functions"])
    return table["account"].get("overhead_ns_per_event"), (traced - untraced) / events


def both():
    """Records a turn or two by calls and by samples at once, and one by samples alone: the shares of functions of each, in percent."""
    with tempfile.TemporaryDirectory() as directory:
        calls, samples, alone = (os.path.join(directory, name) for name in ("calls", "samples", "alone"))
        sampler = [PYSTAP, "record", "--sample=500", "--service", "nova", "-o"]
        tracer = [PYSTAP, "record", "--service", "nova", "--engine", "direct", "-o", calls]
        with tempfile.TemporaryFile("w+") as said, running(tracer, "live, tracing", said):
            while_running([*sampler, samples], "sampling;")
        while_running([*sampler, alone], "sampling;")
        calls = functions(calls)
        # What they take of a processor is idleness by calls, and none by samples.
        wait = {name(row) for row in calls if row["idle_ns"] * 2 > row["self_ns"]}
        by_samples = (shares(functions(it), lambda row: row["self"]["samples"], wait) for it in (samples, alone))
        return shares(calls, measured, wait), *by_samples


def measured(row):
    """A function's own time without idleness, and without the tracer's cost where that is known."""
    if "net_self_ns" in row:
        return row["net_self_ns"] - row["net_idle_ns"]
    return row["self_ns"] - row["idle_ns"]


def report(recording):
    command = [PYSTAP, "report", "--json", "--limit", "1000000", recording]
    return json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))


def functions(recording):
    return report(recording)["functions"]


def name(row):
    return row["function"].rsplit(".", 1)[-1], row["file"]


def shares(rows, own, wait):
    """The share of each function, by its name and file, in the time of their own of all of them that do not wait for work."""
    found = {}
    for row in rows:
        found[name(row)] = found.get(name(row), 0) + own(row)
    for key in wait:
        found.pop(key, None)
    everything = sum(found.values()) or 1
    return {key: value * 100 / everything for key, value in found.items()}


def compare():
    said, really = event_cost()
    print(f"\nan event: {said or 'unknown'} ns by pystap, {really:.0f} ns by the processor time of the workers")
    exact, sampled, alone = both()
    heaviest = sorted(exact, key=exact.get, reverse=True)[:20]
    print(f"\n{'exact':>6}{'sampled':>9}{'alone':>9}  function")
    for key in heaviest:
        print(f"{exact[key]:>5.1f}%{sampled.get(key, 0):>8.1f}%{alone.get(key, 0):>8.1f}%  {key[0]}  {key[1]}")
    for way, shown in [("sampled", sampled), ("alone", alone)]:
        apart = max(abs(exact[key] - shown.get(key, 0)) for key in heaviest)
        print(f"exact and {way}: at most {apart:.1f} points apart")


def main():
    figures, last = {}, {}
    latency()
    with tempfile.TemporaryDirectory() as directory:
        place = os.path.join(directory, "result")
        stats = [PYSTAP, "stats", "ping", "object_class_action_versions", "--service", "nova", "--output", place]
        ways = {
            "sample": ([PYSTAP, "top", "nova", "--sample", "--batch", "--output", place], "sampling;"),
            "top": ([PYSTAP, "top", "nova", "--batch", "--engine", "direct", "--output", place], "live, tracing"),
            "record": ([PYSTAP, "record", "--service", "nova", "--engine", "direct", "-o", place], "live, tracing"),
            "stats": ([*stats, "--engine", "direct"], "live, tracing"),
            "stats by probes": ([*stats, "--engine", "uprobes", "--no-agent"], "live, tracing"),
            "py-spy": (["py-spy", "record", "-r", "100", "--subprocesses", "-o", place, "-p", str(conductor())], "Sampling"),
        }
        if not has_probes():
            del ways["stats by probes"]
        for _ in range(TURNS):
            figures.setdefault("untraced", []).append(latency())
            for way, (command, words) in ways.items():
                if WAYS and way not in WAYS:
                    continue
                took, last[way] = while_running(command, words)
                figures.setdefault(way, []).append(took)
    plain = statistics.median(figures["untraced"])
    print(f"{'':<16}{'median':>10}{'turns':>18}{'times untraced':>16}")
    for way, turns in figures.items():
        median = statistics.median(turns)
        print(f"{way:<16}{median:>7.2f} ms{f'{min(turns):.2f} to {max(turns):.2f}':>18}{median / plain:>16.2f}")
        if way in last:
            print(f"{'':<16}{last[way]}")
    compare()


if __name__ == "__main__":
    main()
