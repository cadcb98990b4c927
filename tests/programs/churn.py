"""A process whose threads come and go all the time, until its standard input is closed.

Shape: four threads at a time, each calls work() fifty times and ends; another one begins in its place.
"""

import json
import os
import select
import sys
import threading

going = True


def work():
    pass


def run():
    for _ in range(50):
        work()


def spawn():
    while going:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()


spawners = [threading.Thread(target=spawn) for _ in range(4)]
for spawner in spawners:
    spawner.start()
print("ready", flush=True)
select.select([sys.stdin], [], [])
os.read(0, 1)
going = False
for spawner in spawners:
    spawner.join()
print(json.dumps({"calls": {}}), flush=True)
