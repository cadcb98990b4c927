"""Forks in threads, in a daemon thread, and in handlers of signals."""

import os
import signal
import threading
import warnings

# That forks and threads do not go together is said from 3.12 on, with a process id.
warnings.simplefilter("ignore")


def leaf(number):
    return number


def fork_and_wait(name, number):
    pid = os.fork()
    if pid == 0:
        with open("%s-%d" % (name, number), "w") as file:
            file.write("%d\n" % sum(leaf(number) for number in range(1000)))
        os._exit(number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number


def forks(name):
    for number in range(5):
        fork_and_wait(name, number)


handled = []


def on_signal(*_):
    fork_and_wait("handler", len(handled))
    handled.append(True)


signal.signal(signal.SIGUSR1, on_signal)
threads = [threading.Thread(target=forks, args=("thread-%d" % number,)) for number in range(3)]
threads.append(threading.Thread(target=forks, args=("daemon",), daemon=True))
for thread in threads:
    thread.start()
for number in range(5):
    os.kill(os.getpid(), signal.SIGUSR1)
    while len(handled) <= number:
        leaf(number)
for thread in threads:
    thread.join()
