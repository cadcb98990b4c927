"""What the engine direct costs a traced program, and how many events come through it, beside other tools.

One run, one machine. Each figure is the median of ROUNDS runs, and what is compared takes turns, so that what else the
machine does meets all of it alike. A run is a new process: it calls an empty function in a loop, 40 times 200 000 calls, and
says what a call takes in the median of these. "Added" is what it takes more than untraced, in the same round.

- two callbacks: `sys.monitoring` with a C function that does nothing (`operator.is_` takes the two arguments of PY_START;
  PY_RETURN has a third, for which `slice` stands, which makes an object): the floor for whoever uses it
- cProfile: from the inside, as `python -m cProfile` has it
- viztracer: from the inside, if the interpreter has it (`pip install viztracer`)
- direct, every call: `pystap record --engine direct`
- direct, top: `pystap top --engine direct`, where the agent adds up
- direct, none long enough: `pystap record --engine direct --min-duration 1m`, where the agent measures calls
- direct, no match: every call, with a filter that no function fits
- uprobes: `pystap record --engine uprobes --agent`, where that can run

The second table is about the other side: a program that makes so many events per second for ten seconds, recorded, and written as
JSON; what pystap says at the end, and the processor time that it took itself.

Usage: direct.py PYSTAP ROUNDS PYTHON...
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile

PYSTAP, ROUNDS, PYTHONS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

LOOP = """
import statistics, sys, time
def f(): pass
def loop(n):
    begun = time.perf_counter()
    for _ in range(n): f()
    return (time.perf_counter() - begun) * 1e9 / n
def run(rounds=40):
    loop(1000)
    return statistics.median(loop(200000) for _ in range(rounds))
"""
PLAIN = LOOP + "print(run())"
PROFILED = LOOP + "import cProfile; p = cProfile.Profile(); p.enable(); took = run(10); p.disable(); print(took)"
MONITORED = (
    LOOP
    + """
import operator
m = sys.monitoring; m.use_tool_id(4, "floor")
m.register_callback(4, m.events.PY_START, operator.is_)
m.register_callback(4, m.events.PY_RETURN, slice)
m.set_events(4, m.events.PY_START | m.events.PY_RETURN)
print(run())
"""
)
VIZTRACED = (
    LOOP
    + """
import viztracer
t = viztracer.VizTracer(tracer_entries=1000000, verbose=0); t.start(); took = run(10); t.stop(); print(took)
"""
)
STEADY = """
import sys, time
def f(): pass
def burst(n):
    for _ in range(n): f()
rate, seconds = int(sys.argv[1]), 10
begun = time.perf_counter()
for turn in range(seconds * 1000):
    burst(rate // 2000)
    while time.perf_counter() - begun < turn / 1000: pass
print(time.process_time())
"""


def took(command):
    """What the program says of itself; nothing where it cannot run."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        return float(ended.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def recorded(directory, options, command):
    return [PYSTAP, "record", "-o", os.path.join(directory, "recording"), *options, "--", *command]


def shown(directory, options, command):
    return [PYSTAP, "top", "--json", "--output", os.path.join(directory, "tables"), *options, "--", *command]


def ways(python, directory):
    direct = ["--engine", "direct"]
    plain = [python, "-c", PLAIN]
    return {
        "two callbacks": [python, "-c", MONITORED],
        "cProfile": [python, "-c", PROFILED],
        "viztracer": [python, "-c", VIZTRACED],
        "direct, every call": recorded(directory, direct, plain),
        "direct, top": shown(directory, direct, plain),
        "direct, none long enough": recorded(directory, [*direct, "--min-duration", "1m"], plain),
        "direct, no match": recorded(directory, [*direct, "--function", "no_such_function"], plain),
        "uprobes": recorded(directory, ["--engine", "uprobes", "--agent"], [python, "-c", PLAIN.replace("200000", "2000")]),
    }


def added(python, directory):
    all_ways = ways(python, directory)
    untraced, figures = [], {name: [] for name in all_ways}
    for _ in range(ROUNDS):
        plain = took([python, "-c", PLAIN])
        untraced.append(plain)
        for name, command in all_ways.items():
            traced = took(command)
            if traced is not None:
                figures[name].append(traced - plain)
    row = {name: statistics.median(figure) if figure else None for name, figure in figures.items()}
    return statistics.median(untraced), row


def used():
    """Processor time of all that has been run so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rates(python, directory):
    direct = ["--engine", "direct", "--function", "f"]
    outputs = {"recorded": ["record"], "as JSON": ["trace", "--format", "json"]}
    for what, words in outputs.items():
        for millions in (1, 2, 3, 4):
            program = [python, "-c", STEADY, str(millions * 1000000)]
            command = [PYSTAP, *words, *direct, "-o", os.path.join(directory, what), "--", *program]
            before = used()
            ended = subprocess.run(command, capture_output=True, text=True)
            own = used() - before - float(ended.stdout.split()[-1])
            each = own / (millions * 10 * 1e6) * 1e9
            said = ended.stderr.strip().splitlines()[-1].removeprefix("pystap: ")
            print(f"| {what}, {millions} million events per second | {said} | {each:.0f} ns of pystap's own per event |", flush=True)


def main():
    with tempfile.TemporaryDirectory() as directory:
        print("| ns added per call and return |", " | ".join(["untraced call", *ways("", "")]), "|")
        print("|---" * (2 + len(ways("", ""))) + "|")
        for python in PYTHONS:
            version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout.strip()
            untraced, row = added(python, directory)
            cells = ["-" if figure is None else f"{figure:.0f}" for figure in row.values()]
            print(f"| {version} |", " | ".join([f"{untraced:.0f}", *cells]), "|", flush=True)
        print()
        rates(PYTHONS[-1], directory)


main()
