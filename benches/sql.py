"""What `pystap sql` costs the program for each statement, on Python 3.11 with the oldest and the newest SQLAlchemy of the tests.

The program sends statements to sqlite3 in memory, one row each, and takes the least time of several turns by its own clock: what a
statement costs altogether, most of which is SQLAlchemy's. Each round runs it untraced, with a recipe that has the statements alone, with one that also has their
rows, and with the built-in one, which has who sent them as well; so that what else the machine does meets all alike. The table has the medians of
the rounds in microseconds a statement, and how many times the untraced program each is.

Usage: sql.py PYSTAP ROUNDS RECIPES
"""

import os
import statistics
import subprocess
import sys
import tempfile

PYSTAP, ROUNDS, PLACE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PYTHON = "/usr/bin/python3.11"
PROGRAM = """
import time
from sqlalchemy import create_engine, text

def send(connection, number):
    connection.execute(text("insert into t values (:a)"), {"a": number})

def turn(connection, statements=2000):
    began = time.perf_counter()
    for number in range(statements):
        send(connection, number)
    return (time.perf_counter() - began) / statements

with create_engine("sqlite://").connect() as connection:
    connection.execute(text("create table t (a integer)"))
    turn(connection)
    print(min(turn(connection) for _ in range(5)) * 1e6)
"""
ALONE = """
description = "statements of SQLAlchemy"
group-by = ["statement"]
[normalise]
statement = "sql"
[[function]]
function = "do_execute*"
file = "*/sqlalchemy/*"
fields = { statement = "statement" }
"""
WITH_ROWS = ALONE.replace("[normalise]", 'rows = "rows"\n[normalise]').replace(
    '"statement" }', '"statement", "rows@return" = "cursor.rowcount" }'
)


def took(command, version):
    environment = dict(os.environ, PYTHONPATH=os.path.join(PLACE, version))
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def main():
    with tempfile.TemporaryDirectory() as directory:

        def written(name, text):
            path = os.path.join(directory, name)
            with open(path, "w") as file:
                file.write(text)
            return path

        program = [PYTHON, "-W", "ignore", written("program.py", PROGRAM)]
        output = ["--output", os.path.join(directory, "table"), "--"]
        traced = [PYSTAP, "recipe"]
        ways = {
            "untraced": program,
            "statements": [*traced, written("alone.toml", ALONE), *output, *program],
            "and rows": [*traced, written("rows.toml", WITH_ROWS), *output, *program],
            "and callers (pystap sql)": [PYSTAP, "sql", *output, *program],
        }
        for version in ["sqlalchemy-1.4", "sqlalchemy-2.0"]:
            times = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way, command in ways.items():
                    times[way].append(took(command, version))
            least = statistics.median(times["untraced"])
            print(f"{version}, {PYTHON}, {ROUNDS} rounds")
            for way, taken in times.items():
                median = statistics.median(taken)
                print(f"  {way:<26}{median:7.1f} us a statement  {median / least:5.2f} times")


main()
