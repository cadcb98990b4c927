"""What the agent costs a program, without any probe.

For each interpreter two processes run the same three programs, one without the agent and one with it:

- call: a loop that calls an empty function; what is added to it, halved, is the cost of an event;
- richards, json_dumps: those of pyperformance, objects and methods the one, mostly C code the other.

Each round measures every state once, one after the other, so that what else the machine does falls on all of them alike:
without the agent; dormant (loaded, its thread waiting); attached with a filter that matches nothing; attached with
everything wanted. A measurement is the best of several short runs, and the table has the best of all rounds. Ratios are
against the process without the agent, in the same rounds; what one program costs differs between two processes of the
same interpreter by one or two per cent even without the agent, and the column "other" says by how much: the same process
before the agent was loaded. "floor" is what an event costs with a callback in C that does nothing (operator.is_ for
PY_START, from 3.12 on): what is above it is the agent's.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

PROGRAMS = ("call", "richards", "json_dumps")


def empty():
    pass


def call(count=20000):
    for _ in range(count):
        empty()
    return count


def of_pyperformance(name):
    """The module of a benchmark, which lies beside this file with the pyperf that it imports."""
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(here)
    spec = importlib.util.spec_from_file_location(name, os.path.join(here, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def programs():
    """What is measured: functions that answer how often they repeated what they do, and how many runs make a measurement."""
    richards, dumps = of_pyperformance("richards"), of_pyperformance("json_dumps")
    data = [(value, range(count // 10 or 1)) for value, count in (getattr(dumps, case) for case in dumps.CASES)]

    def run_richards():
        assert richards.Richards().run(1)
        return 1

    def run_dumps():
        dumps.bench_json_dumps(data)
        return 1

    return {"call": (call, 12), "richards": (run_richards, 3), "json_dumps": (run_dumps, 6)}


def measure(program, runs):
    """Nanoseconds a repetition: the best of several runs of some milliseconds."""
    best = float("inf")
    for _ in range(runs):
        begun = time.perf_counter()
        count = program()
        best = min(best, (time.perf_counter() - begun) / count)
    return best * 1e9


def floor(calls):
    """Nanoseconds a call under `sys.monitoring` with a C function that does nothing; none where there is no such thing."""
    if not hasattr(sys, "monitoring"):
        return None
    import operator

    monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "floor")
    monitoring.register_callback(tool, monitoring.events.PY_START, operator.is_)
    monitoring.set_events(tool, monitoring.events.PY_START)
    taken = measure(*calls)
    monitoring.set_events(tool, 0)
    monitoring.register_callback(tool, monitoring.events.PY_START, None)
    monitoring.free_tool_id(tool)
    return taken


def worker():
    """Measures, loads the agent, and says where it listens, as it is told."""
    all_programs = programs()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "load":
            import importlib.machinery
            import importlib.util

            loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", argument)
            spec = importlib.util.spec_from_file_location("_pystap_agent", argument, loader=loader)
            agent = importlib.util.module_from_spec(spec)
            loader.exec_module(agent)
            agent.start(True)
            print(agent.status()["socket"], flush=True)
        elif command == "floor":
            print(json.dumps(floor(all_programs["call"])), flush=True)
        else:
            print(json.dumps([measure(*all_programs[name]) for name in PROGRAMS]), flush=True)


class Worker:
    def __init__(self, python, directory):
        tree, _, path = python.rpartition(":")
        command = ["chroot", tree, path] if tree else [path]
        self.process = subprocess.Popen(
            [*command, os.path.join(directory, "agent.py"), "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def measure(self):
        return json.loads(self.ask("measure"))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Session:
    """Pystap's part: a connection whose end is the end of the session."""

    def __init__(self, name, **filters):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.socket.connect("\0" + name)
        self.socket.recv(65536)
        message = {"type": "start", "events": ["function"], "filters": filters}
        self.socket.send(json.dumps(message).encode())
        answer = json.loads(self.socket.recv(65536))
        assert answer["type"] == "started", answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.send(b'{"type":"stop"}')
        self.socket.recv(65536)
        self.socket.close()


def bench(library, pyperformance, rounds, python):
    tree = python.rpartition(":")[0]
    with tempfile.TemporaryDirectory(prefix="pystap-bench.", dir=(tree or "") + "/tmp") as directory:
        shutil.copy(library, os.path.join(directory, "agent.so"))
        shutil.copy(__file__, os.path.join(directory, "agent.py"))
        shutil.copytree(os.path.join(pyperformance, "pyperf"), os.path.join(directory, "pyperf"))
        for name in PROGRAMS[1:]:
            benchmark = "pyperformance/data-files/benchmarks/bm_%s/run_benchmark.py" % name
            shutil.copy(os.path.join(pyperformance, benchmark), os.path.join(directory, name + ".py"))
        inside = directory[len(tree) :]
        path = python.rpartition(":")[2]
        version = subprocess.run(
            (["chroot", tree] if tree else []) + [path, "-V"], stdout=subprocess.PIPE, universal_newlines=True
        ).stdout.split()[1]
        without, agent = Worker(python, inside), Worker(python, inside)
        best = {}

        def note(state, values):
            best[state] = [min(pair) for pair in zip(best.get(state, values), values)]

        for _ in range(rounds):
            note("without", without.measure())
            note("other", agent.measure())
        name = agent.ask("load " + os.path.join(inside, "agent.so"))
        floors = []
        for _ in range(rounds):
            note("without", without.measure())
            floors.append(json.loads(without.ask("floor")))
            note("dormant", agent.measure())
            with Session(name, functions=["matches nothing"]):
                note("nothing", agent.measure())
            with Session(name):
                note("all", agent.measure())
            with Session(name, functions=["*"]):
                note("matched", agent.measure())
        without.close()
        agent.close()
        base = best["without"]
        ratio = lambda state: " ".join("%5.2f" % (value / own) for value, own in zip(best[state], base))
        event = lambda state: (best[state][0] - base[0]) / 2
        print(
            "%-8s %6.1f  %s  %s  %s  %s  %6.1f  %6.1f  %6s"
            % (
                version,
                base[0],
                ratio("other"),
                ratio("dormant"),
                ratio("nothing"),
                ratio("all"),
                event("all"),
                event("matched"),
                "-" if None in floors else "%.1f" % (min(floors) - base[0]),
            ),
            flush=True,
        )


def main():
    if sys.argv[1:] == ["--worker"]:
        return worker()
    library, pyperformance, rounds, pythons = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    columns = "%-17s" % " ".join("%5s" % name[:5] for name in PROGRAMS)
    print("%-8s %6s  %-17s  %-17s  %-17s  %-17s  %6s  %6s  %6s" % ("", "call", "other", "dormant", "nothing", "all", "all", "match", "floor"))
    print("%-8s %6s  %s  %s  %s  %s  %6s  %6s  %6s" % ("Python", "ns", columns, columns, columns, columns, "ns/ev", "ns/ev", "ns/ev"))
    for python in pythons:
        bench(library, pyperformance, rounds, python)


if __name__ == "__main__":
    main()
