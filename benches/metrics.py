"""A service of 200 functions and 50 000 calls per second, and what counting them takes: see benches/metrics.

Usage: metrics.py PYSTAP SECONDS; the service itself is metrics.py --serve.
"""

import os
import re
import subprocess
import sys
import time
import urllib.request

FUNCTIONS = 200
RATE = 50_000
PERIOD = 0.01


def serve():
    space = {}
    exec("\n".join(f"def work_{number}(): pass" for number in range(FUNCTIONS)), space)
    functions = [space[f"work_{number}"] for number in range(FUNCTIONS)]
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


def measure(pystap, seconds):
    service = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        service.stdout.readline()
        traced = subprocess.Popen(
            [pystap, "export-metrics", "--engine", "direct", "--inject", "ptrace", "--listen", "127.0.0.1:0",
             "--function", "work_*", "-p", str(service.pid)],
            stderr=subprocess.PIPE, text=True)
        address = None
        for line in traced.stderr:
            found = re.search(r"http://([^/]+)/", line)
            address = found[1] if found else address
            if "live, tracing" in line:
                break
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
    measure(sys.argv[1], float(sys.argv[2]))
