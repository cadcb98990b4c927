"""A program that is instrumented with OpenTelemetry: the names of its own spans, for what is said to be below them.

    spanning.py

Each line that it reads has it handle something within a span, and work within another one below that. It answers with their names, as
JSON.
"""

import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("spanning")


def handle():
    before()
    with tracer.start_as_current_span("inner") as span:
        work()
        return span.get_span_context()


def before():
    pass


def work():
    pass


print("ready", flush=True)
for line in sys.stdin:
    with tracer.start_as_current_span("outer") as span:
        inner = handle()
    outer = span.get_span_context()
    names = {"trace": f"{outer.trace_id:032x}", "outer": f"{outer.span_id:016x}", "inner": f"{inner.span_id:016x}"}
    print(json.dumps(names), flush=True)
print("{}")
