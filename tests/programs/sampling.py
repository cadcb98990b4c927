"""Functions that burn known shares of the processor's time, beside threads that wait. Says how long each took, by the clock on the wall,
when it is told to end: on a machine that is busy they wait for a processor, too."""

import json
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

TOOK = {"heavy": 0.0, "light": 0.0}


def heavy():
    begun, burns = time.perf_counter(), time.thread_time() + 0.021
    while time.thread_time() < burns:
        for _ in range(100):
            pass
    TOOK["heavy"] += time.perf_counter() - begun


def light():
    begun, burns = time.perf_counter(), time.thread_time() + 0.009
    while time.thread_time() < burns:
        for _ in range(100):
            pass
    TOOK["light"] += time.perf_counter() - begun


def waits(of):
    of.get()


def main():
    ended, never = threading.Event(), queue.Queue()
    threading.Thread(target=waits, args=(never,), daemon=True).start()
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    while not ended.is_set():
        heavy()
        light()
    print(json.dumps(TOOK), flush=True)
    never.put(None)


main()
