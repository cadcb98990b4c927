"""Starts a Python anew, in one of several ways, once the file GO exists. That one calls work() until the file END exists.

    anew.py WAY GO END [SITE]

spawn, forkserver: by multiprocessing; exec: becomes it itself; isolated: with -I; bare: without the environment; network, user:
in another network or user namespace; customized: with the directory SITE before everything else on PYTHONPATH.
"""

import multiprocessing
import os
import subprocess
import sys
import time


def work():
    pass


def child(end):
    # A test that fails takes the directory along.
    while not os.path.exists(end) and os.path.exists(os.path.dirname(end)):
        work()
        time.sleep(0.01)


def main():
    way, go, end = sys.argv[1:4]
    if way == "child":
        return child(end)
    print("ready", os.getpid(), flush=True)
    while not os.path.exists(go) and os.path.exists(os.path.dirname(go)):
        time.sleep(0.01)
    if way in ("spawn", "forkserver"):
        process = multiprocessing.get_context(way).Process(target=child, args=(end,))
        process.start()
        return process.join()
    command = [sys.executable, os.path.abspath(__file__), "child", go, end]
    if way == "exec":
        os.execv(sys.executable, command)
    environment = dict(os.environ)
    if way == "customized":
        environment["PYTHONPATH"] = sys.argv[4] + ":" + environment.get("PYTHONPATH", "")
    before = {
        "isolated": [],
        "bare": ["env", "-i"],
        "network": ["unshare", "-n"],
        "user": ["unshare", "-U"],
        "customized": [],
    }
    if way == "isolated":
        command[1:1] = ["-I"]
    subprocess.run(before[way] + command, env=environment)


if __name__ == "__main__":
    main()
