"""Becomes a daemon as the books have it: forks twice, closes everything, opens the standard streams anew, and works with
forks of its own. Whoever started it waits until it is done."""

import os
import time


def detach():
    if os.fork() > 0:
        end = time.monotonic() + 50
        while not os.path.exists("done") and time.monotonic() < end:
            time.sleep(0.01)
        os._exit(0 if os.path.exists("done") else 1)
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.closerange(0, 1024)
    numbers = [os.open("/dev/null", os.O_RDWR), os.dup(0), os.dup(0)]
    log = os.open("log", os.O_CREAT | os.O_WRONLY)
    os.write(log, repr((numbers, log)).encode())
    return log


def work(log):
    for number in range(5):
        pid = os.fork()
        if pid == 0:
            os.write(log, b"worker %d\n" % number)
            os._exit(number)
        os.write(log, b"ended with %d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


log = detach()
work(log)
os.close(os.open("done.new", os.O_CREAT | os.O_WRONLY))
os.rename("done.new", "done")
os._exit(0)
