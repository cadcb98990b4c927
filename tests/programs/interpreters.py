"""Calls functions in interpreters within its interpreter, one after another and beside each other, and prints how often `leaf`
was called in each: what it counts itself. From 3.13 on.

    interpreters.py [FILE]

With a file, an interpreter first waits in a call until the file is gone. That it waits is printed.
"""

import json
import os
import sys
import threading

import _interpreters as interpreters

INNER = """
import gc, os, time
made = 0
def leaf(number):
    global made
    made += 1
    return number
def failing(number):
    leaf(number)
    raise ValueError(number)
def steps(number):
    for step in range(3):
        yield step
def work(calls):
    for number in range(calls):
        leaf(number)
        for _ in steps(number): pass
    try: failing(calls)
    except ValueError: pass
def linger(path):
    while os.path.exists(path):
        time.sleep(0.001)
    work(10)
"""


def run(within, code):
    failure = interpreters.run_string(within, code)
    assert not failure, failure


def make(kind):
    within = interpreters.create(kind)
    run(within, f"exec(compile({INNER!r}, {__file__!r}, 'exec'))")
    return within


def made_in(within):
    """What it has counted."""
    reader, writer = os.pipe()
    run(within, f"import os\nos.write({writer}, str(made).encode())")
    return int(os.read(reader, 20))


def outer(within, code):
    run(within, code)


def once(kind, calls, truth):
    within = make(kind)
    outer(within, f"work({calls})")
    truth[within] = made_in(within)
    interpreters.destroy(within)


def main():
    truth = {}
    lasting = None
    if len(sys.argv) > 1:
        lasting = make("isolated")
        waiter = threading.Thread(target=outer, args=(lasting, f"linger({sys.argv[1]!r})"))
        waiter.start()
        print("ready", flush=True)
        waiter.join()
        truth[lasting] = made_in(lasting)
    for at in range(20):
        once(("isolated", "legacy")[at % 2], 10 + at, truth)
    kinds = ["isolated", "isolated", "isolated", "legacy"] * 2
    jobs = [threading.Thread(target=once, args=(kind, 2000 + at, truth)) for at, kind in enumerate(kinds)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    # Ends with the program.
    last = make("isolated")
    outer(last, "gc.collect()\nwork(5)")
    truth[last] = made_in(last)
    print(json.dumps({"leaf": truth}))


main()
