"""One slow call among many fast ones, for histograms and for "which call was it".

Shape: step() is called 201 times: 200 times it returns at once, and in the 101st call it is busy for at least 20 ms;
pause() is called once and is busy for at least 5 ms; busy() does the waiting and is called twice. The processor is kept
busy rather than slept, so the durations are minimum durations on any clock.
"""

import json
import time

SLOW_STEP = 100
calls = {"step": 0, "pause": 0, "busy": 0}


def busy(seconds):
    calls["busy"] += 1
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def step(index):
    calls["step"] += 1
    if index == SLOW_STEP:
        busy(0.020)


def pause():
    calls["pause"] += 1
    busy(0.005)


for index in range(201):
    step(index)
pause()
print(json.dumps({"calls": calls, "at_least_ns": {"step": 20000000, "pause": 5000000}}))
