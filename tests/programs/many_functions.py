"""Calls functions that do little, one after the other in an order that is no order, and says as its last line, in JSON, how many
nanoseconds a call takes by the program's own clock: the least of several turns, with a pause after each in which a tracer can catch
up. The more functions there are, the less of what a call needs is in the processor's caches.

Usage: many_functions.py FUNCTIONS CALLS TURNS."""

import json
import random
import sys
import time

FUNCTIONS, CALLS, TURNS = (int(argument) for argument in sys.argv[1:4])


def functions():
    code = "".join(f"def f{at}(a, b):\n    c = a + {at}\n    return c * b\n" for at in range(FUNCTIONS))
    namespace = {}
    exec(compile(code, "made.py", "exec"), namespace)
    return [namespace[f"f{at}"] for at in range(FUNCTIONS)]


def turn(order):
    for function in order:
        function(3, 4)


def main():
    random.seed(1)
    order = random.choices(functions(), k=CALLS)
    least = None
    for _ in range(TURNS):
        begun = time.perf_counter_ns()
        turn(order)
        took = time.perf_counter_ns() - begun
        least = took if least is None else min(least, took)
        time.sleep(0.03)
    print(json.dumps({"call_ns": least / CALLS}))


main()
