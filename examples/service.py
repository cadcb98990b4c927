"""A little server to attach to: handles requests until it is told to stop.

Usage: service.py [--every SECONDS] [--requests N]

Requests are the lines of standard input when --every is not given, else one comes every so many seconds. The service ends
at the end of its input, after N requests, or on SIGINT or SIGTERM.

Shape: for each request handle() is called once; it calls parse() once, then render() once, or fail() once when the
request is the word "fail" (every tenth request of the timer is). The first line is "ready" and the process id.
"""

import argparse
import json
import os
import signal
import sys
import time

calls = {"handle": 0, "parse": 0, "render": 0, "fail": 0}


class Stop(Exception):
    pass


def parse(request):
    calls["parse"] += 1
    return request.strip().lower()


def render(word):
    calls["render"] += 1
    return "ok " + word


def fail(word):
    calls["fail"] += 1
    raise ValueError(word)


def handle(request):
    calls["handle"] += 1
    word = parse(request)
    try:
        return fail(word) if word == "fail" else render(word)
    except ValueError as error:
        return "failed " + str(error)


def requests(every):
    if every is None:
        yield from sys.stdin
        return
    number = 0
    while True:
        number += 1
        yield "fail" if number % 10 == 0 else "request %d" % number
        time.sleep(every)


def stop(*_):
    raise Stop


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=float)
    parser.add_argument("--requests", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print("ready", os.getpid(), flush=True)
    try:
        for request in requests(options.every):
            print(handle(request), flush=True)
            if options.requests is not None and calls["handle"] >= options.requests:
                break
    except Stop:
        pass
    print(json.dumps({"calls": calls}), flush=True)


main()
