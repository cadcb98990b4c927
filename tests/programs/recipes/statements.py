"""Sends the same statements to a database through the library that is named, some with secrets in them:

    statements.py LIBRARY [HOST PORT]

The database or the library writes down what it was asked; where that is the library, the number is printed at the end.
"""

import asyncio
import json
import sys

CREATE = "create temporary table pebbles (a integer, b varchar(10))"
INSERT = "insert into pebbles values ({}, {})"
MANY = "insert into pebbles (b, a) values ({}, {})"
FAILS = "select nothing from pebbles"
STREAM = "select b from pebbles"
CURSOR = "select a, b from pebbles"

ROWS = [(number, "secret") for number in range(20)]
MANY_ROWS = [("secret", number) for number in range(5)]
SELECTS = [
    f"select a from pebbles where b = 'secret'  and a in ({', '.join(str(number) for number in range(n + 1))})"
    for n in range(10)
]


def by_cursor(cursor, marker):
    """What DB-API has."""
    cursor.execute(CREATE)
    for row in ROWS:
        cursor.execute(INSERT.format(marker, marker), row)
    for select in SELECTS:
        cursor.execute(select)
        cursor.fetchall()
    cursor.executemany(MANY.format(marker, marker), MANY_ROWS)
    fails(cursor.execute)


def fails(execute):
    try:
        execute(FAILS)
    except Exception as error:
        return error
    raise SystemExit("that did not fail")


async def by_async_cursor(cursor, marker):
    """The same, awaited."""
    await cursor.execute(CREATE)
    for row in ROWS:
        await cursor.execute(INSERT.format(marker, marker), row)
    for select in SELECTS:
        await cursor.execute(select)
        await cursor.fetchall()
    await cursor.executemany(MANY.format(marker, marker), MANY_ROWS)
    await fails_awaited(cursor.execute)


async def fails_awaited(execute):
    try:
        await execute(FAILS)
    except Exception as error:
        return error
    raise SystemExit("that did not fail")


def by_engine(connection, text):
    """The same through SQLAlchemy."""
    connection.execute(text(CREATE))
    for row in ROWS:
        connection.execute(text(INSERT.format(":a", ":b")), dict(zip("ab", row)))
    for select in SELECTS:
        connection.execute(text(select)).fetchall()
    connection.execute(text(MANY.format(":b", ":a")), [dict(zip("ba", row)) for row in MANY_ROWS])
    fails(lambda statement: connection.execute(text(statement)))


def pymysql(host, port):
    import pymysql

    connection = pymysql.connect(host=host, port=port, user="root", database="test", autocommit=True)
    by_cursor(connection.cursor(), "%s")


def aiomysql(host, port):
    import aiomysql

    async def main():
        connection = await aiomysql.connect(host=host, port=port, user="root", db="test", autocommit=True)
        await by_async_cursor(await connection.cursor(), "%s")
        connection.close()

    asyncio.run(main())


def postgres(host, port):
    return f"host={host} port={port} user=tester dbname=postgres"


def psycopg(host, port):
    import psycopg

    connection = psycopg.connect(postgres(host, port), autocommit=True)
    by_cursor(connection.cursor(), "%s")
    for _ in connection.cursor().stream(STREAM):
        pass


def psycopg_async(host, port):
    import psycopg

    async def main():
        connection = await psycopg.AsyncConnection.connect(postgres(host, port), autocommit=True)
        await by_async_cursor(connection.cursor(), "%s")
        async for _ in connection.cursor().stream(STREAM):
            pass
        await connection.close()

    asyncio.run(main())


def psycopg2(host, port):
    import psycopg2

    connection = psycopg2.connect(postgres(host, port))
    connection.autocommit = True
    by_cursor(connection.cursor(), "%s")


def asyncpg(host, port):
    import asyncpg

    async def main():
        connection = await asyncpg.connect(host=host, port=port, user="tester", database="postgres")
        await connection.execute(CREATE)
        for row in ROWS:
            await connection.execute(INSERT.format("$1", "$2"), *row)
        for select in SELECTS:
            await connection.fetch(select)
        await connection.executemany(MANY.format("$1", "$2"), MANY_ROWS)
        await fails_awaited(connection.fetchrow)
        prepared = await connection.prepare(STREAM)
        await prepared.fetch()
        async with connection.transaction():
            async for _ in connection.cursor(CURSOR, prefetch=10):
                pass
        await connection.close()

    asyncio.run(main())


def through_sqlalchemy(url):
    """Of a driver that is called and one that is awaited."""
    from sqlalchemy import text

    if "async" not in url and "aio" not in url:
        from sqlalchemy import create_engine

        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            by_engine(connection, text)
        return

    from sqlalchemy.ext.asyncio import create_async_engine

    async def main():
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.run_sync(by_engine, text)
        await engine.dispose()

    asyncio.run(main())


def aiosqlite():
    import aiosqlite

    async def main():
        told = []
        connection = await aiosqlite.connect(":memory:", isolation_level=None)
        await connection.set_trace_callback(told.append)
        await by_async_cursor(await connection.cursor(), "?")
        await connection.close()
        return told

    print(json.dumps(sum("pebbles" in statement for statement in asyncio.run(main()))))


def django():
    from django.conf import settings

    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    settings.configure(DATABASES=databases)
    import django

    django.setup()
    from django.db import connection

    told = []

    def tell(execute, sql, parameters, many, context):
        told.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(tell), connection.cursor() as cursor:
        by_cursor(cursor, "%s")
    print(json.dumps(len(told)))


LIBRARIES = {
    "pymysql": pymysql,
    "aiomysql": aiomysql,
    "psycopg": psycopg,
    "psycopg-async": psycopg_async,
    "psycopg2": psycopg2,
    "asyncpg": asyncpg,
    "aiosqlite": aiosqlite,
    "django": django,
}

library, *where = sys.argv[1:]
if "+" in library:
    through_sqlalchemy(library.format(*where))
else:
    LIBRARIES[library](*[int(it) if it.isdigit() else it for it in where])
