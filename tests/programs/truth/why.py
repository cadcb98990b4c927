"""Functions that each wait for one thing, and measure themselves. Says `ready`; for each line that it reads it calls each of them once,
and says as JSON, in milliseconds:

    wall     how long the call took
    cpu      how long its thread ran
    queued   how long its thread waited for a processor, as the kernel counted it: from its first to its last line, and from a little
             before the call until a little after it
    slices   how often it was given a processor, in the longer of these
    helper   the thread that ended its wait, if one did

    why.py threads        in threads
    why.py eventlet       in greenlets; wall and cpu alone, and the processor's time without that of others; and as `on` what a
                          greenlet waits on, if pystap is to know it
    why.py gevent         the same
    why.py endless        calls that never end: one gives way for good, and one ends with its process
"""

import json
import os
import sys
import threading
import time

told = {}
inside = []
ends = []
# Opening it each time would wait for the GIL before the kernel is asked.
schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)


def queued():
    return schedule()[0]


def schedule():
    """How long this thread has waited for a processor, and how often it was given one."""
    _, waited, slices = os.pread(schedstat, 100, 0).split()
    return int(waited) / 1e6, int(slices)


def now_inside():
    inside.append(queued())


def measured(function, *arguments):
    inside.clear()
    (queue, slices), cpu, wall = schedule(), time.thread_time(), time.perf_counter()
    function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    queue, slices = (now - then for now, then in zip(schedule(), (queue, slices)))
    told[function.__name__] = {
        "wall": wall * 1e3,
        "cpu": cpu * 1e3,
        "queued": [inside[-1] - inside[0], queue],
        "slices": slices,
        "helper": None,
    }


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def sleeps():
    now_inside()
    time.sleep(0.05)
    now_inside()


def waits_for_a_lock(lock):
    now_inside()
    with lock:
        pass
    now_inside()


def waits_for_a_socket(end):
    now_inside()
    end.recv(1)
    now_inside()


def burns():
    now_inside()
    burn(0.08)
    now_inside()


def contends():
    now_inside()
    burn(0.05)
    now_inside()


def thread(work, *arguments):
    started = threading.Thread(target=work, args=arguments)
    started.start()
    return started


def in_threads():
    import socket

    measured(sleeps)

    lock, is_held = threading.Lock(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            time.sleep(0.04)

    helper = thread(hold)
    is_held.wait()
    measured(waits_for_a_lock, lock)
    helper.join()
    told["waits_for_a_lock"]["helper"] = helper.native_id

    ours, theirs = socket.socketpair()

    def answer():
        time.sleep(0.06)
        theirs.send(b"x")

    helper = thread(answer)
    measured(waits_for_a_socket, ours)
    helper.join()
    told["waits_for_a_socket"]["helper"] = helper.native_id

    measured(burns)

    is_over = []

    def compete():
        while not is_over:
            pass

    helper = thread(compete)
    measured(contends)
    is_over.append(True)
    helper.join()
    told["contends"]["helper"] = helper.native_id


def sockets(socket):
    """Both ends of a connection of this library, and of a pipe, the same in each round."""
    if not ends:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        ends.extend([socket.create_connection(server.getsockname()), server.accept()[0], *os.pipe()])
    return ends


def in_greenlets(spawn, join, waits, on, tell):
    """Jobs by these names, each in a greenlet with its wait, and one that waits for them. What they wait for `tell` does."""
    jobs = {}

    def run(name, before=0, after=0):
        wall = time.perf_counter()
        jobs[name](before, waits.get(name), after)
        wall = time.perf_counter() - wall
        told[name] = {"wall": wall * 1e3, "cpu": (before + after) * 1e3, "on": on.get(name)}

    def naps(before, wait, after):
        burn(before)
        wait()
        burn(after)

    def asks(before, wait, after):
        burn(before)
        wait()
        burn(after)

    def answers(before, wait, after):
        burn(before)
        wait()
        burn(after)
        tell()

    def reads(before, wait, after):
        wait()

    def locks(before, wait, after):
        wait()

    def awaits(before, wait, after):
        wait()

    def takes(before, wait, after):
        wait()

    def joins(before, wait, after):
        for greenlet in greenlets:
            join(greenlet)

    jobs.update(naps=naps, asks=asks, answers=answers, reads=reads, locks=locks, awaits=awaits, takes=takes, joins=joins)
    burns = {"asks": (0.01, 0.02), "naps": (0.01, 0.01), "answers": (0.02, 0.02)}
    greenlets = [spawn(run, name, *burns.get(name, ())) for name in waits]
    run("joins")


def in_eventlet():
    import eventlet
    import eventlet.event
    import eventlet.green.socket as socket
    import eventlet.green.time as green
    import eventlet.queue
    import eventlet.semaphore
    from eventlet.hubs import trampoline

    ours, theirs, reading, writing = sockets(socket)
    free, happened, items = eventlet.semaphore.Semaphore(0), eventlet.event.Event(), eventlet.queue.Queue()

    def tell():
        theirs.send(b"x")
        os.write(writing, b"x")
        free.release()
        happened.send()
        items.put(1)

    waits = {
        "reads": lambda: trampoline(reading, read=True),
        "locks": free.acquire,
        "awaits": happened.wait,
        "takes": items.get,
        "asks": lambda: ours.recv(1),
        "naps": lambda: green.sleep(0.03),
        "answers": lambda: green.sleep(0.02),
    }
    on = {"asks": "tcp %s:%d" % ours.getpeername(), "reads": "pipe (fd %d)" % reading}
    in_greenlets(eventlet.spawn, lambda greenlet: greenlet.wait(), waits, on, tell)
    os.read(reading, 1)


def in_gevent():
    import gevent
    import gevent.lock
    import gevent.socket as socket

    ours, theirs = sockets(socket)[:2]
    free = gevent.lock.Semaphore(0)

    def tell():
        theirs.send(b"x")
        free.release()

    waits = {
        "locks": free.acquire,
        "asks": lambda: ours.recv(1),
        "naps": lambda: gevent.sleep(0.03),
        "answers": lambda: gevent.sleep(0.02),
    }
    in_greenlets(gevent.spawn, lambda greenlet: greenlet.join(), waits, {}, tell)


def gives_way():
    yield


def dies():
    os._exit(0)


def ticks():
    while True:
        time.sleep(0.01)


def without_end():
    inside.append(gives_way())
    next(inside[-1])
    child = os.fork()
    if child == 0:
        dies()
    os.waitpid(child, 0)


work = {"threads": in_threads, "eventlet": in_eventlet, "gevent": in_gevent, "endless": without_end}[sys.argv[1]]
if work in (in_eventlet, in_gevent):
    work()
if work is without_end:
    # An agent comes in while Python runs.
    threading.Thread(target=ticks, daemon=True).start()
print("ready", os.getpid(), flush=True)
while sys.stdin.readline():
    told.clear()
    work()
    print(json.dumps(told), flush=True)
