"""A worker that looks like a service: it gives itself another command line, as setproctitle does, or as another program
would have it, and calls a function again and again until its input ends.

    posing.py COMM ARGUMENT...

Its arguments become all that its command line shows, in place, as far as they fit where its own were.
"""

import select
import sys


def pose(comm, arguments):
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rsplit(b")", 1)[1].split()
    # Fields 48 and 49 of the file, of which two are before the parenthesis.
    begin, end = int(fields[45]), int(fields[46])
    text = b"".join(argument.encode() + b"\0" for argument in arguments)
    assert len(text) <= end - begin, "the command line has no room for that"
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(text.ljust(end - begin, b"\0"))
    with open("/proc/self/comm", "w") as name:
        name.write(comm)


def work():
    pass


if len(sys.argv) > 2:
    pose(sys.argv[1], sys.argv[2:])
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    work()
