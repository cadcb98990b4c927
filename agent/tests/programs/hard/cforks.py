"""Forks in C, in every way that there is, while the program's own threads run: a child writes what it has worked out."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import threading

with_lock, without_lock = ctypes.PyDLL(None), ctypes.CDLL(None)
clone, read = {"x86_64": (56, 0), "aarch64": (220, 63)}[platform.machine()]


def square(number):
    return number * number


def child(name):
    with open(name, "w") as file:
        file.write("%s %d\n" % (name, sum(square(number) for number in range(100))))
        monitors = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")
        tool = [sys.monitoring.get_tool(id) for id in range(6)] if monitors else []
        file.write("%r %r\n" % (tool, sys.getprofile()))
    os._exit(5)


def run(name, fork):
    pid = fork()
    if pid == 0:
        child(name)
    with open("parent", "a") as file:
        file.write("%s %r\n" % (name, os.waitpid(pid, 0)[1]))


ways = [
    ("fork with the lock", with_lock.fork),
    ("fork without it", without_lock.fork),
    ("clone", lambda: with_lock.syscall(clone, signal.SIGCHLD, 0, 0, 0, 0)),
    ("os.fork", os.fork),
]
for round in range(3):
    for name, fork in ways:
        run("%s %d" % (name, round), fork)
pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "open('spawned', 'w').write('here')"], dict(os.environ))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
subprocess.run([sys.executable, "-c", "open('subprocess', 'w').write('here')"], check=True)
subprocess.run([sys.executable, "-c", "0"], check=True, preexec_fn=lambda: open("preexec", "w").close())
assert os.system("echo shell >shell") == 0


def fork_of_a_thread(main):
    # A child is left with whatever the interpreter has locked for another thread at that moment, with us and without: so not before
    # the main thread rests.
    while open("/proc/self/task/%d/syscall" % main).read().split()[0] != str(read):
        pass
    run("fork of a thread", with_lock.fork)
    os.write(writing, b"x")


reading, writing = os.pipe()
thread = threading.Thread(target=fork_of_a_thread, args=(threading.get_native_id(),))
thread.start()
os.read(reading, 1)
thread.join()
