#!/usr/bin/env bash
# In CPython 3.13 an interpreter with a lock of its own waits for the main interpreter's lock when it imports an extension module.
#
# Packages: Debian 13's python3.13-minimal, libpython3.13-minimal and libpython3.13-stdlib, 3.13.5-2+deb13u5 with the libraries that
# they need.
#
# Expectation: an interpreter that was made "isolated" has a lock of its own (PEP 684), and imports an extension module that supports
# that, such as _json, while the main interpreter is busy, as it runs Python code and imports modules that are written in Python.
#
# Behaviour: the import takes until the main interpreter gives up its lock, here as long as a sum in C of about a second, and does in
# each interpreter. The function that makes the module runs with a thread state of the main interpreter. 3.14.8 and 3.15.0 do the same.
#
# For users of pystap: imports that are slow within an interpreter need not be slow themselves. `pystap offcpu` shows that time as
# `gil`, in a function of importlib. docs/offcpu.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

# Debian 13's packages, with lists of their own, from wherever this machine has Debian 12's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | sort -u | head -n 1)
mkdir -p apt/lists/partial apt/cache/archives/partial debs tree
: >apt/status
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >apt/sources.list
options=(
    -o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::State::status=$place/apt/status"
    -o "Dir::Cache=$place/apt/cache" -o APT::Sandbox::User=root
)
apt-get "${options[@]}" -qq update >/dev/null
version=3.13.5-2+deb13u5
(
    cd debs
    apt-get "${options[@]}" -qq download "python3.13-minimal=$version" "libpython3.13-minimal=$version" \
        "libpython3.13-stdlib=$version" libc6 libexpat1 libgcc-s1 zlib1g >/dev/null
)
for archive in debs/*.deb; do dpkg-deb -x "$archive" tree; done
ln -s usr/lib tree/lib 2>/dev/null || true
ln -s usr/lib64 tree/lib64 2>/dev/null || true

cat >tree/program.py <<'PYTHON'
import _interpreters
import json
import os
import sys
import threading
import time

WITHIN = """
import os, time, sys
def took(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
os.write({ready}, b'.')
os.read({busy}, 1)
times = [
    took(lambda: [number * number for number in range(10000)]),
    took(lambda: __import__('colorsys')),
    took(lambda: __import__('_json')),
]
os.write({told}, repr(times).encode())
"""


def measured():
    ready, busy, told = os.pipe(), os.pipe(), os.pipe()
    made = _interpreters.create("isolated")
    code = WITHIN.format(ready=ready[1], busy=busy[0], told=told[1])
    failures = []
    thread = threading.Thread(target=lambda: failures.append(_interpreters.exec(made, code)))
    thread.start()
    os.read(ready[0], 1)
    begun = time.perf_counter()
    os.write(busy[1], b".")
    # One call in C, in which the lock is not given up.
    sum(range(200_000_000))
    call = time.perf_counter() - begun
    thread.join()
    assert failures == [None], failures
    _interpreters.destroy(made)
    return [call, *eval(os.read(told[0], 1000))]


print(sys.version.split()[0])
for turn in 1, 2:
    names = "main's call", "Python code", "module in Python", "extension module"
    times = dict(zip(names, measured()))
    print(f"interpreter {turn}:", ", ".join(f"{name} {took:.3f} s" for name, took in times.items()))
    assert times["main's call"] > 0.3
    assert times["Python code"] < 0.5 * times["main's call"]
    assert times["module in Python"] < 0.5 * times["main's call"]
    assert times["extension module"] > 0.5 * times["main's call"]
PYTHON
chroot tree /usr/bin/python3.13 /program.py
