"""What `pystap dump` takes, and what it costs the process that is looked at.

The process (tests/programs/heartbeat.py) has so many threads that wait for a lock, one that looks at the clock every
millisecond, and a main thread that waits for its input. It tells the longest time between two looks at the clock: while nobody
looks at it, and while it is dumped again and again for as long. Beside that: the time that looking took as pystap says it
(`took_ms`, with --no-tasks), the whole command from its start to its end, and pystap's own processor time. Medians of twenty dumps.

Then a program that only computes, which says how much it works out in a second of its own processor time: undisturbed, and while
it is dumped again and again, a tenth of a second apart, in turns. What reading its memory costs it would be missing.

Last, a process with a million objects that its garbage collector knows and a thousand tasks of asyncio that wait: dumped with
them, and with --no-tasks.

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
TASKS = """
import asyncio, gc, sys
async def wait():
    await asyncio.sleep(3600)
async def serve():
    await wait()
async def main(objects, tasks):
    kept = [[] for _ in range(objects)]
    tasks = [asyncio.ensure_future(serve()) for _ in range(tasks)]
    await asyncio.sleep(0)
    gc.collect()
    print('ready', flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def dump(pystap, pid, *options):
    begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([pystap, "dump", "--json", *options, "-p", str(pid)], check=True, capture_output=True).stdout
    clock, now = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    process = json.loads(output)["processes"][0]
    marked = sum(thread["reading"] == "changed" for thread in process["threads"])
    parked = sum(tasks["count"] for tasks in process["tasks"] or [])
    return process["took_ms"], clock * 1000, processor * 1000, len(process["threads"]), marked, process["objects"] or 0, parked


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
        dumps += [dump(pystap, process.pid, "--no-tasks") for _ in range(DUMPS // ROUNDS)]
        touched.append(beat(process))
        time.sleep(time.monotonic() - begin)
        untouched.append(beat(process))
    process.stdin.close()
    process.wait()
    took, clock, processor, threads, marked, _, _ = (statistics.median(column) for column in zip(*dumps))
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


def parked(python, pystap, objects, tasks):
    process = subprocess.Popen(
        [python, "-c", TASKS, str(objects), str(tasks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    both = {"with tasks": [], "--no-tasks": []}
    for _ in range(DUMPS):
        for name, dumps in both.items():
            dumps.append(dump(pystap, process.pid, *[name] * name.startswith("--")))
    process.stdin.close()
    process.wait()
    for name, dumps in both.items():
        took, clock, processor, _, _, objects, tasks = (statistics.median(column) for column in zip(*dumps))
        print(f"| {name} | {int(objects)} | {int(tasks)} | {took:.1f} | {clock:.1f} | {processor:.1f} |", flush=True)


def main():
    python, pystap = sys.argv[1:]
    print("| threads | looking, ms | whole command, ms | processor time, ms | marked ~ | stood still untouched, ms | while dumped, ms |")
    print("|---|---|---|---|---|---|---|")
    for count in (1, 100, 1000):
        waiting(python, pystap, count)
    computing(python, pystap)
    print("\n| | objects | tasks | looking, ms | whole command, ms | processor time, ms |")
    print("|---|---|---|---|---|---|")
    for objects, tasks in ((0, 1), (1_000_000, 1000)):
        parked(python, pystap, objects, tasks)


main()
