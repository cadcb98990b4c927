"""Threads, a pool and a loop that wait for work most of the time and do some: how often, as JSON."""

import asyncio
import json
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROUNDS = 3
WORK = 0.05
WAIT = 0.2

counts = {"resize": 0, "take": 0, "answer": 0}
lock = threading.Lock()


def work(name):
    with lock:
        counts[name] += 1
    end = time.monotonic() + WORK
    while time.monotonic() < end:
        pass


def resize():
    work("resize")


def take(item):
    work("take")


def consume(items):
    while (item := items.get()) is not None:
        take(item)


def answer():
    work("answer")


async def serve(pool, items):
    for item in range(ROUNDS):
        await asyncio.sleep(WAIT)
        answer()
        items.put(item)
        await asyncio.wrap_future(pool.submit(resize))


items = queue.Queue()
consumer = threading.Thread(target=consume, args=(items,))
consumer.start()
with ThreadPoolExecutor(1) as pool:
    asyncio.run(serve(pool, items))
items.put(None)
consumer.join()
print(json.dumps({"calls": counts}))
