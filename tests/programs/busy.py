"""A process that works all the time in its main thread, has another one that waits for a lock, and answers lines of its
input: "speed" with the nanoseconds that a call takes at best. It ends when its input does, and says that all is well.
"""

import json
import select
import sys
import threading
import time

released = threading.Event()


def leaf(number):
    return number


def work(count):
    for number in range(count):
        leaf(number)


def wait():
    released.wait()
    # Code that runs only now: whatever was asked of this thread while it slept comes first.
    work(10)


def speed():
    best = None
    for _ in range(50):
        begun = time.perf_counter_ns()
        work(2000)
        taken = (time.perf_counter_ns() - begun) / 2000
        best = taken if best is None else min(best, taken)
    return best


def main():
    waiter = threading.Thread(target=wait)
    waiter.start()
    print("ready", flush=True)
    while True:
        work(500)
        if not select.select([sys.stdin], [], [], 0)[0]:
            continue
        if not sys.stdin.buffer.raw.read(100):
            break
        print(speed(), flush=True)
    released.set()
    waiter.join()
    print(json.dumps({"unharmed": True}), flush=True)


main()
