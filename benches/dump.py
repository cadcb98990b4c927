"""What `pystap dump` takes, and what it costs the process that is looked at.

The process (tests/programs/heartbeat.py) has so many threads that wait for a lock, one that looks at the clock every
millisecond, and a main thread that waits for its input. It tells the longest time between two looks at the clock: while nobody
looks at it, and while it is dumped again and again for as long. Beside that: the time that looking took as pystap says it
(`took_ms`), the whole command from its start to its end, and pystap's own processor time. Medians of twenty dumps.

Then a program that only computes, which says how much it works out in a second of its own processor time: undisturbed, and while
it is dumped again and again, a tenth of a second apart, in turns. What reading its memory costs it would be missing.

    dump.py PYTHON PYSTAP
"""

import json
import resource
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

DUMPS = 20
ROUNDS = 5
HERE = Path(__file__).resolve().parent.parent
WORK = """
import sys
from time import thread_time
def work():
    total = 0
    for number in range(1000):
        total += number
    return total
for line in sys.stdin:
    end, done = thread_time() + float(line), 0
    while thread_time() < end:
        work()
        done += 1
    print(done, flush=True)
"""


def dump(pystap, pid):
    begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([pystap, "dump", "--json", "-p", str(pid)], check=True, capture_output=True).stdout
    clock, now = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    process = json.loads(output)["processes"][0]
    marked = sum(thread["reading"] == "changed" for thread in process["threads"])
    return process["took_ms"], clock * 1000, processor * 1000, len(process["threads"]), marked


def beat(process):
    process.stdin.write("beat\n")
    return json.loads(process.stdout.readline())["longest"]


def waiting(python, pystap, count):
    process = subprocess.Popen(
        [python, HERE / "tests/programs/heartbeat.py", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdout.readline() == "ready\n"
    untouched, touched, dumps = [], [], []
    for _ in range(ROUNDS):
        beat(process)
        begin = time.monotonic()
        dumps += [dump(pystap, process.pid) for _ in range(DUMPS // ROUNDS)]
        touched.append(beat(process))
        time.sleep(time.monotonic() - begin)
        untouched.append(beat(process))
    process.stdin.close()
    process.wait()
    took, clock, processor, threads, marked = (statistics.median(column) for column in zip(*dumps))
    print(
        f"| {int(threads)} | {took:.1f} | {clock:.1f} | {processor:.1f} | {int(marked)} "
        f"| {statistics.median(untouched):.1f} | {statistics.median(touched):.1f} |",
        flush=True,
    )


def computing(python, pystap):
    process = subprocess.Popen(
        [python, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    alone, watched = [], []
    for _ in range(ROUNDS):
        process.stdin.write("1\n")
        alone.append(int(process.stdout.readline()))
        process.stdin.write("1\n")
        while not select.select([process.stdout], [], [], 0.1)[0]:
            dump(pystap, process.pid)
        watched.append(int(process.stdout.readline()))
    process.stdin.close()
    process.wait()
    print(f"\nworked out in a second of its own processor time: {max(alone)} undisturbed, {max(watched)} while it is dumped")


def main():
    python, pystap = sys.argv[1:]
    print("| threads | looking, ms | whole command, ms | processor time, ms | marked ~ | stood still untouched, ms | while dumped, ms |")
    print("|---|---|---|---|---|---|---|")
    for count in (1, 100, 1000):
        waiting(python, pystap, count)
    computing(python, pystap)


main()
