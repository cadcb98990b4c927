"""Functions that share name and file: what each was called and took, by the line where it begins, as its own clock has it."""

import dataclasses
import functools
import json
import time

took = {}


def nap(which, seconds):
    begin = time.perf_counter_ns()
    time.sleep(seconds)
    calls, ns = took.get(which, (0, 0))
    took[which] = (calls + 1, ns + time.perf_counter_ns() - begin)


class Thing:
    @property
    def value(self):
        nap("getter", 0.002)
        return 1

    @value.setter
    def value(self, new):
        nap("setter", 0.02)


@functools.singledispatch
def show(what):
    raise TypeError


@show.register
def _(what: int):
    nap("of int", 0.002)


@show.register
def _(what: str):
    nap("of str", 0.02)


quick = lambda: nap("quick", 0.002)
slow = lambda: nap("slow", 0.02)


def briefly(function):
    def wrapper():
        nap("briefly", 0.002)
        return function()

    return wrapper


def long(function):
    def wrapper():
        nap("long", 0.02)
        return function()

    return wrapper


def nothing():
    return None


@dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Size:
    width: int


class Few:
    def items(self):
        for item in range(3):
            nap("few", 0.002)
            yield item
        yield 3


class Many:
    def items(self):
        yield from ()
        for item in range(20):
            nap("many", 0.002)
            yield item


if __name__ == "__main__":
    briefly_wrapped, long_wrapped = briefly(nothing), long(nothing)
    thing = Thing()
    for turn in range(5):
        thing.value
        show(1)
        quick()
        briefly_wrapped()
        Point(1), Size(2)
        if turn % 2:
            thing.value = 2
            show("a")
            slow()
            long_wrapped()
    few, many = Few().items(), Many().items()
    for item in many:
        next(few, None)
    next(few, None)
    code = {
        "getter": Thing.value.fget.__code__,
        "setter": Thing.value.fset.__code__,
        "of int": show.dispatch(int).__code__,
        "of str": show.dispatch(str).__code__,
        "quick": quick.__code__,
        "slow": slow.__code__,
        "briefly": briefly_wrapped.__code__,
        "long": long_wrapped.__code__,
        "few": Few.items.__code__,
        "many": Many.items.__code__,
    }
    # A generator is entered once more than it yields.
    more = {"few": 2, "many": 1}
    said = [
        {
            "function": code.co_name,
            "line": code.co_firstlineno,
            "calls": took[which][0] + more.get(which, 0),
            "ns": took[which][1],
            "resumed": which in more,
        }
        for which, code in code.items()
    ]
    print(json.dumps({"namesakes": said, "made": 10}))
