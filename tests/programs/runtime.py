"""What the runtime of Python does, in numbers known beforehand: garbage collections, imports, audit events.

Shape: automatic collection is off; gc.collect() runs three times; one module is imported that exists and one that does
not; the audit event "pystap.test" is raised seven times. The last line of output says so. (importlib.import_module() would
not do: it is written in Python and passes no mark.)
"""

import gc
import json
import sys

PRESENT, ABSENT = "colorsys", "no_such_module_for_pystap"

gc.disable()
gc.freeze()
collected = [gc.collect() for _ in range(3)]
__import__(PRESENT)
try:
    __import__(ABSENT)
except ImportError:
    pass
for _ in range(7):
    sys.audit("pystap.test")
print(
    json.dumps(
        {"collected": collected, "imported": [PRESENT], "missing": [ABSENT], "audited": {"pystap.test": 7}}
    )
)
