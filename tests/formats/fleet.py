"""Runs the SQL of docs/fleet.md in DuckDB and ClickHouse's engine.

    fleet.py PAGE DIRECTORY

takes the page as it stands, with DIRECTORY in the place of `fleet`, and prints what both answer as JSON: for each of them, for each
statement, a list of rows.
"""

import json
import re
import sys

import duckdb
from chdb import session


def main(page, directory):
    text = open(page).read().replace("'fleet/", f"'{directory}/")
    views = re.findall(r"```\n(create view .*?)\n```", text, re.DOTALL)
    (ours,) = [view for view in views if "read_parquet" in view]
    (theirs,) = [view for view in views if "file(" in view]
    statements = re.findall(r"```sql\n(.*?)\n```", text, re.DOTALL)
    duckdb.sql(ours)
    clickhouse = session.Session()
    clickhouse.query(theirs)
    settings = " settings output_format_json_quote_64bit_integers = 0"
    json.dump(
        [
            [duckdb.sql(sql).fetchall() for sql in statements],
            [json.loads(clickhouse.query(sql + settings, "JSONCompact").bytes())["data"] for sql in statements],
        ],
        sys.stdout,
        default=str,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
