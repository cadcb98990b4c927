"""A process that has nothing to do, in one of several ways, until its standard input is closed.

sleeping: the main thread waits in a system call, a worker runs now and then; asyncio: an event loop without anything to
do; blocked: the only thread waits in a system call that a stop does not end; vetoing: as sleeping, and an audit hook forbids
what a debugger asks for.
"""

import json
import os
import sys
import threading
import time

kind = sys.argv[1]


def worker():
    while True:
        time.sleep(0.02)


def finish():
    print(json.dumps({"unharmed": True}), flush=True)


if kind == "asyncio":
    import asyncio

    async def main():
        closed = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(0, closed.set)
        print("ready", flush=True)
        await closed.wait()

    asyncio.run(main())
else:
    if kind == "vetoing":

        def forbid(event, arguments):
            if event == "cpython.remote_debugger_script":
                raise RuntimeError("forbidden")

        sys.addaudithook(forbid)
    if kind in ("sleeping", "vetoing"):
        threading.Thread(target=worker, daemon=True).start()
    print("ready", flush=True)
    os.read(0, 1)
finish()
