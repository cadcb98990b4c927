"""Loads the agent and runs what it is told: each line of standard input is a JSON string of Python code, each line of
standard output its result. The code runs in a namespace of its own, as the file "workload.py"."""

import importlib.machinery
import importlib.util
import itertools
import json
import os
import signal
import sys


# Who starts tests in the background of a shell has them ignore interrupts, and CPython's own tests wait for some.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def load(path):
    loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", path)
    spec = importlib.util.spec_from_file_location("_pystap_agent", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Truth:
    """What the interpreter itself says of calls and returns in files with one ending, by its usual hooks."""

    def __init__(self, ending):
        self.ending = ending
        self.counters = (itertools.count(), itertools.count())

    def __enter__(self):
        entries, returns = self.counters
        ending = self.ending
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.use_tool_id(1, "truth")
            events = monitoring.events

            def count(counter):
                def on(code, *_):
                    if code.co_filename.endswith(ending):
                        next(counter)

                return on

            names = {"PY_START": entries, "PY_RESUME": entries, "PY_THROW": entries}
            names.update(PY_RETURN=returns, PY_YIELD=returns, PY_UNWIND=returns)
            for name, counter in names.items():
                monitoring.register_callback(1, getattr(events, name), count(counter))
            monitoring.set_events(1, sum(getattr(events, name) for name in names))
        else:
            import threading

            def on(frame, event, _):
                if frame.f_code.co_filename.endswith(ending):
                    if event == "call":
                        next(entries)
                    elif event == "return":
                        next(returns)

            self.on = on
            threading.setprofile(on)
            sys.setprofile(on)
        return self

    def __exit__(self, *_):
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.set_events(1, 0)
            monitoring.free_tool_id(1)
        else:
            import threading

            assert sys.getprofile() is self.on, "the profiler that was there is shown no longer"
            sys.setprofile(None)
            threading.setprofile(None)
        self.entries, self.returns = (next(counter) for counter in self.counters)


def main():
    answers = os.fdopen(os.dup(1), "w")
    # What programs print is of no interest; what they complain of is.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    space = {"agent": load(sys.argv[1]), "Truth": Truth, "load": load, "library": sys.argv[1]}
    for line in sys.stdin:
        space["result"] = None
        try:
            exec(compile(json.loads(line), "workload.py", "exec"), space)
            answer = {"result": space["result"]}
        except BaseException as error:
            import traceback

            answer = {"error": "".join(traceback.format_exception(type(error), error, error.__traceback__))}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    answers.close()


if __name__ == "__main__":
    main()
