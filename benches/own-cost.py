"""How true times and shares are without the tracer's own cost, for each engine that runs here.

The program (tests/programs/parts.py) has parts that spend their time in different ways: a function that does nothing, called often;
calls within calls; one that works for about a microsecond; one that calls nothing. It takes the time of each part with its own clock,
and says what is the least of several turns. Untraced, that is the truth. Traced, it says what the tracer really costs: what a part takes more, divided
by its events.

Each round runs the program untraced, then recorded by each engine, so that what else the machine does meets all alike. Rounds in which events
were lost are left out, because nothing is known of what these cost. Of the others, the table has the medians:

- cost: nanoseconds that an event costs, as pystap measured it when the session began; with the least and the most of all rounds
- really: nanoseconds that it cost, by the program's own clock, in the part that has most events
- loop: how many times as long the part that calls nothing takes, which has no events but its own
- leaf: the share of the function that does nothing in the part that calls nothing else, in percent: untraced, by samples of
  `pystap record --sample`, then as it was measured, and without the tracer's cost
- then for each part its share of the time of all parts, in percent: true, as it was measured, and without the tracer's cost
- wrong: by how many points the worst share of a row is wrong, as it was measured and without the cost

What an event costs depends on what is in the processor's caches. So a second table has another program (tests/programs/many_functions.py), which calls so
many functions in turns that fewer and fewer of them are, with `--engine direct`; medians of the rounds, but for those in which events were lost:

- untraced: nanoseconds of a call by the program's own clock, the least of its turns
- really: what a call and its return cost on top of that, divided by two
- cost: the same by pystap, of the whole run
- in calm: by pystap as the session began, where nothing else is in the caches

Usage: own-cost.py PYSTAP ROUNDS PYTHON...
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

PYSTAP, ROUNDS, PYTHONS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
# Samples a second of the part that calls what does nothing, and for how many turns: some seconds of it.
RATE, TURNS = 500, "300000"
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "programs", "parts.py")
ENGINES = {
    "direct": ["--engine", "direct"],
    "uprobes, agent": ["--engine", "uprobes", "--agent"],
    "uprobes, own probes": ["--engine", "uprobes", "--no-agent"],
    "stap": ["--engine", "stap"],
}


def said(output):
    """The last line that the program printed."""
    return json.loads(output.strip().splitlines()[-1])


def untraced(python):
    return said(subprocess.run([python, PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout)


def traced(python, options, directory):
    """What the program said and what the report says; nothing where the engine cannot run."""
    recording = os.path.join(directory, "recording")
    command = [PYSTAP, "record", "--output", recording, *options, "--", python, PROGRAM]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if run.returncode != 0:
        return None
    report = [PYSTAP, "report", "--json", "--limit", "1000", recording]
    table = json.loads(subprocess.run(report, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    return said(run.stdout), table


def sampled(python, directory):
    """The share of the function that does nothing in the part that calls it, in percent, by samples of that part alone."""
    recording = os.path.join(directory, "samples")
    command = [PYSTAP, "record", f"--sample={RATE}", "--output", recording, "--", python, PROGRAM, TURNS, "empty"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    report = [PYSTAP, "report", "--json", "--limit", "1000", recording]
    table = json.loads(subprocess.run(report, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    samples = {row["function"]: row for row in table["functions"] if row["file"].endswith("parts.py")}
    return 100 * samples["leaf"]["self"]["samples"] / samples["empty"]["total"]["samples"]


def shares(parts, time_of):
    """The share of each part, in percent."""
    times = {name: time_of(name) for name in parts}
    whole = sum(times.values()) or 1
    return {name: 100 * took / whole for name, took in times.items()}


def rows_of(table):
    """The functions of the program that were called, by name."""
    rows = [row for row in table["functions"] if row["file"].endswith("parts.py") and row["calls"]]
    return {row["function"].rpartition(".")[2]: row for row in rows}


def least(table, durations):
    """The least duration of each function of the program, in nanoseconds."""
    return {name: row.get(durations, row["durations"])["min_ns"] for name, row in rows_of(table).items()}


def of_leaf(table, prefix):
    """The share of the function that does nothing in the part that calls it, in percent, by their sums."""
    rows = rows_of(table)
    own, whole = (rows[name].get(prefix + key, rows[name][key]) for name, key in (("leaf", "self_ns"), ("empty", "cumulative_ns")))
    return 100 * own / (whole or 1)


def round_of(python, options, directory, true):
    ran = traced(python, options, directory)
    if ran is None:
        return None
    own, table = ran
    if table["account"]["lost"]:
        return None
    raw, net = least(table, "durations"), least(table, "net_durations")
    if not raw:
        return None
    busiest = max(own, key=lambda part: own[part]["events"])
    more = own[busiest]["least_ns"] - true[busiest]["least_ns"]
    return {
        "cost": table["account"].get("overhead_ns_per_event"),
        "really": more / own[busiest]["events"],
        "loop": own["steady"]["least_ns"] / true["steady"]["least_ns"],
        "leaf": {"raw": of_leaf(table, ""), "net": of_leaf(table, "net_")},
        "true": shares(true, lambda part: true[part]["least_ns"]),
        "raw": shares(own, lambda part: raw[part]),
        "net": shares(own, lambda part: net[part]),
    }


MANY = os.path.join(os.path.dirname(PROGRAM), "many_functions.py")
CALLS, TURNS_OF_MANY = "30000", "12"


def call_of(command):
    return said(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout)["call_ns"]


def many(python, functions, directory):
    """What calls took untraced, what their events cost really, and what pystap says of that; nothing where events were lost."""
    trace = os.path.join(directory, "many.json")
    program = [python, MANY, functions, CALLS, TURNS_OF_MANY]
    untraced = call_of(program)
    traced = call_of([PYSTAP, "trace", "--engine", "direct", "--output", trace, "--", *program])
    with open(trace) as lines:
        first, *_, last = lines
    calm, end = json.loads(first), json.loads(last)
    if end["lost"]:
        return None
    cost = "overhead_ns_per_event"
    return {"untraced": untraced, "really": (traced - untraced) / 2, "cost": end.get(cost), "in calm": calm.get(cost)}


def table_of_many(directory):
    columns = ["untraced", "really", "cost", "in calm"]
    print("\n|", " | ".join(["Python", "functions", *columns]), "|")
    print("|---" * (2 + len(columns)) + "|", flush=True)
    for python in PYTHONS:
        version = subprocess.run([python, "-V"], stdout=subprocess.PIPE, text=True).stdout.split()[1]
        for functions in ("1", "1000", "10000", "50000"):
            rounds = [many(python, functions, directory) for _ in range(ROUNDS)]
            cells = [version, functions]
            for column in columns:
                numbers = [each[column] for each in rounds if each and each[column] is not None]
                cells.append(f"{statistics.median(numbers):.0f}" if numbers else "unknown")
            print("|", " | ".join(cells), "|", flush=True)


def median_of(rounds, key, part):
    return statistics.median(each[key][part] for each in rounds)


def row(name, rounds, samples):
    parts = list(rounds[0]["true"])
    costs = [each["cost"] for each in rounds if each["cost"]]
    cost = f"{statistics.median(costs):.0f} ({min(costs)} to {max(costs)})" if costs else "unknown"
    cells = [name, cost, f"{statistics.median(each['really'] for each in rounds):.0f}"]
    cells.append(f"{statistics.median(each['loop'] for each in rounds):.1f}")
    leaf = [statistics.median(samples), *(median_of(rounds, "leaf", key) for key in ("raw", "net"))]
    cells.append(" / ".join(f"{share:.1f}" for share in leaf))
    wrong = {"raw": 0.0, "net": 0.0}
    for part in parts:
        true, raw, net = (median_of(rounds, key, part) for key in ("true", "raw", "net"))
        cells.append(f"{true:.1f} / {raw:.1f} / {net:.1f}")
        for key, share in (("raw", raw), ("net", net)):
            wrong[key] = max(wrong[key], abs(share - true))
    cells.append(f"{wrong['raw']:.1f} / {wrong['net']:.1f}")
    print("|", " | ".join(cells), "|", flush=True)


def main():
    parts = list(untraced(sys.executable))
    columns = ["Python, engine", "cost", "really", "loop", "leaf", *parts, "wrong"]
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for python in PYTHONS:
            version = subprocess.run([python, "-V"], stdout=subprocess.PIPE, text=True).stdout.split()[1]
            rounds = {engine: [] for engine in ENGINES}
            samples = []
            for _ in range(ROUNDS):
                true = untraced(python)
                samples.append(sampled(python, directory))
                for engine, options in ENGINES.items():
                    ran = round_of(python, options, directory, true)
                    if ran is not None:
                        rounds[engine].append(ran)
            for engine, ran in rounds.items():
                if ran:
                    row(f"{version}, {engine}", ran, samples)
        table_of_many(directory)


main()
