"""Recursion: fib(10), computed the slow way.

Shape: main() is called once and calls fib(10); fib is entered exactly 177 times, at a depth of at most 10.
"""

import json

calls = {"main": 0, "fib": 0}


def fib(n):
    calls["fib"] += 1
    if n < 2:
        return n
    return fib(n - 1) + fib(n - 2)


def main():
    calls["main"] += 1
    print("fib(10) =", fib(10))


main()
print(json.dumps({"calls": calls}))
