"""Runs an interpreter within its interpreter for as long as a file is there, and calls a function in both.

    within.py FILE
"""

import os
import sys
import time

try:
    import _interpreters as interpreters  # 3.13 and later
except ImportError:
    import _xxsubinterpreters as interpreters


def outer():
    pass


inner = interpreters.create()
run = getattr(interpreters, "exec", None) or interpreters.run_string
while os.path.exists(sys.argv[1]):
    outer()
    run(inner, "def inner(): pass\ninner()")
    time.sleep(0.01)
interpreters.destroy(inner)
