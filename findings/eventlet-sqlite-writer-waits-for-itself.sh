#!/usr/bin/env bash
# Two greenlets that write to one sqlite database wait for each other in vain: the second one's wait holds up the thread that
# the first one needs to commit.
#
# Packages: eventlet 0.41.3 from PyPI, on CPython 3.11 with its own sqlite3 module.
#
# Expectation: what waits for a lock of the database in a program that eventlet has patched lets other greenlets run, so that the
# one which holds the lock commits and the other one goes on, as it does with threads.
#
# Behaviour: sqlite waits in C, where eventlet has nothing to patch. It sleeps in the thread of all greenlets until its timeout
# (here two seconds, by default five), in which nothing else of the program runs, and then gives up with an error. With threads
# both commit after 0.2 s.
#
# For users of pystap: `pystap why` and `pystap offcpu` show seconds of `sleep` in what executes a statement, and all other
# calls of that process are as long as that: docs/why.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

cat >writers.py <<'END_OF_PROGRAM'
import sqlite3, sys, threading, time

if sys.argv[1] == "greenlets":
    import eventlet
    eventlet.monkey_patch()

def open_database():
    return sqlite3.connect("writers.sqlite", isolation_level=None, timeout=2)

database = open_database()
database.execute("create table if not exists written (number)")
database.close()
outcomes = []

def write(number):
    database = open_database()
    try:
        database.execute("begin immediate")
        time.sleep(0.1)
        database.execute("insert into written values (?)", (number,))
        database.execute("commit")
        outcomes.append("committed")
    except sqlite3.OperationalError as error:
        outcomes.append(str(error))
    database.close()

began = time.perf_counter()
writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
for writer in writers:
    writer.start()
for writer in writers:
    writer.join()
took = time.perf_counter() - began
print(", ".join(sorted(outcomes)), "in two seconds or more" if took >= 2 else "at once")
END_OF_PROGRAM

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check eventlet==0.41.3
threads=$(venv/bin/python writers.py threads)
greenlets=$(venv/bin/python -W ignore writers.py greenlets)
echo "threads:   $threads"
echo "greenlets: $greenlets"
[ "$threads" = "committed, committed at once" ]
[ "$greenlets" = "committed, database is locked in two seconds or more" ]
echo "as described: the greenlet that waits keeps the other one from committing"
