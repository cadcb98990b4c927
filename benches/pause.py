"""The table of benches/pause: a program with so many threads, of which one looks at the clock all the time, is traced again and
again. The longest time between two looks is how long it stood still; without pystap it is what the machine does by itself.

    pause.py PYSTAP ROUNDS PYTHON...
"""

import statistics
import subprocess
import sys
import time

PROGRAM = """
import select, sys, threading, time
threading.stack_size(65536)
held = threading.Event()
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=held.wait, daemon=True).start()
# The lock is never asked for by the others, so nobody but the machine and pystap interrupts this.
print("ready", flush=True)
for line in sys.stdin:
    longest, last, end = 0, time.perf_counter_ns(), time.perf_counter_ns() + int(float(line) * 1e9)
    while last < end:
        now = time.perf_counter_ns()
        if now - last > longest:
            longest = now - last
        last = now
    print(longest / 1e6, flush=True)
"""

SECONDS = 3

pystap, rounds, *python = sys.argv[1:]


def stood_still(program, during):
    program.stdin.write(b"%d\n" % SECONDS)
    program.stdin.flush()
    time.sleep(0.2)
    begun = time.monotonic()
    taken = during(begun)
    return float(program.stdout.readline()), taken


def traced(pid):
    def trace(begun):
        command = [pystap, "trace", "--engine", "uprobes", "--function", "nothing", "--duration", "1s", "-p", str(pid)]
        tracing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        live = None
        for line in tracing.stderr:
            if "probes are live" in line:
                live = time.monotonic() - begun
        if tracing.wait() or live is None:
            sys.exit("pystap did not trace it")
        return live * 1000

    return trace


print("%8s %22s %22s %14s" % ("threads", "longest look without", "longest look with", "live after"))
for threads in (1, 100, 3000):
    program = subprocess.Popen(
        [*python, "-c", PROGRAM, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout.readline() == b"ready\n"
    without = [stood_still(program, lambda begun: None)[0] for _ in range(int(rounds))]
    measured = [stood_still(program, traced(program.pid)) for _ in range(int(rounds))]
    program.stdin.close()
    program.wait()
    print(
        "%8d %19.1f ms %19.1f ms %11.0f ms"
        % (
            threads,
            statistics.median(without),
            statistics.median(still for still, _ in measured),
            statistics.median(taken for _, taken in measured),
        ),
        flush=True,
    )
