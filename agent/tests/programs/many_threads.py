"""Threads that run at the same time and one after the other, their own and those of a pool."""

import concurrent.futures
import threading


def leaf(number):
    return number + 1


def work(count):
    return sum(leaf(number) for number in range(count))


threads = [threading.Thread(target=work, args=(200,)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(40)))
