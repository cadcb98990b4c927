"""Parts that spend their time in different ways. Says of each as its last line, in JSON: the least of several turns in nanoseconds by
the program's own clock, and the calls and returns of a turn, its own return among them.

Usage: parts.py [TURNS [PART]]. With a part, that one alone takes turns, without a pause."""

import json
import sys
import time

TURNS = int(sys.argv[1]) if sys.argv[1:] else 300
# So few that most turns are over before anything else gets the processor.
CALLS = 100


def leaf():
    pass


def empty():
    for _ in range(4 * CALLS):
        leaf()


def inner():
    pass


def middle():
    inner()


def outer():
    middle()


def nested():
    for _ in range(CALLS):
        outer()


def work():
    total = 0
    for number in range(20):
        total += number
    return total


def working():
    for _ in range(CALLS // 2):
        work()


def steady():
    total = 0
    for number in range(8 * CALLS):
        total += number
    return total


PARTS = {
    empty: 8 * CALLS + 1,
    nested: 6 * CALLS + 1,
    working: CALLS + 1,
    steady: 1,
}


def timed(function):
    begun = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - begun


shown = [part for part in PARTS if part.__name__ in sys.argv[2:]]
least = {}
for _ in range(TURNS):
    for part in shown or PARTS:
        took = timed(part)
        least[part] = min(took, least.get(part, took))
    if not shown:
        # So that whoever reads the events keeps up.
        time.sleep(0.002)
print(json.dumps({part.__name__: {"least_ns": took, "events": PARTS[part]} for part, took in least.items()}))
