"""Garbage collections, and no others than these.

Shape: automatic collection is off; collect_all() runs gc.collect() five times (generation 2), each finding one cycle of
two objects and more that belong to them; collect_young() runs gc.collect(0) three times (generation 0). The process ends
without the interpreter's own last collections. Collections before "collecting" is printed belong to start-up.
"""

import gc
import json
import os
import sys


class Node:
    pass


def make_cycle():
    a, b = Node(), Node()
    a.other, b.other = b, a


def collect_all():
    found = []
    for _ in range(5):
        make_cycle()
        found.append(gc.collect())
    return found


def collect_young():
    return [gc.collect(0) for _ in range(3)]


gc.disable()
# What start-up left behind is collected by a full collection later; freezing takes it out of the picture.
gc.freeze()
print("collecting")
full = collect_all()
young = collect_young()
print(
    json.dumps(
        {
            "calls": {"collect_all": 1, "collect_young": 1, "make_cycle": 5},
            "collections": {"2": len(full), "0": len(young)},
            "collected": {"2": full, "0": young},
        }
    )
)
sys.stdout.flush()
os._exit(0)
