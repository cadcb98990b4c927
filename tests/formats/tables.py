"""Asks DuckDB and ClickHouse's engine the same about tables.

    tables.py DIRECTORY SQL...

prints what both answer as JSON: for each of them, for each statement, a list of rows. {events} and {functions} stand for the tables.
"""

import json
import sys

import chdb
import duckdb


def main(directory, *statements):
    tables = [f"{directory}/{name}.parquet" for name in ("events", "functions")]

    def asked(table, sql):
        events, functions = (table.format(name) for name in tables)
        return sql.format(events=events, functions=functions)

    ours = [duckdb.sql(asked("read_parquet('{}')", sql)).fetchall() for sql in statements]
    theirs = [
        json.loads(chdb.query(asked("file('{}', Parquet)", sql) + " settings output_format_json_quote_64bit_integers = 0", "JSONCompact").bytes())["data"]
        for sql in statements
    ]
    json.dump([ours, theirs], sys.stdout, default=str)


if __name__ == "__main__":
    main(*sys.argv[1:])
