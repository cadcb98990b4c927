"""Functions that do nothing but call others, which return at once, in turns with one that works in C and calls none. Says how long each
of the two took, by the clock on the wall, when it is told to end.

sampled_calls.py [generators]: they resume generators instead."""

import json
import sys
import threading
import time

TOOK = {"calls": 0.0, "works": 0.0}


def innermost(value):
    return value + 1


def middle(value):
    return innermost(value) + innermost(value)


def numbers(most):
    yield from range(most)


def resume(value):
    return sum(number + value for number in numbers(3))


CALLED = resume if "generators" in sys.argv else middle


def calls():
    begun, called = time.perf_counter(), CALLED
    for value in range(2000):
        called(value)
    TOOK["calls"] += time.perf_counter() - begun


def works():
    begun = time.perf_counter()
    sum(range(20_000))
    TOOK["works"] += time.perf_counter() - begun


def main():
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    while not ended.is_set():
        calls()
        works()
    print(json.dumps(TOOK), flush=True)


main()
