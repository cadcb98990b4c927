"""A Python process whose program is on a file system that does not answer any longer. Needs root.

Serves a file system (FUSE) with one file, an interpreter, in a mount namespace of its own; runs it, and stops answering when it
runs. Says "ready PID", and ends with its standard input, or after half a minute whatever happens.
"""

import ctypes
import os
import select
import signal
import stat
import struct
import sys
import tempfile

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 36, 42
ENOENT, ENOSYS = 2, 38
ROOT, FILE = 1, 2

signal.alarm(30)
libc = ctypes.CDLL(None, use_errno=True)
program = open(sys.executable, "rb").read()


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attributes(node):
    mode, size = (stat.S_IFDIR | 0o755, 0) if node == ROOT else (stat.S_IFREG | 0o755, len(program))
    return struct.pack("<6Q10I", node, size, size // 512 + 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(kind, node, body):
    """An error number and what is answered; None where there is no answer."""
    if kind == INIT:
        return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 32, 0, 0)
    if kind == LOOKUP:
        if body != b"python3.11\0":
            return ENOENT, b""
        return 0, struct.pack("<QQQQII", FILE, 0, 0, 0, 0, 0) + attributes(FILE)
    if kind == GETATTR:
        return 0, struct.pack("<QII", 0, 0, 0) + attributes(node)
    if kind == OPEN:
        return 0, struct.pack("<QII", 0, 0, 0)
    if kind == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return 0, program[offset : offset + size]
    if kind in (RELEASE, FLUSH):
        return 0, b""
    if kind in (FORGET, BATCH_FORGET, INTERRUPT):
        return None
    return ENOSYS, b""


def serve(device):
    request = os.read(device, 1 << 18)
    _, kind, unique, node = struct.unpack_from("<IIQQ", request)
    answered = answer(kind, node, request[40:])
    if answered is not None:
        error, body = answered
        os.write(device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


checked(libc.unshare(CLONE_NEWNS))
checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
place = tempfile.mkdtemp()
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
checked(libc.mount(b"unanswering", place.encode(), b"fuse", 0, options))
said, say = os.pipe()
waits, end = os.pipe()
python = os.fork()
if python == 0:
    os.close(end)
    os.dup2(waits, 0)
    os.dup2(say, 1)
    arguments = ["python3.11", "-S", "-c", "print('runs', flush=True); input()"]
    os.execve(f"{place}/python3.11", arguments, {"PYTHONHOME": "/usr"})
while True:
    ready, _, _ = select.select([device, said], [], [])
    if device in ready:
        serve(device)
    else:
        break
assert os.read(said, 100) == b"runs\n"
print("ready", python, flush=True)
sys.stdin.read()
os.kill(python, signal.SIGKILL)
# Whoever still waits for an answer has an error now.
os.close(device)
os.waitpid(python, 0)
checked(libc.umount2(place.encode(), 2))
os.rmdir(place)
