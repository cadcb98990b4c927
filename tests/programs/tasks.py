"""Tasks of asyncio that take turns.

Shape: five tasks run work(), which lets the others go on three times and calls step() after each; so work() is entered
four times a task, as far as resumptions are entries (up to 3.11), and step() three times.
"""

import asyncio
import json

TASKS = 5
TURNS = 3


def step():
    pass


async def work():
    for _ in range(TURNS):
        await asyncio.sleep(0)
        step()


async def main():
    await asyncio.gather(*(work() for _ in range(TASKS)))


asyncio.run(main())
print(json.dumps({"entries": {"work": TASKS * (TURNS + 1), "step": TASKS * TURNS}}))
