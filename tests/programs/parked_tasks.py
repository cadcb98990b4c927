"""Has tasks of asyncio wait in known places, says what Python itself says of their stacks, and waits until its standard input is
closed.

A line of JSON: of each task that waits its name, what it awaits, and its stack as the chain of `cr_await` has it, the innermost
frame first, each as [function, file, line]; and the names of tasks that do not wait. A number as an argument adds so many tasks
that wait in the same place; `churn` another thread whose tasks change all the time.
"""

import asyncio
import contextlib
import gc
import inspect
import json
import os
import sys
import threading
import time
import traceback
import types

HOUR = 3600
lock = threading.Lock()


async def innermost():
    await asyncio.sleep(HOUR)


async def nested(depth):
    if depth:
        return await nested(
            depth - 1
        )
    await innermost()


async def numbers():
    yield 1
    await innermost()
    yield 2


async def in_an_async_generator():
    async for _ in numbers():
        pass


async def in_asend():
    generator = numbers()
    await generator.asend(None)
    await generator.asend(None)


async def in_athrow():
    async def catching():
        try:
            yield 1
        except ValueError:
            await innermost()

    generator = catching()
    await generator.asend(None)
    await generator.athrow(ValueError())


@contextlib.asynccontextmanager
async def context():
    await innermost()
    yield


async def in_a_context():
    async with context():
        pass


async def in_a_comprehension():
    return [number async for number in numbers()]


class Awaitable:
    def __await__(self):
        yield from innermost().__await__()


async def in_an_awaitable():
    await Awaitable()


@types.coroutine
def of_generators():
    x = [1]
    for _ in x:
        yield from innermost()


async def in_a_coroutine_of_generators():
    await of_generators()


async def in_gather():
    await asyncio.gather(*(nested(depth) for depth in range(3)))


async def in_a_queue():
    await asyncio.Queue().get()


async def in_wait_for():
    await asyncio.wait_for(innermost(), HOUR)


async def in_wait():
    await asyncio.wait([asyncio.ensure_future(innermost())])


async def in_an_executor():
    await asyncio.get_running_loop().run_in_executor(None, lock.acquire)


async def for_a_future(future):
    await future


async def soon_done():
    await asyncio.sleep(0)


class Inherited(asyncio.Task):
    pass


def named(name, coroutine):
    task = asyncio.ensure_future(coroutine)
    task.set_name(name)
    return task


async def one():
    await innermost()


async def several(count):
    tasks = [
        named(function.__name__, function())
        for function in (
            in_an_async_generator,
            in_asend,
            in_athrow,
            in_a_context,
            in_a_comprehension,
            in_an_awaitable,
            in_a_coroutine_of_generators,
            in_gather,
            in_a_queue,
            in_wait_for,
            in_wait,
            in_an_executor,
        )
    ]
    tasks += [
        named("näme", nested(0)),
        named("deep", nested(200)),
        named("plain", for_a_future(asyncio.get_running_loop().create_future())),
        named("waits for a task", for_a_future(tasks[0])),
        named("waits for a shield", for_a_future(asyncio.shield(tasks[1]))),
        Inherited(nested(1), loop=asyncio.get_running_loop(), name="inherited"),
        asyncio.ensure_future(nested(2)),
    ]
    done = [named("done", soon_done()) for _ in range(3)]
    tasks += [asyncio.ensure_future(one()) for _ in range(count)]
    await asyncio.wait(done)
    await asyncio.Event().wait()


async def blocks():
    """Its loop goes on with nothing else: others wait for their turn, or to begin."""
    tasks = [named("turn", soon_done())]
    await asyncio.sleep(0)
    tasks.append(named("not started", nested(0)))
    lock.acquire()


async def churns():
    await asyncio.wait([asyncio.ensure_future(forever(depth)) for depth in range(20)])


async def forever(depth):
    while True:
        await churn(depth)


async def churn(depth):
    if depth:
        await churn(depth - 1)
    await asyncio.sleep(0)


class Loop(threading.Thread):
    """A thread that runs a loop of its own."""

    def __init__(self, main):
        super().__init__(daemon=True)
        self.main = main
        self.loop = asyncio.new_event_loop()
        self.start()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.main)


def chain(awaited):
    """The frames from an awaitable on, the outermost first, and what the innermost awaits."""
    frames = []
    while True:
        kind = type(awaited).__name__
        for prefix, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(awaited, prefix + "_frame"):
                frame, then = getattr(awaited, prefix + "_frame"), getattr(awaited, following)
                break
        else:
            # What they stand for; some versions refer to the type, too.
            stands_for = [it for it in gc.get_referents(awaited) if not isinstance(it, type)]
            if kind == "FutureIter":
                (awaited,) = stands_for
            elif kind in ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow"):
                awaited = stands_for[0]
                continue
            return frames, awaited
        code = frame.f_code
        frames.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        if then is None:
            is_new = len(frames) == 1 and inspect.getcoroutinestate(awaited) == inspect.CORO_CREATED
            return frames, "start" if is_new else "turn"
        awaited = then


def told(task):
    frames, awaited = chain(task.get_coro())
    if isinstance(awaited, asyncio.Task):
        awaited = {"for": "task", "name": awaited.get_name()}
    elif isinstance(awaited, str):
        awaited = {"for": awaited}
    else:
        awaited = {"for": "object", "type": type(awaited).__name__}
    return {"name": task.get_name(), "awaits": awaited, "stack": frames[::-1]}


def waiting(loops, busy):
    tasks = [task for loop in loops for task in asyncio.all_tasks(loop.loop) if not task.done()]
    return [told(task) for task in tasks if task.get_name() not in busy]


def main(arguments):
    lock.acquire()
    busy = ["blocks"]
    count = int(arguments[0]) if arguments and arguments[0].isdigit() else 0

    async def blocked():
        asyncio.current_task().set_name("blocks")
        await blocks()

    loops = [Loop(several(count)), Loop(blocked())]
    was, same = None, 0
    while same < 20:
        time.sleep(0.01)
        try:
            now = waiting(loops, busy)
        except (AttributeError, RuntimeError):
            # Something went on while it was looked at.
            continue
        was, same = now, same + 1 if now == was and len(now) > 20 + count else 0
    if "churn" in arguments:
        loops.append(Loop(churns()))
    print(json.dumps({"tasks": was, "busy": busy}), flush=True)
    sys.stdin.read()


try:
    main(sys.argv[1:])
except BaseException:
    traceback.print_exc()
finally:
    # Threads that wait for ever are not waited for.
    os._exit(0)
