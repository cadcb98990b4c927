"""Functions that each wait for one thing, in a thread of its own that does nothing else, and measure themselves.

Says `ready` and waits for a line; then each function runs in its thread, one after the other, and each thread parks; then it says as
JSON what each thread knows of its function, and waits for another line:

    tid      which thread
    name     what it is called
    off      milliseconds that the function took, without those that its thread ran (`thread_time`)
    before   milliseconds from when the thread was started until it came to its function
    queued   milliseconds that the thread waited for a processor, as the kernel counted them
    left     how often the thread left its processor of its own, likewise: on a busy machine a short time to sleep is over before that
    helper   the thread that ends its waits, if one does

    offcpu.py DIRECTORY      for files
"""

import asyncio
import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time

DIRECTORY = sys.argv[1]
ROUNDS = 20
helpers = {}


def started(target):
    """A thread that helps the function that calls this."""
    thread = threading.Thread(target=target)
    thread.start()
    helpers[sys._getframe(1).f_code.co_name] = thread.native_id
    return thread


def queued():
    with open("/proc/thread-self/schedstat") as schedstat:
        return int(schedstat.read().split()[1]) / 1e9


def left():
    with open("/proc/thread-self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def sleeps():
    for _ in range(ROUNDS):
        time.sleep(0.015)


def naps():
    """Shorter than the time between two looks."""
    for _ in range(ROUNDS * 10):
        time.sleep(0.001)


def reads():
    """Past the cache."""
    path = os.path.join(DIRECTORY, "data")
    buffer = mmap.mmap(-1, 1 << 20)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for at in range(ROUNDS * 4):
        os.preadv(file, [buffer], (at % 16) << 20)
    os.close(file)


def forget(file):
    """The file's contents are on the disk alone from now on."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def reads_cold():
    file = os.open(os.path.join(DIRECTORY, "data"), os.O_RDONLY)
    for at in range(16):
        forget(file)
        os.pread(file, 1 << 20, at << 20)
    os.close(file)


def syncs():
    file = os.open(os.path.join(DIRECTORY, "journal"), os.O_WRONLY | os.O_CREAT)
    for _ in range(8):
        os.pwrite(file, bytes(8 << 20), 0)
        os.fsync(file)
    os.close(file)


def sleeps_in_c():
    libc = ctypes.CDLL(None)
    for _ in range(ROUNDS):
        libc.usleep(15_000)


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(0.05)
"""


def holder(path):
    """Another process, once it has the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE
    )
    child.stdout.readline()
    return child


def waits_for_another_process():
    path = os.path.join(DIRECTORY, "data")
    with open(path) as file:
        for _ in range(3):
            child = holder(path)
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_UN)
            child.communicate()


def waits_for_a_lock():
    lock = threading.Lock()
    lock.acquire()

    def release():
        for _ in range(ROUNDS):
            time.sleep(0.012)
            # On a busy machine it may not have been taken again.
            while not lock.locked():
                time.sleep(0.001)
            lock.release()

    helper = started(release)
    for _ in range(ROUNDS):
        lock.acquire()
    helper.join()


def waits_for_the_gil():
    over = threading.Event()

    def burns():
        while not over.is_set():
            sum(range(1000))

    helper = started(burns)
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        sum(range(1000))
    over.set()
    helper.join()


def waits_for_a_socket():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    connection, _ = server.accept()

    def sends():
        for _ in range(ROUNDS):
            time.sleep(0.013)
            client.sendall(b"x")

    helper = started(sends)
    for _ in range(ROUNDS):
        connection.recv(1)
    helper.join()


def waits_for_a_pipe():
    reading, writing = os.pipe()

    def writes():
        for _ in range(ROUNDS):
            time.sleep(0.014)
            os.write(writing, b"x")

    helper = started(writes)
    for _ in range(ROUNDS):
        os.read(reading, 1)
    helper.join()


def waits_for_a_child():
    for _ in range(3):
        child = subprocess.Popen(["sleep", "0.05"])
        os.waitpid(child.pid, 0)


def polls():
    """An event loop with nothing to do: idleness."""
    asyncio.run(asyncio.sleep(0.2))


FUNCTIONS = [
    sleeps,
    naps,
    reads,
    reads_cold,
    syncs,
    sleeps_in_c,
    waits_for_another_process,
    waits_for_a_lock,
    waits_for_the_gil,
    waits_for_a_socket,
    waits_for_a_pipe,
    waits_for_a_child,
    polls,
]


def main():
    with open(os.path.join(DIRECTORY, "data"), "wb") as file:
        for _ in range(16):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    print("ready", flush=True)
    sys.stdin.readline()
    told = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    def park():
        """In a way that no function waits in."""
        signal.sigwait({signal.SIGUSR1})

    def run(function, done, started):
        times = left()
        begin, ran, queue = time.perf_counter(), time.thread_time(), queued()
        function()
        took, ran, queue = time.perf_counter() - begin, time.thread_time() - ran, queued() - queue
        times = left() - times
        told[function.__name__] = {
            "tid": threading.get_native_id(),
            "name": threading.current_thread().name,
            "off": (took - ran) * 1e3,
            "before": (begin - started) * 1e3,
            "queued": queue * 1e3,
            "left": times,
            "helper": helpers.get(function.__name__),
        }
        done.set()
        park()

    threads = []
    for function in FUNCTIONS:
        done = threading.Event()
        arguments = (function, done, time.perf_counter())
        threads.append(threading.Thread(target=run, args=arguments, name="which " + function.__name__))
        threads[-1].start()
        done.wait()
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
    for thread in threads:
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        thread.join()


main()
