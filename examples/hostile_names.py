"""Function and file names that nobody writes, but that code objects can carry.

Shape: each of the names below is the name of one function, called exactly twice, in a file of an equally odd name; the
functions do nothing. With --surrogates there are two more whose names cannot be written as UTF-8 (lone surrogates, as they
come from os.fsdecode of undecodable bytes): CPython has no string to pass to its marks for these, so a tracer sees a null
pointer; on some versions the interpreter itself does not survive being traced there.
"""

import json
import sys

NAMES = [
    "x" * 600,
    "é" * 300,
    "",
    " ",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\x1b[31mred\x1b[0m",
    'quote"quote',
    "apostrophe's",
    "back\\slash",
    "trailing\\",
    "\\042\\n\\x41",
    "100%d%s%n%%",
    "nul\0hidden",
    "emoji \U0001f40d",
    "right-to-left \u202e\u05d0",
    "{json: [1, 2]}",
    "<module>",
    "a;b 1",
    "\x7f\x01",
    "\ufeffbom",
]
SURROGATES = ["lone \udc80\udcff", "\ud800"]


def template():
    pass


def make(name):
    """A function whose code has this name, in a file of this name."""
    changes = {"co_name": name, "co_filename": "/hostile/" + name + ".py"}
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = name
    return type(template)(template.__code__.replace(**changes), {})


def main():
    names = NAMES + (SURROGATES if "--surrogates" in sys.argv[1:] else [])
    functions = [make(name) for name in names]
    for function in functions:
        function()
        function()
    calls = {name: 2 for name in names}
    calls.update(main=1, make=len(names))
    print(json.dumps({"calls": calls}))


main()
