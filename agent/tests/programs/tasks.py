"""Tasks that take turns, are cancelled, time out, and run things in threads."""

import asyncio
import contextvars

variable = contextvars.ContextVar("variable", default=0)


def leaf(number):
    return number


async def step(number):
    leaf(number)
    await asyncio.sleep(0)
    return leaf(number)


async def worker(number):
    variable.set(number)
    for _ in range(5):
        await step(number)


async def forever():
    try:
        await asyncio.sleep(3600)
    finally:
        leaf(0)


async def main():
    await asyncio.gather(*(worker(number) for number in range(10)))
    task = asyncio.ensure_future(forever())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    try:
        await asyncio.wait_for(forever(), 0.01)
    except asyncio.TimeoutError:
        pass
    await asyncio.get_running_loop().run_in_executor(None, leaf, 1)


asyncio.run(main())
