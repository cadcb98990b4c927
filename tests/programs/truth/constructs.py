"""Every construct whose calls a tracer can get wrong, each counting its own calls and measuring them with its own clock.

Usage: constructs.py

The last line that it prints is the truth: {"python": VERSION, "constructs": {CONSTRUCT: {FUNCTION: [NANOSECONDS...]}},
"endings": {FUNCTION: WORDS}, "created": {FUNCTION: COUNT}}.
There is one number for each stay of the function on the stack, in the order in which the stays end: a generator or
coroutine has one for each resumption. What is not to be had in this Python is missing (greenlets without greenlet). Only
code of this file is measured; stays differ in length, so that a return that was taken for that of another call shows.

Generators that are closed or dropped are a special case: where none of their code runs, no stay is stated. How they were ended
is in `endings`. All of that is done once more beside a profiler, as functions of a file that is called `profiled.py`.
"""

import asyncio
import ctypes
import functools
import json
import os
import sys
import threading
import time

clock = time.perf_counter_ns
constructs = {}
construct = ""

# What the table of endings says of each: generators that are closed or dropped, by the function that they are of.
endings = {
    "close_at_yield": "close() at a plain yield",
    "close_in_finally": "close() within try",
    "drop_at_yield": "dropped at a plain yield",
    "drop_in_finally": "dropped within try",
    "close_unstarted": "close() before the start",
    "close_coroutine": "close() of a coroutine at await",
}
# How many generators and coroutines of each function are made.
created = {"values": 1, "delegating": 1, "handles": 2, "fails": 2, "waits": 4, "produces": 2}
created.update((name, 3) for name in endings)


def ended(name, begun):
    """Notes the end of a stay of this function."""
    spent = clock() - begun
    constructs.setdefault(construct, {}).setdefault(name, []).append(spent)


def work(number):
    """Takes 4, 7, 10 … ms: lengths that cannot be taken for each other. (In a name that no table looks at.)"""
    time.sleep(0.004 + 0.003 * (number % 4))


# plain


def plain(number):
    begun = clock()
    work(number)
    ended("plain", begun)


class Made:
    def __init__(self, number):
        begun = clock()
        work(number)
        ended("__init__", begun)

    @property
    def value(self):
        begun = clock()
        work(1)
        ended("value", begun)


def plainly():
    for number in range(5):
        plain(number)
    for number in range(3):
        Made(number).value


# recursion


def recurse(depth):
    begun = clock()
    if depth:
        recurse(depth - 1)
    work(depth)
    ended("recurse", begun)


def recursion():
    recurse(0)
    recurse(6)


def recurse_at_once(depth):
    """Calls itself before it has ever returned."""
    begun = clock()
    if depth:
        recurse_at_once(depth - 1)
    work(depth)
    ended("recurse_at_once", begun)


# exception


def raises(number):
    begun = clock()
    work(number)
    ended("raises", begun)
    raise ValueError(number)


def passes_on(number):
    begun = clock()
    try:
        raises(number)
    finally:
        work(number + 1)
        ended("passes_on", begun)


def catches(number):
    begun = clock()
    try:
        passes_on(number)
    except ValueError:
        work(number + 2)
    ended("catches", begun)


# callback: Python that C calls, on the same thread


def key(number):
    begun = clock()
    work(number)
    ended("key", begun)
    return -number


def compare(one, other):
    begun = clock()
    work(one[0])
    ended("compare", begun)
    return one[0] - other[0]


def mapped(number):
    begun = clock()
    work(number)
    ended("mapped", begun)
    return number


def callbacks():
    sorted([1, 3, 2, 0], key=key)
    functools.reduce(lambda one, other: one + other, map(mapped, range(4)))
    numbers = (ctypes.c_int * 3)(2, 1, 0)
    comparing = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))(compare)
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), comparing)


# generator


def values(count):
    begun = clock()
    for number in range(count):
        work(number)
        ended("values", begun)
        yield number
        begun = clock()
    ended("values", begun)


def delegating():
    begun = clock()
    work(0)
    ended("delegating", begun)
    yield 0
    begun = clock()
    work(2)
    ended("delegating", begun)


def generate():
    for _ in values(3):
        work(0)
    for _ in delegating():
        work(1)


# throw into a generator


def handles():
    begun = clock()
    try:
        work(0)
        ended("handles", begun)
        yield 1
    except ValueError:
        begun = clock()
        work(1)
        ended("handles", begun)
        yield 2
    begun = clock()
    work(2)
    ended("handles", begun)


def fails():
    begun = clock()
    try:
        work(0)
        ended("fails", begun)
        yield 1
    finally:
        begun = clock()
        work(1)
        ended("fails", begun)


def throw():
    for _ in range(2):
        generator = handles()
        next(generator)
        generator.throw(ValueError("handled"))
        next(generator, None)
        generator = fails()
        next(generator)
        try:
            generator.throw(ValueError("not handled"))
        except ValueError:
            pass


# close of a generator


def close_at_yield():
    begun = clock()
    work(0)
    ended("close_at_yield", begun)
    yield 1


def close_in_finally():
    begun = clock()
    try:
        work(1)
        ended("close_in_finally", begun)
        yield 1
    finally:
        begun = clock()
        work(2)
        ended("close_in_finally", begun)


def drop_at_yield():
    begun = clock()
    work(0)
    ended("drop_at_yield", begun)
    yield 1


def drop_in_finally():
    begun = clock()
    try:
        work(1)
        ended("drop_in_finally", begun)
        yield 1
    finally:
        begun = clock()
        work(2)
        ended("drop_in_finally", begun)


def close_unstarted():
    yield 1


async def close_coroutine():
    begun = clock()
    work(0)
    ended("close_coroutine", begun)
    await Suspended()


class Suspended:
    def __await__(self):
        return iter([None])


def close():
    for _ in range(3):
        for make in (close_at_yield, close_in_finally):
            generator = make()
            next(generator)
            generator.close()
        for make in (drop_at_yield, drop_in_finally):
            generator = make()
            next(generator)
            del generator
        close_unstarted().close()
        coroutine = close_coroutine()
        coroutine.send(None)
        coroutine.close()


# coroutine and asynchronous generator


async def waits(number):
    begun = clock()
    work(number)
    ended("waits", begun)
    await asyncio.sleep(0.005)
    begun = clock()
    work(number + 1)
    ended("waits", begun)


async def produces(count):
    begun = clock()
    for number in range(count):
        work(number)
        ended("produces", begun)
        await asyncio.sleep(0)
        begun = clock()
        work(number + 1)
        ended("produces", begun)
        yield number
        begun = clock()
    ended("produces", begun)


async def consumes(count):
    async for number in produces(count):
        work(number)


def coroutines():
    async def together():
        await asyncio.gather(*[waits(number) for number in range(4)])

    asyncio.run(together())


def asynchronous_generators():
    async def both():
        await asyncio.gather(consumes(3), consumes(2))

    asyncio.run(both())


# greenlet


def sleeps(switch, number):
    begun = clock()
    work(number)
    switch()
    work(number)
    ended("sleeps", begun)


def job(switch, number):
    begun = clock()
    sleeps(switch, number)
    work(number)
    switch()
    ended("job", begun)


def greenlets():
    import greenlet

    main = greenlet.getcurrent()
    waiting = [greenlet.greenlet(job) for _ in range(5)]
    for number, green in enumerate(waiting):
        green.switch(main.switch, number)
    # They end in another order than they began, and their calls cross.
    while waiting:
        green = waiting.pop(len(waiting) // 2)
        green.switch()
        if not green.dead:
            waiting.insert(0, green)


# threads: of Python's, and of C's


def in_thread(number):
    begun = clock()
    work(number)
    ended("in_thread", begun)


def threads():
    for number in range(4):
        thread = threading.Thread(target=in_thread, args=(number,))
        thread.start()
        thread.join()


def in_foreign_thread(_):
    begun = clock()
    work(2)
    ended("in_foreign_thread", begun)
    return 0


def foreign_threads():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "pthread_create"):
        libc = ctypes.CDLL("libpthread.so.0")
    callback = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(in_foreign_thread)
    for _ in range(3):
        thread = ctypes.c_ulong()
        assert libc.pthread_create(ctypes.byref(thread), None, callback, None) == 0
        assert libc.pthread_join(thread, None) == 0


# code that is compiled while the program runs


def compiling():
    source = "def compiled(number):\n    begun = clock()\n    work(number)\n    ended('compiled', begun)\n"
    exec(compile(source, __file__, "exec"), globals())
    for number in range(4):
        compiled(number)  # noqa: F821


# fork, and a new program


def in_child(number):
    begun = clock()
    work(number)
    ended("in_child", begun)


def in_program(number):
    begun = clock()
    work(number)
    ended("in_program", begun)


def told_by(child):
    """What a child tells of its stays, through a pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            constructs.clear()
            child(writing)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        told = json.load(pipe)
    assert os.waitpid(pid, 0)[1] == 0
    for name, stays in told.items():
        constructs.setdefault(construct, {}).setdefault(name, []).extend(stays)


def tell(descriptor):
    os.write(descriptor, json.dumps(constructs.pop(construct)).encode())
    os._exit(0)


def forks():
    def child(descriptor):
        for number in range(3):
            in_child(number)
        tell(descriptor)

    told_by(child)
    told_by(child)


def programs():
    def child(descriptor):
        os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), str(descriptor)])

    told_by(child)
    told_by(child)


def new_program(descriptor):
    global construct
    construct = "exec"
    for number in range(3):
        in_program(number)
    tell(descriptor)


def beside_a_profiler():
    with open(__file__) as file:
        code = compile(file.read(), os.path.join(os.path.dirname(__file__), "profiled.py"), "exec")
    exec(code, {"__name__": "profiled", "__file__": __file__})


def main():
    global construct
    if __name__ == "profiled":
        sys.setprofile(lambda *_: None)
        close()
        sys.setprofile(None)
        return
    if len(sys.argv) > 1:
        new_program(int(sys.argv[1]))
    for name, run in [
        ("plain", plainly),
        ("recursion", recursion),
        ("first recursion", lambda: recurse_at_once(4)),
        ("exception", lambda: [catches(number) for number in range(3)]),
        ("callback", callbacks),
        ("compiled", compiling),
        ("generator", generate),
        ("throw", throw),
        ("close", close),
        ("coroutine", coroutines),
        ("async generator", asynchronous_generators),
        ("greenlet", greenlets),
        ("thread", threads),
        ("C thread", foreign_threads),
        ("fork", forks),
        ("exec", programs),
    ]:
        construct = name
        try:
            run()
        except ImportError:
            pass
    beside_a_profiler()
    version = "%d.%d.%d" % sys.version_info[:3]
    print(json.dumps({"python": version, "constructs": constructs, "endings": endings, "created": created}))


main()
