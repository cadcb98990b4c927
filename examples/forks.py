"""Processes that fork, and one that becomes another program.

Shape: the parent forks two children and waits for them; each child calls work() 10 times. The second then executes a new
Python with this same file, which calls work() 5 times. The parent calls work() never: 25 calls in two processes that
are not the one that was started. Only the parent prints the last line, when both have ended well.
"""

import json
import os
import sys

AFTER_EXEC = "--after-exec"


def work(n):
    return n + 1


def child(becomes_another):
    for n in range(10):
        work(n)
    if becomes_another:
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), AFTER_EXEC])
    os._exit(0)


def start(becomes_another):
    pid = os.fork()
    if pid == 0:
        try:
            child(becomes_another)
        finally:
            os._exit(1)
    return pid


def main():
    if sys.argv[1:] == [AFTER_EXEC]:
        for n in range(5):
            work(n)
        return
    pids = [start(False), start(True)]
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status != 0:
            sys.exit("child %d ended with status %d" % (pid, status))
    calls = {"main": 2, "start": 2, "child": 2, "work": 25}
    print(json.dumps({"calls": calls, "children": pids}))


main()
