"""Holds a manifest of Kubernetes, from standard input, against the schemas of one of its versions, in which every field must be known.

    manifest.py VERSION <MANIFEST

Writes what is in it as JSON. Ends with 1, and what is wrong on standard error, where something is.
"""

import json
import sys

import kubernetes_validate
import yaml

manifest = yaml.safe_load(sys.stdin)
try:
    kubernetes_validate.validate(manifest, sys.argv[1], strict=True)
except kubernetes_validate.ValidationError as error:
    sys.exit(f"{list(error.path)}: {error.message}")
json.dump(manifest, sys.stdout)
