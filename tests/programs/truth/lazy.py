"""A lazy import (PEP 810, Python 3.15): the module is looked for when it is first used, within the call that uses it.

The last line is the truth: {"before": IS_LOADED, "after": IS_LOADED} of the module colorsys around the call of use().
"""

import json
import sys

lazy import colorsys


def use():
    return colorsys.ONE_THIRD


before = "colorsys" in sys.modules
use()
print(json.dumps({"before": before, "after": "colorsys" in sys.modules}))
