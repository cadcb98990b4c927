"""A process in which other tools have all the tool ids of sys.monitoring. Works until its input ends, then says whether
they still have them."""

import json
import select
import sys

names = ["tool%d" % tool for tool in range(6)]
for tool, name in enumerate(names):
    sys.monitoring.use_tool_id(tool, name)


def work():
    return sum(range(10))


print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    work()
print(json.dumps({"unharmed": [sys.monitoring.get_tool(tool) for tool in range(6)] == names}), flush=True)
