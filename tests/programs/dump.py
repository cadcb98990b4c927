"""Blocks threads in known places, says what Python itself says of their stacks, and waits until its standard input is closed.

A line of JSON: by the kernel's ID of a thread, its name, what it waits for, and its stack as `sys._current_frames()` has it, the
innermost frame first, each as [function, file, line]. `busy` as an argument adds two threads that compute, whose lines
change; `churn` one whose stack does all the time; a number starts so many threads that wait for a lock.
"""

import json
import os
import queue
import select
import socket
import sys
import threading
import time

HOUR = 3600
lock = threading.Lock()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
reading, writing = os.pipe()


class Waiter:
    def in_a_lock(self):
        lock.acquire()

    def nested(self):
        def inner():
            time.sleep(HOUR)

        inner()


def in_recv():
    server.recv(1)


def in_accept():
    listener.accept()


def in_a_pipe():
    os.read(reading, 1)


def in_select():
    select.select([server, reading], [], [])


def in_poll():
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(reading, select.POLLIN)
    poll.poll()


def in_epoll():
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN)
    epoll.register(reading, select.EPOLLIN)
    epoll.poll()


def in_a_queue():
    queue.Queue().get()


def in_a_condition():
    condition = threading.Condition()
    with condition:
        condition.wait()


def a_generator():
    yield 1
    yield time.sleep(HOUR)


def in_a_generator():
    return [
        value
        for value in
        a_generator()
    ]


def in_a_lambda():
    (lambda: (
        time.sleep(HOUR)
    ))()


def in_a_call_of_c():
    sorted([1], key=lambda _: time.sleep(HOUR))


def näme_of_its_own(n=20):
    if n:
        return näme_of_its_own(n - 1)
    time.sleep(HOUR)


def in_an_exception():
    try:
        raise ValueError
    except ValueError:
        try:
            pass
        finally:
            time.sleep(HOUR)


def far_down():
    # Lines that are far from the beginning of their function, and from each other.
    time.sleep(0)






















































































































































    time.sleep(HOUR)


def busy():
    while True:
        for number in range(1000):
            number * number


def churn():
    def a(n):
        return n and b(n - 1)

    def b(n):
        return n and a(n - 1)

    while True:
        a(50)


WAITS = [
    ("lock", Waiter().in_a_lock),
    ("sleep", Waiter().nested),
    ("socket", in_recv),
    ("socket", in_accept),
    ("pipe", in_a_pipe),
    ("descriptors", in_select),
    ("descriptors", in_poll),
    ("epoll", in_epoll),
    ("lock", in_a_queue),
    ("lock", in_a_condition),
    ("sleep", in_a_generator),
    ("sleep", in_a_lambda),
    ("sleep", in_a_call_of_c),
    ("sleep", näme_of_its_own),
    ("sleep", in_an_exception),
    ("sleep", far_down),
]


class WithSlots(threading.Thread):
    __slots__ = ("more", "fields")


class WithMany(threading.Thread):
    def __init__(self, **arguments):
        for number in range(40):
            setattr(self, "field_%d" % number, number)
        super().__init__(**arguments)


def rename(thread):
    thread.name = "a name that is longer than the kernel's, ÿ"


def look_into(thread):
    vars(thread)


def add_and_remove(thread):
    thread.added = thread.more = 1
    del thread.added


def add_many(thread):
    for number in range(40):
        setattr(thread, "added_%d" % number, number)


def replace(thread):
    thread.__dict__ = dict(vars(thread), name="another")


def leave(thread):
    pass


# What a name may be kept in: each is another way of having attributes.
KINDS = [threading.Thread, WithSlots, WithMany]
CHANGES = [leave, rename, look_into, add_and_remove, add_many, replace]


def make(number, function):
    thread = KINDS[number % len(KINDS)](target=function, daemon=True)
    CHANGES[number // len(KINDS) % len(CHANGES)](thread)
    return thread


def stack_of(frame):
    stack = []
    while frame:
        code = frame.f_code
        stack.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return stack


def stacks(threads):
    now = sys._current_frames()
    return {thread.native_id: stack_of(now.get(thread.ident)) for thread in threads}


def main(arguments):
    lock.acquire()
    waits = WAITS
    if arguments and arguments[0].isdigit():
        waits = [("lock", Waiter().in_a_lock)] * int(arguments.pop(0))
    started = [(kind, make(number, function)) for number, (kind, function) in enumerate(waits)]
    for _, thread in started:
        thread.start()
    # They are where they block when they stay there.
    threads = [thread for _, thread in started]
    was, same = stacks(threads), 0
    while same < 20:
        time.sleep(0.01)
        now = stacks(threads)
        was, same = now, same + 1 if now == was and all(len(it) > 2 for it in now.values()) else 0
    truth = {it.native_id: {"name": it.name, "wait": kind, "stack": was[it.native_id]} for kind, it in started}
    for name, function in (("busy", busy), ("busy", busy), ("churn", churn)):
        if name in arguments:
            thread = threading.Thread(target=function, daemon=True)
            thread.start()
            truth[thread.native_id] = {"name": thread.name, "wait": name, "stack": None}
    ends = {"server": "%s:%s" % server.getsockname(), "client": "%s:%s" % client.getsockname()}
    print(json.dumps({"threads": truth, "ends": ends, "reading": reading}), flush=True)
    sys.stdin.read()


main(sys.argv[1:])
