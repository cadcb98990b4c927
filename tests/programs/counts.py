"""A process that calls tick() over and over until its standard input is closed, then says how often it did.

The interval is short, so that a tracer that attaches sees events at once and a slow reader falls behind.
"""

import json
import os
import select
import sys

interval = float(sys.argv[1])
ticks = 0


def tick():
    global ticks
    ticks += 1


print("ready", flush=True)
tick()
while not select.select([sys.stdin], [], [], interval)[0]:
    tick()
os.read(0, 1)
print(json.dumps({"calls": {"tick": ticks}}), flush=True)
