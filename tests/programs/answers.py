"""A service that answers each line of its input, and has a thread that runs now and then, so that a request to run something
is soon seen to. At the end of its input it says how often it did what.
"""

import json
import sys
import threading
import time

calls = {"handle": 0}


def handle(request):
    calls["handle"] += 1
    return "failed " + request.strip()


def breathe():
    while True:
        time.sleep(0.01)


threading.Thread(target=breathe, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(handle(line), flush=True)
print(json.dumps({"calls": calls}), flush=True)
