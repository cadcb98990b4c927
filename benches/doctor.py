"""What `pystap doctor` costs.

    doctor.py report PYSTAP    milliseconds from start to end on this machine, 20 Pythons waiting: smallest and median of 40 turns,
                               and of processors
    doctor.py trial PYSTAP     seconds of `doctor --trial` that has nothing remembered, and of the stap that it runs to compile, measured
                               in the same run by a stap in front of stap; 3 turns, the median of their ratios last
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PYTHONS = 20
TURNS = 40
TRIALS = 3

# Notes when the compilation begins and ends; everything else that stap is asked is part of what pystap takes. pystap asks
# uname(2) for which kernel to compile, and what is meant is the one of the files.
IN_FRONT = """#!/bin/sh
case " $* " in *" -p4 "* | *" -p 4 "*) ;; *) exec /usr/bin/stap "$@" ;; esac
before=
for word; do
    shift
    [ "$before" != -r ] || word=$(cat /proc/sys/kernel/osrelease)
    set -- "$@" "$word"
    before=$word
done
date +%s%N >>{log}
/usr/bin/stap "$@"
status=$?
date +%s%N >>{log}
exit $status
"""


def took(command, **more):
    begin = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True, **more)
    return time.perf_counter() - begin, ended


def used():
    """Seconds of processors that all commands have used that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(pystap):
    waiting = [subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) for _ in range(PYTHONS)]
    print(f"{'smallest':>9} {'median':>9} {'processor':>9}  milliseconds, {PYTHONS} Pythons waiting")
    for options in ([], ["--json"], ["-p", str(waiting[0].pid)]):
        command = [pystap, "doctor", *options]
        before = used()
        times = [took(command)[0] * 1e3 for _ in range(TURNS)]
        processor = (used() - before) / TURNS * 1e3
        words = " ".join(command[1:2] + ["-p PID" if options[:1] == ["-p"] else " ".join(options)])
        print(f"{min(times):9.1f} {statistics.median(times):9.1f} {processor:9.1f}  pystap {words}")
    for process in waiting:
        process.communicate()


def trial(pystap):
    ratios = []
    print(f"{'trial':>8} {'compile':>8} {'ratio':>6}  seconds")
    for _ in range(TRIALS):
        home = tempfile.mkdtemp(prefix="pystap-doctor-")
        log = os.path.join(home, "log")
        stap = os.path.join(home, "stap")
        with open(stap, "w", encoding="utf-8") as file:
            file.write(IN_FRONT.format(log=log))
        os.chmod(stap, 0o755)
        os.symlink("/usr/bin/staprun", os.path.join(home, "staprun"))
        environment = dict(os.environ, HOME=home)
        whole, ended = took([pystap, "doctor", "--trial", "--stap", stap, "--python", sys.executable], env=environment)
        with open(log, encoding="utf-8") as file:
            begin, end = (int(line) for line in file)
        assert "a module was built" in ended.stdout, ended
        alone = (end - begin) / 1e9
        ratios.append(whole / alone)
        print(f"{whole:8.2f} {alone:8.2f} {ratios[-1]:6.3f}", flush=True)
        shutil.rmtree(home)
    print(f"{'':17} {statistics.median(ratios):6.3f}  median")


{"report": report, "trial": trial}[sys.argv[1]](sys.argv[2])
