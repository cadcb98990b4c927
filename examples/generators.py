"""Frames that are left and entered again, and frames that are left by an exception.

Shape:
- count() is a generator: created once, resumed three times (two values, then the end);
- pause() is a coroutine with one real suspension: created once, resumed twice;
- outer() calls middle() calls inner(), which raises; outer() catches: three calls, two frames left by the exception;
- Point.__init__ is called once, by calling the class.

What the marks show differs by version. "entries" below is the number of function__entry marks for each function: up to
3.11 (there with the line mark's semaphore raised) creating a generator or a coroutine enters nothing, so only resumptions
count; in 3.15 the creation is an entry of its own, for which there is no return. 3.12 to 3.14 have no such marks.
"""

import json
import sys

calls = {"count": 1, "pause": 1, "outer": 0, "middle": 0, "inner": 0, "__init__": 0}
resumed = {"count": 0, "pause": 0}


class Suspend:
    def __await__(self):
        return iter([None])


class Point:
    def __init__(self):
        calls["__init__"] += 1


def count():
    resumed["count"] += 1
    yield 1
    resumed["count"] += 1
    yield 2
    resumed["count"] += 1


async def pause():
    resumed["pause"] += 1
    await Suspend()
    resumed["pause"] += 1


def inner():
    calls["inner"] += 1
    raise ValueError("on purpose")


def middle():
    calls["middle"] += 1
    inner()


def outer():
    calls["outer"] += 1
    try:
        middle()
    except ValueError:
        return "caught"


for value in count():
    print("count() gave", value)
coroutine = pause()
coroutine.send(None)
try:
    coroutine.send(None)
except StopIteration:
    print("pause() ended")
print("outer()", outer())
Point()

entries = {
    name: resumed[name] + (sys.version_info >= (3, 15)) if name in resumed else calls[name]
    for name in calls
}
print(json.dumps({"calls": calls, "resumed": resumed, "entries": entries}))
