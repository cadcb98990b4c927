"""nova-conductor that writes down itself what it does, for `run --truth` to hold what pystap saw against.

Each remote call, each statement that SQLAlchemy tells with its own event, and each `do_execute` is a line of JSON in
/nova/truth/PID.jsonl, which is appended to in one write, so that it is whole at any moment. Times are of the functions that
pystap times too, from just outside of them; `ts` is when they began, in nanoseconds since the Unix epoch.
"""

import json
import os
import sys
import time

# First of all, because it decides whether eventlet's version of the standard library is used.
from nova.cmd import conductor

import sqlalchemy.event
from oslo_context import context
from oslo_messaging.rpc import dispatcher
from sqlalchemy.engine import Engine, default


def write(kind, began, **what):
    line = json.dumps({"kind": kind, "ts": began, **what}) + "\n"
    file = os.open(f"/nova/truth/{os.getpid()}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def request():
    current = context.get_current()
    return current.request_id if current else None


dispatch = dispatcher.RPCDispatcher._do_dispatch
execute = default.DefaultDialect.do_execute


def timed_dispatch(self, endpoint, method, ctxt, args):
    ts, began = time.time_ns(), time.perf_counter_ns()
    try:
        return dispatch(self, endpoint, method, ctxt, args)
    finally:
        took = time.perf_counter_ns() - began
        write("call", ts, method=method, request=ctxt.get("request_id"), ns=took)


def timed_execute(self, cursor, statement, parameters, context=None):
    ts, began = time.time_ns(), time.perf_counter_ns()
    try:
        return execute(self, cursor, statement, parameters, context)
    finally:
        took = time.perf_counter_ns() - began
        write("execute", ts, statement=statement, ns=took)


def told(connection, cursor, statement, parameters, context, executemany):
    write("statement", time.time_ns(), statement=statement, request=request())


dispatcher.RPCDispatcher._do_dispatch = timed_dispatch
default.DefaultDialect.do_execute = timed_execute
sqlalchemy.event.listen(Engine, "after_cursor_execute", told)
sys.exit(conductor.main())
