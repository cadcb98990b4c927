"""Switches sessions on and off in its own process, again and again, with everything that a session can do; a debug build
of Python counts references meanwhile. Run by tests/agent/valgrind.

Usage: cycles.py LIBRARY SESSIONS SEMAPHORE..., each the place of a mark's semaphore in the library's file. They are raised
here, as the kernel does it for a tracer, so that names, contexts and values are really made. That many sessions are for
warming up, as many and up to three times for counting, and as many with greenlets.
"""

import asyncio
import ctypes
import gc
import importlib.machinery
import importlib.util
import json
import os
import socket
import sys
import threading
import warnings

# Imported late: greenlet is built for release builds of Python, where references are taken without being counted.
greenlet = None


def load(path):
    loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", path)
    spec = importlib.util.spec_from_file_location("_pystap_agent", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def raise_semaphore(library, place):
    with open("/proc/self/maps") as file:
        lines = file.readlines()
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or os.path.basename(fields[5]) != os.path.basename(library) or "w" not in fields[1]:
            continue
        start, end = (int(number, 16) for number in fields[0].split("-"))
        offset = int(fields[2], 16)
        if offset <= place < offset + end - start:
            ctypes.c_uint16.from_address(start + place - offset).value += 1
            return
    raise SystemExit("no semaphore at %#x" % place)


# Sessions after which all is made that is made once.
WARM = 200


class Pystap:
    """The other end of the agent's socket."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(300)
        self.socket.connect("\0" + name)
        assert json.loads(self.socket.recv(65536))["type"] == "hello"

    def ask(self, **message):
        self.socket.send(json.dumps(message).encode())
        return json.loads(self.socket.recv(65536))


class Plain:
    def method(self, *arguments, **named):
        return [arguments, named]

    def __del__(self):
        leaf(0)


def leaf(number):
    return number


def values():
    captured = 7

    def closure():
        return captured

    everything = [None, True, 1, -(10**30), 1.5, float("nan"), "text \u00e9 \U0001f40d", b"\x00bytes\xff", closure()]
    for value in everything + [everything, tuple(everything), {1, 2}, frozenset({3}), {"key": everything}, Plain()]:
        leaf(value)
    Plain().method(1, "two", three=3.0)


def suspended():
    try:
        yield leaf(1)
        yield leaf(2)
    finally:
        leaf(3)


def suspensions():
    list(suspended())
    half = suspended()
    next(half)
    half.close()
    thrown = suspended()
    next(thrown)
    try:
        thrown.throw(ValueError("thrown"))
    except ValueError:
        pass
    dropped = suspended()
    next(dropped)


def failing():
    try:
        {}["nothing"]
    except KeyError:
        leaf(0)


async def step(number):
    await asyncio.sleep(0)
    return leaf(number)


async def tasks():
    await asyncio.gather(*(step(number) for number in range(3)))


def greens():
    if greenlet is None:
        return

    def body(number):
        greenlet.getcurrent().parent.switch(leaf(number))
        return leaf(number)

    finished, killed, dropped = (greenlet.greenlet(body) for _ in range(3))
    for green in (finished, killed, dropped):
        green.switch(1)
    finished.switch()
    killed.throw(greenlet.GreenletExit)
    del dropped


def dynamic():
    space = {}
    exec(compile("def made(number):\n    return number\nmade(1)\n", "dynamic.py", "exec"), space)


def thread():
    runs = threading.Thread(target=suspensions)
    runs.start()
    runs.join()


def child():
    pid = os.fork()
    if pid == 0:
        leaf(0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def work():
    for function in (values, suspensions, failing, greens, dynamic, thread):
        function()
    asyncio.run(tasks())
    gc.collect()


def session(agent, number, forks):
    start = {
        "type": "start",
        "events": ["function", "gc"] if number % 2 else ["function"],
        "filters": [{}, {"functions": ["leaf", "step"]}, {"files": ["*/cycles.py"], "not_functions": ["values"]}][number % 3],
        "contexts": number % 4 != 0,
        "capture": {"arguments": number % 5 != 0, "returns": number % 5 != 1, "limit": 64},
        "announce_running": number % 2 == 0,
    }
    pystap = Pystap(agent.status()["socket"])
    with pystap.socket:
        answer = pystap.ask(**start)
        assert answer["type"] == "started", answer
        work()
        if forks:
            child()
        if number % 3:
            answer = pystap.ask(type="stop")
            assert answer["type"] == "stopped", answer
            assert answer["entries"] > 0 and answer["dropped"] == 0, answer
    while agent.status()["session"]:
        threading.Event().wait(0.001)


def references():
    for _ in range(3):
        gc.collect()
    return sys.gettotalrefcount()


def main():
    # Forks of a process with threads are meant.
    warnings.simplefilter("ignore", DeprecationWarning)
    library, cycles = sys.argv[1], int(sys.argv[2])
    agent = load(library)
    for place in sys.argv[3:]:
        raise_semaphore(library, int(place, 0))
    agent.start(True)
    # What is made once is made in the first ones.
    for number in range(cycles):
        session(agent, number, True)
    # A reference that is forgotten, or given up twice, in every session shows each time. From 3.12 on the interpreter keeps
    # some hundred more now and then, because it specialises code.
    grown = []
    while len(grown) < 3 and (not grown or abs(grown[-1]) > cycles / 4):
        before = references()
        for number in range(cycles):
            session(agent, number, False)
        grown.append(references() - before)
    global greenlet
    try:
        import greenlet
    except ImportError:
        print("without greenlets, which this interpreter does not have")
    session(agent, 0, False)
    kept = [None, True, asyncio.Task, leaf, leaf.__code__]
    if greenlet is not None:
        kept += [greenlet.getcurrent(), greenlet.greenlet]
    own = [sys.getrefcount(thing) for thing in kept]
    for number in range(cycles):
        session(agent, number, False)
    own = [sys.getrefcount(thing) - before for thing, before in zip(kept, own)]
    print(json.dumps({"python": sys.version.split()[0], "sessions": cycles, "grown": grown, "of its own": own}))
    # None and True are kept by whatever the program does meanwhile; there is one for each of the thousands of events.
    wrong = any(abs(count) > 500 for count in own[:2]) or any(abs(count) > cycles / 2 for count in own[2:])
    if wrong or (cycles >= WARM and all(abs(count) > cycles / 4 for count in grown)):
        raise SystemExit("references are not what they were")


main()
