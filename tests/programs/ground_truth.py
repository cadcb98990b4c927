"""Runs a program and records every call and return from the inside, with the truth about each function's times.

Usage: ground_truth.py PROGRAM [ARGUMENT...]

PROGRAM is a path, or `:asyncio`, `:exceptions`, `:parsing`, `:eventlet`. Standard output is a stream as pystap writes it
(session, events, summary) and then one line {"truth": {FILE: {"FUNCTION:FIRST LINE": [calls, own, inclusive, all]}}}, in
nanoseconds: own time, time with what was called (recursion once), and the durations of all calls. The truth is kept by frame object
and by greenlet, not by matching names. What the program prints goes to standard error.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import threading
import time

now = time.perf_counter_ns
records = []
native_id = threading.get_native_id


def greenlet_of():
    return 0


def profile(frame, kind, _):
    if kind == "call" or kind == "return":
        code = frame.f_code
        records.append((now(), kind, native_id(), greenlet_of(), frame, code, frame.f_lineno))


def asyncio_program():
    import asyncio

    async def leaf(n):
        await asyncio.sleep(0.001 * (n % 3))
        return sum(range(n * 100))

    async def worker(queue, results):
        while True:
            n = await queue.get()
            if n is None:
                return
            results.append(await leaf(n))

    async def numbers(n):
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    async def main():
        queue, results = asyncio.Queue(), []
        workers = [asyncio.ensure_future(worker(queue, results)) for _ in range(4)]
        async for n in numbers(40):
            await queue.put(n)
        for _ in workers:
            await queue.put(None)
        await asyncio.gather(*workers)
        try:
            await asyncio.wait_for(asyncio.sleep(10), 0.01)
        except asyncio.TimeoutError:
            results.append("timeout")

    asyncio.run(main())


def exceptions_program():
    def raises(n):
        if n == 0:
            raise ValueError(n)
        try:
            raises(n - 1)
        finally:
            sum(range(50))

    def numbers():
        try:
            while True:
                yield len(str(2**100))
        except KeyError:
            yield "thrown"
        finally:
            sum(range(10))

    def walk(depth):
        yield depth
        if depth:
            yield from walk(depth - 1)
            yield from walk(depth - 1)

    for n in range(20):
        with contextlib.suppress(ValueError):
            raises(n)
    for _ in range(20):
        generator = numbers()
        next(generator), next(generator)
        generator.throw(KeyError)
        generator.close()
    list(walk(6))
    abandoned = walk(3)
    next(abandoned)
    del abandoned


def parsing_program():
    import ast
    import json.decoder
    import json.scanner
    import tokenize

    source = open(ast.__file__).read()
    tree = ast.parse(source)
    ast.unparse(tree)
    list(tokenize.generate_tokens(io.StringIO(source).readline))
    json.decoder.scanstring = json.decoder.py_scanstring
    json.scanner.py_make_scanner(json.decoder.JSONDecoder())
    json.dumps([{"a": list(range(50))}] * 20, indent=2)


def eventlet_program():
    import eventlet
    from eventlet import queue

    todo, done = queue.Queue(), []

    def busy(n):
        return sum(range(n * 200))

    def recurse(n):
        if n:
            eventlet.sleep(0)
            return recurse(n - 1) + busy(n)
        return 0

    def worker():
        while True:
            n = todo.get()
            if n is None:
                return
            done.append(recurse(n))
            eventlet.sleep(0.001)

    threads = [eventlet.spawn(worker) for _ in range(5)]
    for n in range(40):
        todo.put(n % 5)
        if n % 7 == 0:
            eventlet.sleep(0)
    for _ in threads:
        todo.put(None)
    for thread in threads:
        thread.wait()
    with eventlet.Timeout(0.01, False):
        eventlet.sleep(10)


def run(program, arguments):
    named = {
        ":asyncio": asyncio_program,
        ":exceptions": exceptions_program,
        ":parsing": parsing_program,
        ":eventlet": eventlet_program,
    }.get(program)
    if named is eventlet_program:
        global greenlet_of
        # Loaded before recording begins, as in a service that somebody attaches to.
        import eventlet
        import greenlet

        eventlet.sleep(0)
        greenlet_of = greenlet.getcurrent
    sys.argv = [program, *arguments]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        named() if named else runpy.run_path(program, run_name="__main__")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


class Times:
    def __init__(self):
        self.calls = self.own = self.inclusive = self.all = 0


def truth_of(records):
    """Times by (file, name, first line), and the events that belong to frames whose call was seen."""
    stacks, functions, running, events = {}, {}, {}, []
    for at, kind, tid, green, frame, code, line in records:
        name = code.co_filename, code.co_name, code.co_firstlineno
        stack = stacks.setdefault((tid, id(green)), [])
        times = functions.setdefault(name, Times())
        last = running.get(tid)
        if last is not None and last[1] is not None:
            last[1].own += at - last[0]
        if kind == "call":
            times.calls += 1
            stack.append((frame, name, at, times))
        elif stack and stack[-1][0] is frame:
            _, _, since, _ = stack.pop()
            times.all += at - since
            if not any(other[1] == name for other in stack):
                times.inclusive += at - since
        running[tid] = at, stack[-1][3] if stack else None
        events.append((at, kind, tid, name, line))
    return functions, events


def main():
    out, sys.stdout = sys.stdout, sys.stderr
    run(sys.argv[1], sys.argv[2:])
    functions, events = truth_of(records)
    pid, base = os.getpid(), 1_700_000_000_000_000_000

    def line(**fields):
        print(json.dumps(fields), file=out)

    line(
        event="session", ts=base, schema=1, pystap="0", engine="setprofile", notes=[],
        targets=[{"pid": pid, "command": " ".join(sys.argv), "python": sys.version.split()[0]}],
        armed=[], events=["call", "return"],
    )
    for at, kind, tid, (file, function, _), number in events:
        line(event=kind, ts=base + at, pid=pid, tid=tid, file=file, function=function, line=number or 0)
    line(
        event="summary", ts=base, delivered=len(events), lost=0, skipped=0, unparsed=0, unpaired=0, wall_ns=0,
        ended="targets_ended",
    )
    truth = {}
    for (file, function, first), it in functions.items():
        truth.setdefault(file, {})[f"{function}:{first}"] = [it.calls, it.own, it.inclusive, it.all]
    line(truth=truth)


main()
