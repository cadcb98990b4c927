"""Functions that each wait for one thing, and measure themselves. Says `ready`; for each line that it reads it calls each of them once,
and says as JSON, in milliseconds:

    wall     how long the call took
    cpu      how long its thread ran
    queued   how long its thread waited for a processor, as the kernel counted it: from its first to its last line, and from a little
             before the call until a little after it
    helper   the thread that ended its wait, if one did

    why.py threads        in threads
    why.py eventlet       in greenlets; wall and cpu alone, and the processor's time without that of others; and as `on` what a
                          greenlet waits on, if it has a name
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
    return int(os.pread(schedstat, 100, 0).split()[1]) / 1e6


def now_inside():
    inside.append(queued())


def measured(function, *arguments):
    inside.clear()
    queue, cpu, wall = queued(), time.thread_time(), time.perf_counter()
    function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    queue = queued() - queue
    told[function.__name__] = {
        "wall": wall * 1e3,
        "cpu": cpu * 1e3,
        "queued": [inside[-1] - inside[0], queue],
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


def in_greenlets():
    import eventlet
    import eventlet.event
    import eventlet.green.socket as socket
    import eventlet.green.time as green
    import eventlet.queue
    import eventlet.semaphore
    from eventlet.hubs import trampoline

    if not ends:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        ends.extend([socket.create_connection(server.getsockname()), server.accept()[0], *os.pipe()])
    ours, theirs, reading, writing = ends
    free, happened, items = eventlet.semaphore.Semaphore(0), eventlet.event.Event(), eventlet.queue.Queue()
    jobs = {}

    def run(name, before, wait, after):
        wall = time.perf_counter()
        jobs[name](before, wait, after)
        wall = time.perf_counter() - wall
        told[name] = {"wall": wall * 1e3, "cpu": (before + after) * 1e3, "on": on.get(name)}

    on = {"asks": "tcp %s:%d" % ours.getpeername(), "reads": "pipe (fd %d)" % reading}

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
        theirs.send(b"x")
        os.write(writing, b"x")
        free.release()
        happened.send()
        items.put(1)

    def reads(before, wait, after):
        wait()

    def locks(before, wait, after):
        wait()

    def awaits(before, wait, after):
        wait()

    def takes(before, wait, after):
        wait()

    jobs.update(naps=naps, asks=asks, answers=answers, reads=reads, locks=locks, awaits=awaits, takes=takes)
    greenlets = [
        eventlet.spawn(run, "reads", 0, lambda: trampoline(reading, read=True), 0),
        eventlet.spawn(run, "locks", 0, free.acquire, 0),
        eventlet.spawn(run, "awaits", 0, happened.wait, 0),
        eventlet.spawn(run, "takes", 0, items.get, 0),
        eventlet.spawn(run, "asks", 0.01, lambda: ours.recv(1), 0.02),
        eventlet.spawn(run, "naps", 0.01, lambda: green.sleep(0.03), 0.01),
        eventlet.spawn(run, "answers", 0.02, lambda: green.sleep(0.02), 0.02),
    ]
    for greenlet in greenlets:
        greenlet.wait()
    os.read(reading, 1)


work = {"threads": in_threads, "eventlet": in_greenlets}[sys.argv[1]]
if work is in_greenlets:
    in_greenlets()
print("ready", os.getpid(), flush=True)
while sys.stdin.readline():
    told.clear()
    work()
    print(json.dumps(told), flush=True)
