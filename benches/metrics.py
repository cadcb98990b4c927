"""A service of 200 functions and 50 000 calls per second, and what counting them takes: see benches/metrics.

Usage: metrics.py PYSTAP SECONDS, or metrics.py PYSTAP --day HOURS; the services themselves are metrics.py --serve and
metrics.py --workers COUNT.
"""

import os
import re
import select
import subprocess
import sys
import time
import urllib.request

FUNCTIONS = 200
RATE = 50_000
PERIOD = 0.01
# How long a worker lives in a simulated day: its master replaces it after so many seconds.
WORKER = 60


def made():
    space = {}
    exec("\n".join(f"def work_{number}(): pass" for number in range(FUNCTIONS)), space)
    return [space[f"work_{number}"] for number in range(FUNCTIONS)]


def serve_by_workers(workers):
    """Workers one after the other, each of which makes the calls of its time as fast as it can."""
    functions = made()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(workers):
        worker = os.fork()
        if worker == 0:
            for _ in range(RATE * WORKER // FUNCTIONS):
                for function in functions:
                    function()
            os._exit(0)
        if os.waitpid(worker, 0)[1]:
            sys.exit("a worker failed")
    print("done", flush=True)
    sys.stdin.readline()


def serve():
    functions = made()
    rounds = int(RATE * PERIOD)
    print("ready", flush=True)
    due, at = time.monotonic(), 0
    while True:
        for _ in range(rounds):
            functions[at % FUNCTIONS]()
            at += 1
        due += PERIOD
        time.sleep(max(0, due - time.monotonic()))


def processor_time(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) / 1024


def calls(address):
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    return sum(int(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("pystap_calls_total{"))


def watched(pystap, service):
    """pystap, watching the service, and where it is asked."""
    traced = subprocess.Popen(
        [pystap, "export-metrics", "--engine", "direct", "--inject", "ptrace", "--listen", "127.0.0.1:0",
         "--function", "work_*", "--subprocesses", "-p", str(service.pid)],
        stderr=subprocess.PIPE, text=True)
    address = None
    for line in traced.stderr:
        found = re.search(r"http://([^/]+)/", line)
        address = found[1] if found else address
        if "live, tracing" in line:
            return traced, address
    sys.exit("pystap ended")


def simulate(pystap, hours):
    """A day's calls, workers and questions in as little time as they take."""
    workers = round(hours * 3600 / WORKER)
    service = subprocess.Popen(
        [sys.executable, __file__, "--workers", str(workers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        service.stdout.readline()
        traced, address = watched(pystap, service)
        begun = time.monotonic()
        early = memory(traced.pid)
        print("go", file=service.stdin, flush=True)
        asked = 0
        # At least as often as Prometheus asks by default: every 15 seconds of the time that is simulated.
        while not select.select([service.stdout], [], [], 0.02)[0]:
            calls(address)
            asked += 1
        expected = workers * RATE * WORKER // FUNCTIONS * FUNCTIONS
        # What the last worker told is on its way.
        until = time.monotonic() + 30
        while (counted := calls(address)) < expected and time.monotonic() < until:
            time.sleep(0.1)
        took = time.monotonic() - begun
        print(f"{'simulated':24} {hours:9.1f} hours in {took:.0f} s, {workers} workers, asked {asked} times")
        print(f"{'calls counted':24} {counted:11} of {expected}")
        print(f"{'of a processor':24} {100 * processor_time(traced.pid) / (hours * 3600):9.2f} % of the simulated time")
        print(f"{'memory, at most':24} {memory(traced.pid):9.1f} MB, {early:.1f} at the beginning")
        print("end", file=service.stdin, flush=True)
        traced.terminate()
        traced.wait()
    finally:
        service.kill()
        service.wait()


def measure(pystap, seconds):
    service = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        service.stdout.readline()
        traced, address = watched(pystap, service)
        first, began, start = calls(address), processor_time(traced.pid), time.monotonic()
        end = start + seconds
        while time.monotonic() < end:
            # As often as Prometheus asks by default, or once.
            time.sleep(min(15, max(0, end - time.monotonic())))
            last = calls(address)
        took = time.monotonic() - start
        used = processor_time(traced.pid) - began
        rate = (last - first) / took
        print(f"{'calls per second':24} {rate:10.0f}")
        print(f"{'of a processor':24} {100 * used / took:9.2f} %")
        print(f"{'memory, at most':24} {memory(traced.pid):9.1f} MB")
        traced.terminate()
        traced.wait()
    finally:
        service.kill()
        service.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    if sys.argv[1] == "--workers":
        serve_by_workers(int(sys.argv[2]))
        sys.exit()
    if sys.argv[2] == "--day":
        simulate(sys.argv[1], float(sys.argv[3]))
        sys.exit()
    measure(sys.argv[1], float(sys.argv[2]))
