"""Has greenlets switched out in known places, says what Python itself says of their stacks, and waits until its standard input is
closed.

A line of JSON: `stacks` of all that are switched out as `gr_frame` has them, the innermost frame first, each frame as [function,
file, line]; and `libraries`: which of eventlet and gevent there are besides. With eventlet
also `descriptor`, for which one of them waits, and the two `ends` of that. A number as an argument adds so many greenlets that
are switched out in the same place; `churn` has a thread whose greenlets change all the time instead of that line's stacks.
"""

import functools
import gc
import json
import os
import socket
import sys
import threading
import traceback
import warnings

import greenlet

kept = []
told = {}
lock = threading.Lock()
lock.acquire()


def gives_way():
    greenlet.getcurrent().parent.switch()


def nested(depth):
    if depth:
        return nested(
            depth - 1
        )
    gives_way()


def through_c(number=0):
    return sorted([1], key=lambda _: list(map(lambda _: gives_way(), [1])))


def in_a_generator():
    def numbers():
        yield 1
        gives_way()
        yield 2

    return [number for number in numbers()]


def in_yield_from():
    def numbers():
        yield from (through_c() for _ in range(1))

    return list(numbers())


class Class:
    def __init__(self):
        self.attribute

    def __getattr__(self, name):
        nested(1)


class Inherited(greenlet.greenlet):
    def run(self, *arguments):
        through_c()


class Callable:
    def __call__(self):
        gives_way()


def for_a_child():
    """A greenlet that has switched to one of its own, which goes on beneath it."""
    greenlet.greenlet(nested_below).switch(greenlet.getcurrent().parent)


def nested_below(other):
    functools.reduce(lambda *_: through(other), [1, 2])


def through(other):
    other.switch()


def code(text):
    return compile(text, "a text", "exec")


def again():
    """One that was resumed before, deeper in the stack of its thread."""
    for _ in range(3):
        gives_way()
    nested(2)


def plain(count):
    functions = [gives_way, through_c, in_a_generator, in_yield_from, Class, Callable(), for_a_child, again]
    functions += [functools.partial(nested, depth) for depth in (0, 200)]
    functions += [functools.partial(exec, code("gives_way()"), globals())]
    functions += [nested_once] * count
    for function in functions:
        kept.append(greenlet.greenlet(function))
        kept[-1].switch()
    for _ in range(3):
        kept[7].switch()
    kept.append(Inherited())
    kept[-1].switch()
    # Neither switched out: one that has not begun, and one that has finished.
    kept.append(greenlet.greenlet(gives_way))
    kept.append(greenlet.greenlet(int))
    kept[-1].switch()


def nested_once():
    nested(1)


def waits(done):
    done.set()
    lock.acquire()


def its_first(done):
    """The first greenlet of this thread is switched out for ever."""
    child = greenlet.greenlet(lambda: waits(done))
    through_a_child(child)


def through_a_child(child):
    child.switch()


def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def with_eventlet(done):
    import eventlet
    import eventlet.event
    import eventlet.queue
    import eventlet.semaphore
    from eventlet.green import socket as green

    ends = [green.socket(fileno=end.detach()) for end in connected()]
    told["descriptor"] = ends[0].fileno()
    told["ends"] = ["%s:%d" % end for end in (ends[0].getsockname(), ends[0].getpeername())]
    semaphore = eventlet.semaphore.Semaphore(0)
    for function in (
        functools.partial(eventlet.sleep, 3600),
        functools.partial(ends[0].recv, 10),
        eventlet.event.Event().wait,
        eventlet.queue.Queue().get,
        semaphore.acquire,
    ):
        kept.append(eventlet.spawn(function))
    kept.append((ends, semaphore))
    for _ in range(5):
        eventlet.sleep(0)
    waits(done)


def with_gevent(done):
    import gevent
    import gevent.event
    import gevent.lock
    import gevent.queue
    import gevent.socket

    ends = gevent.socket.socketpair()
    semaphore = gevent.lock.Semaphore(0)
    for function in (
        functools.partial(gevent.sleep, 3600),
        functools.partial(ends[0].recv, 10),
        gevent.event.Event().wait,
        gevent.queue.Queue().get,
        semaphore.acquire,
    ):
        kept.append(gevent.spawn(function))
    kept.append((ends, semaphore))
    gevent.sleep(0.01)
    waits(done)


def churns(done):
    def forever(depth):
        while True:
            churn(depth)

    def churn(depth):
        if depth:
            return churn(depth - 1)
        gives_way()

    all_of_them = [greenlet.greenlet(forever) for _ in range(20)]
    for depth, one in enumerate(all_of_them):
        one.switch(depth)
    done.set()
    while True:
        for one in all_of_them:
            one.switch()


def stack(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return frames


def main(arguments):
    # Eventlet has one about itself.
    warnings.simplefilter("ignore")
    plain(sum(int(argument) for argument in arguments if argument.isdigit()))
    threads, libraries = [its_first], []
    for function in (with_eventlet, with_gevent):
        name = function.__name__.rsplit("_", 1)[1]
        try:
            __import__(name)
        except Exception:
            continue
        threads.append(function)
        libraries.append(name)
    if "churn" in arguments:
        threads.append(churns)
    for function in threads:
        done = threading.Event()
        threading.Thread(target=function, args=(done,), daemon=True).start()
        assert done.wait(30), function
    stacks = []
    if "churn" not in arguments:
        greenlets = [it for it in gc.get_objects() if isinstance(it, greenlet.greenlet)]
        stacks = [stack(it.gr_frame) for it in greenlets if it.gr_frame is not None]
    told.update(stacks=stacks, libraries=libraries)
    print(json.dumps(told), flush=True)
    sys.stdin.read()


try:
    main(sys.argv[1:])
except BaseException:
    traceback.print_exc()
finally:
    # Threads that wait for ever are not waited for.
    os._exit(0)
