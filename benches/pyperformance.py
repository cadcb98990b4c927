"""How much slower whole programs run while every call is recorded, beside viztracer and cProfile.

The programs are pyperformance's, run by pyperf in one process (`--worker`), which times them from the inside: what tools do
when they start and when they write at the end is in none of the figures. A figure is the median of ROUNDS runs, each with
the median of five values after one that is thrown away; ways take turns, so that what else the machine does meets all of
them alike. A value is some 0.2 s untraced, and the same work for every way.

- direct: `pystap record --engine direct`; how many events there were, and the median of the shares that were lost, is said behind the figures
- viztracer: as `viztracer` starts a program, C functions among what it tells
- viztracer, Python only: with `--ignore_c_function`, which is what pystap tells
- cProfile: `python -m cProfile`

The last two columns are what pystap adds, by what viztracer adds.

Usage: pyperformance.py PYSTAP ROUNDS PYTHON...
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

PYSTAP, ROUNDS, PYTHONS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
# With how many loops a value takes some 0.2 s.
LOOPS = {"richards": 5, "deltablue": 80, "json_dumps": 25, "django_template": 7, "sqlalchemy_declarative": 2}
WHERE = "import pyperformance, os; print(os.path.join(os.path.dirname(pyperformance.__file__), 'data-files', 'benchmarks'))"


def ways(python, directory, program):
    def viztracer(*options):
        return [python, "-m", "viztracer", "--quiet", "-o", os.path.join(directory, "trace.json"), *options, "--", *program]

    recording = os.path.join(directory, "recording")
    return {
        "untraced": [python, *program],
        "direct": [PYSTAP, "record", "--engine", "direct", "-o", recording, "--", python, *program],
        "viztracer": viztracer(),
        "Python only": viztracer("--ignore_c_function"),
        "cProfile": [python, "-m", "cProfile", "-o", os.path.join(directory, "profile"), *program],
    }


def took(command, values):
    """Seconds per value and what the tool said, or a reason to end."""
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with open(values) as file:
            runs = json.load(file)["benchmarks"][0]["runs"]
    except OSError:
        sys.exit(f"{command} did not run: {ended.stderr}")
    os.remove(values)
    return statistics.median(runs[-1]["values"]), ended.stderr


def main():
    row = "{:<24}{:>10}{:>9}{:>11}{:>13}{:>10}{:>14}{:>14}"
    for python in PYTHONS:
        version = subprocess.check_output([python, "-c", "import sys; print(sys.version.split()[0])"], text=True).strip()
        benchmarks = subprocess.check_output([python, "-c", WHERE], text=True).strip()
        print(f"Python {version}, times slower than untraced")
        print(row.format("", "untraced", "direct", "viztracer", "Python only", "cProfile", "/ viztracer", "/ Python only"))
        for name, loops in LOOPS.items():
            with tempfile.TemporaryDirectory() as directory:
                values = os.path.join(directory, "values.json")
                program = [os.path.join(benchmarks, f"bm_{name}", "run_benchmark.py"), "--worker", "--loops", str(loops)]
                program += ["--warmups", "1", "--values", "5", "-o", values]
                figures, said = {}, []
                for _ in range(ROUNDS):
                    for way, command in ways(python, directory, program).items():
                        seconds, words = took(command, values)
                        figures.setdefault(way, []).append(seconds)
                        if way == "direct":
                            events, lost = re.search(r": (\d+) events(?:.*?(\d+) lost)?", words).groups(default="0")
                            said.append((int(lost) / max(int(events) + int(lost), 1), int(events) + int(lost)))
                median = {way: statistics.median(seconds) for way, seconds in figures.items()}
                plain = median["untraced"]
                slower = [median[way] / plain for way in ("direct", "viztracer", "Python only", "cProfile")]
                added = median["direct"] - plain
                shares = [added / (median[way] - plain) for way in ("viztracer", "Python only")]
                cells = [f"{factor:.2f} ×" for factor in slower] + [f"{share:.2f}" for share in shares]
                print(row.format(name, f"{plain * 1000:.0f} ms", *cells), flush=True)
                lost = statistics.median(share for share, _ in said)
                print(f"    {said[-1][1] / 1e6:.1f} million events, {lost:.0%} lost", flush=True)


main()
