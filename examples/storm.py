"""As many calls as fast as possible: what does tracing cost, and what is lost?

Usage: storm.py [N]

Shape: f() is called exactly N times (1000000 when not given) by main(), which is called once. The line before the last
says how many nanoseconds a call took, the loop included.
"""

import json
import sys
import time


def f():
    pass


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000000
    begun = time.perf_counter()
    for _ in range(n):
        f()
    taken = time.perf_counter() - begun
    per_call = taken * 1e9 / max(n, 1)
    print("%d calls, %.1f ns per call" % (n, per_call))
    print(json.dumps({"calls": {"main": 1, "f": n}, "ns_per_call": round(per_call, 1)}))


main()
