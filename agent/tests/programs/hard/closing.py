"""Closes every descriptor in one of three ways, opens files of its own in their places and forks: closing.py DIRECTORY HOW."""

import ctypes
import os
import sys


def leaf(number):
    return number


def close_everything(how):
    if how == "closerange":
        os.closerange(0, 1024)
    elif how == "close_range":
        libc = ctypes.CDLL(None)
        if libc.syscall(436, 0, ctypes.c_uint(0xFFFFFFFF), 0) != 0:
            os.closerange(0, 1024)
    else:
        log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in range(64):
            os.dup2(log, number)
    for number in range(24):
        # Whoever counts on the lowest number that is free gets it.
        opened = os.open("file-%d" % number, os.O_CREAT | os.O_RDWR)
        os.write(opened, b"opened as %d\n" % opened)


def fork_and_wait(text):
    pid = os.fork()
    if pid == 0:
        for number in range(10):
            leaf(number)
        os.write(3, text)
        os._exit(3)
    status = os.waitpid(pid, 0)[1]
    os.write(4, b"%d\n" % status)


def main():
    how = sys.argv[2]
    close_everything(how)
    for number in range(10):
        fork_and_wait(b"child %d\n" % number)
    for number in range(3, 27):
        try:
            os.write(number, b"the end of %d\n" % number)
        except OSError:
            pass
    os._exit(7)


main()
