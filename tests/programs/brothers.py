"""Children that end and begin all the time, have threads of their own and become other programs.

Shape: six children, one after the other without waiting. Each calls work() 5 times in each of two threads, which end, and
10 times itself; then it executes a new Python with this file, which calls work() 5 times in a thread and 5 times itself.
Every second child ends before that. The last line says how often work() was called.
"""

import json
import os
import sys
import threading

CHILDREN = 6
AFTER_EXEC = "--after-exec"


def work(n):
    return n + 1


def several(times):
    for n in range(times):
        work(n)


def in_threads(count, times):
    threads = [threading.Thread(target=several, args=(times,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def child(becomes_another):
    in_threads(2, 5)
    several(10)
    if becomes_another:
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), AFTER_EXEC])
    os._exit(0)


def main():
    if sys.argv[1:] == [AFTER_EXEC]:
        in_threads(1, 5)
        several(5)
        return
    pids = []
    for number in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            try:
                child(number % 2 == 0)
            finally:
                os._exit(1)
        pids.append(pid)
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status != 0:
            sys.exit("child %d ended with status %d" % (pid, status))
    print(json.dumps({"calls": {"work": CHILDREN * 20 + CHILDREN // 2 * 10}}))


main()
