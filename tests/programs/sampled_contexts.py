"""Tasks of asyncio, and greenlets where `greenlet` is an argument, that work and wait in known places. Says how long each kind ran and
waited, when it is told to end."""

import asyncio
import json
import sys
import threading
import time

KINDS = {"work": 0.008, "burner": 0.004}
TOOK = {kind: [0.0, 0.0] for kind in KINDS}
ended = threading.Event()


def burn(kind):
    begun = time.perf_counter()
    while time.perf_counter() - begun < KINDS[kind]:
        pass
    return time.perf_counter() - begun


def told(kind, ran, since):
    now = time.perf_counter()
    TOOK[kind][0] += ran
    TOOK[kind][1] += now - since - ran
    return now


async def pause():
    await asyncio.sleep(0.01)


async def work(kind="work"):
    since = time.perf_counter()
    while not ended.is_set():
        ran = burn(kind)
        await pause()
        since = told(kind, ran, since)


async def read(never):
    await never.wait()


async def main():
    never = asyncio.Event()
    readers = [asyncio.ensure_future(read(never)) for _ in range(3)]
    for number, reader in enumerate(readers):
        reader.set_name("reader-%d" % number)
    burner = asyncio.ensure_future(work("burner"))
    burner.set_name("burner-7")
    both = [asyncio.ensure_future(work()), burner]
    print("ready", flush=True)
    for task in both:
        await task
    never.set()
    for reader in readers:
        await reader


def work_here(kind="work"):
    since = time.perf_counter()
    while not ended.is_set():
        ran = burn(kind)
        greenlet.getcurrent().parent.switch()
        since = told(kind, ran, since)


def burner():
    work_here("burner")


def read_here():
    greenlet.getcurrent().parent.switch()


def with_greenlets():
    readers = [greenlet.greenlet(read_here) for _ in range(3)]
    both = [greenlet.greenlet(work_here), greenlet.greenlet(burner)]
    for each in readers:
        each.switch()
    print("ready", flush=True)
    while not ended.is_set():
        for each in both:
            each.switch()
        time.sleep(0.01)
    for each in readers + both:
        each.switch()


threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
if "greenlet" in sys.argv:
    import greenlet

    with_greenlets()
else:
    asyncio.new_event_loop().run_until_complete(main())
print(json.dumps(TOOK), flush=True)
