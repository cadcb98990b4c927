"""Imports: one that works and one that does not.

Shape: main() is called once; load_present() imports json, which brings along the modules it needs that are not there yet;
load_absent() tries a module that does not exist and goes on. The last line lists what was imported by these two, as
found by comparing sys.modules.
"""

import sys

ABSENT = "no_such_module_for_pystap"


def load_present():
    import json

    return json


def load_absent():
    try:
        __import__(ABSENT)
    except ImportError:
        return False
    return True


def main():
    before = set(sys.modules)
    json = load_present()
    imported = sorted(set(sys.modules) - before)
    found = load_absent()
    print("found", ABSENT, found)
    calls = {"main": 1, "load_present": 1, "load_absent": 1}
    print(json.dumps({"calls": calls, "imported": imported, "missing": [ABSENT]}))


main()
