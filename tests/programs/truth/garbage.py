"""Garbage collections that the interpreter begins by itself and that are asked for, counted by generation with its own hook.

The last line is the truth: {"python": VERSION, "counted": {GENERATION: COUNT}, "before": {GENERATION: COUNT}}. Before are those
since the interpreter started, of which a session may have missed some.
"""

import gc
import json
import sys

before = {generation: of["collections"] for generation, of in enumerate(gc.get_stats())}
counted = {generation: 0 for generation in before}


def count(phase, about):
    if phase == "start":
        counted[about["generation"]] += 1


gc.callbacks.append(count)
kept = [[number] for number in range(100000)]
for _ in range(20000):
    cycle = []
    cycle.append(cycle)
for generation in (0, 1, 2):
    gc.collect(generation)
gc.callbacks.remove(count)
gc.disable()
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "counted": counted, "before": before}))
