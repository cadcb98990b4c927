"""A process that knows for how long it stood still: a thread of its own looks at the clock every millisecond.

It answers each line of its input, after a call of leaf(), with the longest time between two looks, in milliseconds, and
with how often it has looked; the longest time begins anew then. Further threads sleep: as many as the argument says. With
"busy" as the second one the main thread works while nothing is asked. It ends when its input does, and says whether all
that it worked out was right.
"""

import json
import os
import select
import sys
import threading
import time

longest = 0
beats = 0
ended = threading.Event()


def beat():
    global longest, beats
    last = time.monotonic_ns()
    while not ended.is_set():
        time.sleep(0.001)
        now = time.monotonic_ns()
        longest = max(longest, now - last)
        last = now
        beats += 1


def leaf(number):
    return number + 1


def answer():
    global longest
    was, longest = longest, 0
    leaf(beats)
    print(json.dumps({"longest": was / 1e6, "beats": beats, "pid": os.getpid()}), flush=True)


def work():
    """What every register of the interpreter has a part in: integers, floating point, hashes, containers."""
    total, mean, seen = 0, 0.0, {}
    for number in range(1000):
        total += leaf(number)
        mean += (number - mean) / (number + 1)
        seen[str(number)] = number * 1.5
    return total, mean, sum(seen.values()), len(seen)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    busy = sys.argv[2:] == ["busy"]
    right, expected = True, work()
    threading.stack_size(256 * 1024)
    for _ in range(count):
        threading.Thread(target=ended.wait).start()
    beating = threading.Thread(target=beat)
    beating.start()
    print("ready", flush=True)
    while True:
        while busy and not select.select([sys.stdin], [], [], 0)[0]:
            right = right and work() == expected
        if not sys.stdin.buffer.raw.read(100):
            break
        answer()
    ended.set()
    beating.join()
    print(json.dumps({"unharmed": right}), flush=True)


main()
