"""Calls in calls, for looking at nesting and at who called whom.

Shape: a() is called once; it calls b() twice; each b() calls c() three times, so c() is called six times. One line is
printed in between.
"""

import json

calls = {"a": 0, "b": 0, "c": 0}


def c(n):
    calls["c"] += 1
    return n * n


def b(n):
    calls["b"] += 1
    return c(n) + c(n + 1) + c(n + 2)


def a():
    calls["a"] += 1
    return b(1) + b(2)


print("a() =", a())
print(json.dumps({"calls": calls}))
