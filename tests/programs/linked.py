"""Two services of a cloud, as far as traces are concerned: one that takes a request, and one that works for it.

    linked.py

Reads lines: `child` is answered with the process id of the second one; `request UUID` has the first one take a request of that name in this process, which hands it on to the second, a child
process, with its context. That is answered with JSON: when the calls of each began and ended, in nanoseconds since 1970. Without
any library: a context has its ids where oslo.context's has them.
"""

import json
import os
import sys
import time

TIMES = {}


class RequestContext:
    def __init__(self, request_id, global_request_id=None):
        self.request_id = request_id
        self.global_request_id = global_request_id


def timed(name, call, *arguments):
    begin = time.time_ns()
    try:
        return call(*arguments)
    finally:
        TIMES[name] = [begin, time.time_ns()]


class Compute:
    def dispatch(self, ctxt, method):
        return timed("build", self.build, ctxt)

    def build(self, context):
        timed("spawn", self.spawn, 0.02)
        try:
            timed("fail", self.fail)
        except ValueError:
            pass

    def spawn(self, seconds):
        time.sleep(seconds)

    def fail(self):
        raise ValueError("no host")


class Api:
    def __init__(self, to, back):
        self.to, self.back = to, back

    def serve(self, line):
        """What comes before anybody knows which request it is."""
        timed("parse", self.parse, line)
        return timed("create", self.create, RequestContext("req-" + line.split()[1]))

    def parse(self, line):
        time.sleep(0.005)

    def create(self, context):
        self.to.write(context.request_id + "\n")
        self.to.flush()
        return json.loads(self.back.readline())


def compute(requests, answers):
    service = Compute()
    for line in requests:
        TIMES.clear()
        # As RPC hands it on: a context of its own, with the ids of the other one.
        timed("dispatch", service.dispatch, RequestContext(line.strip()), "build")
        answers.write(json.dumps(TIMES) + "\n")
        answers.flush()


def api(to, back):
    service = Api(to, back)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "child\n":
            print(CHILD, flush=True)
            continue
        TIMES.clear()
        theirs = timed("serve", service.serve, line)
        print(json.dumps({**TIMES, **theirs}), flush=True)
    print("{}")


there, requests = os.pipe()
here, answers = os.pipe()
CHILD = os.fork()
if CHILD == 0:
    os.close(requests)
    os.close(here)
    compute(os.fdopen(there), os.fdopen(answers, "w"))
else:
    os.close(there)
    os.close(answers)
    api(os.fdopen(requests, "w"), os.fdopen(here))
