"""A process that keeps things in a store, over and over, until its standard input is closed. One function is never called, and
the name of another one is written to a terminal's harm.
"""

import json
import os
import select
import sys


class Store:
    def __init__(self):
        self.things = {}
        self.puts = 0

    def put(self, name, thing):
        self.things[name] = thing
        self.puts += 1

    def get_thing(self, name):
        return self.things[name]


def never():
    pass


def fetched():
    pass


fetched.__code__ = fetched.__code__.replace(co_name="fetched\x1b[2J\u202e")

store = Store()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    store.put("one", 1)
    store.get_thing("one")
os.read(0, 1)
print(json.dumps({"calls": {"put": store.puts}}), flush=True)
