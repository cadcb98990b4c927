"""Functions and files with names from a list, every function in every file called once."""

FUNCTIONS = [
    "a",
    "ab",
    "abc",
    "b",
    "c*",
    "*",
    "!x",
    "7",
    "70",
    "é",
    "aé",
    "say\"it\"",
    "it's",
    "it's \"both\"",
    "[a]",
    "]",
    "back\\slash",
    "<lambda>",
]
FILES = ["/names/a/b.py", "/names/a/b/__init__.py", "/names/b/c.py", "/names/b/é.py", "/names/x y/[z].py", "/names/7"]


def template():
    pass


for file in FILES:
    for name in FUNCTIONS:
        code = template.__code__.replace(co_name=name, co_filename=file)
        type(template)(code, {})()
