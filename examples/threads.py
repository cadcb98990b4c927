"""Four threads that do the same at the same time.

Shape: worker() is called once in each of four threads and calls work() 100 times there: 4 and 400 calls. The threads wait
for each other before they begin, so their calls interleave.
"""

import json
import threading

THREADS = 4
CALLS = 100

barrier = threading.Barrier(THREADS)
# One list a thread: counting must not need a lock that would put the threads in line.
counts = [0] * THREADS


def work(index, n):
    counts[index] += 1
    return n + index


def worker(index):
    barrier.wait()
    for n in range(CALLS):
        work(index, n)


threads = [threading.Thread(target=worker, args=(index,)) for index in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"calls": {"worker": THREADS, "work": sum(counts)}, "per_thread": counts}))
