"""A coroutine that sleeps 0.3 s, in several tasks, and a generator: what their clocks say from first call to end."""

import asyncio
import json
import time

took = []


async def inner():
    await asyncio.sleep(0.1)


async def handle():
    begin = time.perf_counter_ns()
    await inner()
    await asyncio.sleep(0.1)
    await inner()
    took.append(time.perf_counter_ns() - begin)


async def main():
    await asyncio.gather(*(handle() for _ in range(5)))


asyncio.run(main())
print(json.dumps({"took": took}))
