"""How true times and shares are without the tracer's own cost, for each engine that runs here.

The program (tests/programs/parts.py) has parts that spend their time in different ways: a function that does nothing, called often;
calls within calls; one that works for about a microsecond; one that calls nothing. It takes the time of each part with its own clock,
and says what is the least of several turns. Untraced, that is the truth. Traced, it says what the tracer really costs: what a part takes more, divided
by its events.

Each round runs the program untraced, then recorded by each engine, so that what else the machine does meets all alike. Rounds in which events
were lost are left out, because nothing is known of what these cost. Of the others, the table has the medians:

- cost: nanoseconds that an event costs, as pystap measured it when the session began; with the least and the most of all rounds
- really: nanoseconds that it cost, by the program's own clock, in the part that has most events
- then for each part its share of the time of all parts, in percent: true, as it was measured, and without the tracer's cost
- wrong: by how many points the worst share of a row is wrong, as it was measured and without the cost

Usage: own-cost.py PYSTAP ROUNDS PYTHON...
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

PYSTAP, ROUNDS, PYTHONS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
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


def shares(parts, time_of):
    """The share of each part, in percent."""
    times = {name: time_of(name) for name in parts}
    whole = sum(times.values()) or 1
    return {name: 100 * took / whole for name, took in times.items()}


def least(table, durations):
    """The least duration of each function of the program, in nanoseconds."""
    rows = [row for row in table["functions"] if row["file"].endswith("parts.py") and row["calls"]]
    return {row["function"].rpartition(".")[2]: row.get(durations, row["durations"])["min_ns"] for row in rows}


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
        "leaf": {"raw": raw["leaf"], "net": net["leaf"]},
        "true": shares(true, lambda part: true[part]["least_ns"]),
        "raw": shares(own, lambda part: raw[part]),
        "net": shares(own, lambda part: net[part]),
    }


def median_of(rounds, key, part):
    return statistics.median(each[key][part] for each in rounds)


def row(name, rounds):
    parts = list(rounds[0]["true"])
    costs = [each["cost"] for each in rounds if each["cost"]]
    cost = f"{statistics.median(costs):.0f} ({min(costs)} to {max(costs)})" if costs else "unknown"
    cells = [name, cost, f"{statistics.median(each['really'] for each in rounds):.0f}"]
    cells.append(" / ".join(f"{median_of(rounds, 'leaf', key):.0f}" for key in ("raw", "net")))
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
    columns = ["Python, engine", "cost", "really", "leaf", *parts, "wrong"]
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for python in PYTHONS:
            version = subprocess.run([python, "-V"], stdout=subprocess.PIPE, text=True).stdout.split()[1]
            rounds = {engine: [] for engine in ENGINES}
            for _ in range(ROUNDS):
                true = untraced(python)
                for engine, options in ENGINES.items():
                    ran = round_of(python, options, directory, true)
                    if ran is not None:
                        rounds[engine].append(ran)
            for engine, ran in rounds.items():
                if ran:
                    row(f"{version}, {engine}", ran)


main()
