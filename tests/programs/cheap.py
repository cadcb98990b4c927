"""A function that does nothing and is called often, beside a loop that takes about as long and calls nothing. Says in
nanoseconds how long each took by the program's own clock, at best."""

import json
import time

ROUNDS = 5
CALLS = 20_000


def leaf():
    pass


def cheap():
    for _ in range(CALLS):
        leaf()


def steady():
    total = 0
    for number in range(CALLS):
        total += number
    return total


def timed(function):
    begun = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - begun


took = {function.__name__: [] for function in (cheap, steady)}
for _ in range(ROUNDS):
    for function in (cheap, steady):
        took[function.__name__].append(timed(function))
print(json.dumps({name: min(times) for name, times in took.items()} | {"calls": CALLS}))
