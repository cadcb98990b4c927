"""A daemon of python-daemon with a pool of processes; it works in the directory that it is given."""

import multiprocessing
import os
import sys

import daemon


def square(number):
    return number * number


def main():
    log = open(os.path.join(sys.argv[1], "log"), "a")
    with daemon.DaemonContext(working_directory=sys.argv[1], files_preserve=[log]):
        pool = multiprocessing.Pool(2)
        log.write("%r\n" % pool.map(square, range(100)))
        # Not by leaving a `with`: that kills the workers, which hangs now and then when one of them holds a lock.
        pool.close()
        pool.join()
        log.write("the end\n")
        log.flush()
        os.rename("log", "done")


main()
