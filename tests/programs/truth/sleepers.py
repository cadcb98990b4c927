"""Jobs in greenlets that wait at the same time, as a service of eventlet or gevent has them.

Usage: sleepers.py gevent|eventlet

Each of 300 jobs calls wait(), which sleeps 50 to 230 ms. The last line is the truth: {"jobs": [NANOSECONDS...]}, how long
each call of job() took, in the order in which they ended.
"""

import json
import sys
import time

JOBS = 300
clock = time.perf_counter_ns
took = []


def wait(sleep, number):
    sleep(0.05 + 0.18 * (number * 37 % JOBS) / JOBS)


def job(sleep, number):
    begun = clock()
    wait(sleep, number)
    took.append(clock() - begun)


def with_gevent():
    import gevent

    gevent.joinall([gevent.spawn(job, gevent.sleep, number) for number in range(JOBS)])


def with_eventlet():
    import eventlet

    pool = eventlet.GreenPool(JOBS)
    for number in range(JOBS):
        pool.spawn(job, eventlet.sleep, number)
    pool.waitall()


{"gevent": with_gevent, "eventlet": with_eventlet}[sys.argv[1]]()
print(json.dumps({"jobs": took}))
