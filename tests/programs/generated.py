"""Makes new functions for ever, by compiling and running code, as template engines and `eval` do.

    generated.py COUNT RATE LENGTH

Compiles COUNT pieces of code (0: until its standard input ends), RATE a second (0: as fast as it can). Each is a module of a
file of its own with one function, whose names have at least LENGTH bytes, and is run once.

Shape: each piece is two calls of functions that were never called before.
"""

import select
import sys
import time

count, rate, length = (int(word) for word in sys.argv[1:4])


def ended():
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready) and not sys.stdin.buffer.read1()


made = 0
began = time.monotonic()
while not count or made != count:
    name = f"generated_{made}".ljust(length, "_")
    source = f"def {name}():\n    pass\n{name}()\n"
    exec(compile(source, f"<{name}>", "exec"), {})
    made += 1
    if rate and made % 10 == 0:
        time.sleep(max(0, began + made / rate - time.monotonic()))
    if not count and made % 1000 == 0 and ended():
        break
