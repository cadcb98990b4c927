"""Threads, each with a name of its own, that call work() until standard input ends. Says then, by the kernel's IDs of them, how they
were called."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

over = threading.Event()


def work():
    return over.wait(0.001)


def works():
    while not work():
        pass


def main():
    for name in ("a writer of logs, 1", "für ü", None):
        threading.Thread(target=works, name=name).start()
    ThreadPoolExecutor(1, thread_name_prefix="pool of one").submit(works)
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    names = {thread.native_id: thread.name for thread in others}
    print("ready", flush=True)
    sys.stdin.read()
    over.set()
    print(json.dumps({"names": names}))


main()
