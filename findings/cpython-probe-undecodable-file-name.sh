#!/usr/bin/env bash
# CPython's own USDT probe for function entry makes a program fail when a traced file name is not UTF-8.
#
# Packages: Debian 12's python3.11-minimal, libpython3.11-minimal and libpython3.11-stdlib, 3.11.2-6+deb12u8; pyelftools 0.32.
#
# Expectation: a probe watches. With the semaphores of `function__entry` and `line` raised, as a tracer's first step raises them,
# a function whose code has the file name b'/srv/caf\xe9/x.py' (Python's own spelling: a surrogate escape) runs as before.
#
# Behaviour: the interpreter encodes the file name as UTF-8 for the probe, gets no text, leaves the exception set, and the call
# ends with SystemError although the function is well. A file name that is UTF-8 is no trouble. No tracer is needed to see it:
# the semaphores are 16-bit words of the process itself, which its ELF notes name, and this script raises them from within.
#
# For users of pystap: it looks for such names before it arms these probes, and `--agent` does no harm.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

debian=3.11.2-6+deb12u8
for package in python3.11-minimal libpython3.11-minimal libpython3.11-stdlib; do
    apt-get download -qq -o APT::Sandbox::User=root "$package=$debian" >/dev/null
done
for archive in ./*.deb; do dpkg-deb -x "$archive" tree; done
python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --target packages pyelftools==0.32

cat >look.py <<'PYTHON'
import ctypes, os, struct, sys

from elftools.elf.elffile import ELFFile

path = os.path.realpath(sys.executable)
semaphores = {}
with open(path, "rb") as file:
    elf = ELFFile(file)
    moved = elf.get_section_by_name(".stapsdt.base")["sh_addr"]
    notes = elf.get_section_by_name(".note.stapsdt").data()
    at = 0
    while at < len(notes):
        name, description, _ = struct.unpack_from("<III", notes, at)
        at += 12 + (name + 3 & ~3)
        _, base, semaphore = struct.unpack_from("<QQQ", notes, at)
        probe = notes[at + 24 : at + description].split(b"\0")[1].decode()
        semaphores[probe] = semaphore + moved - base
        at += description + 3 & ~3
    independent = elf["e_type"] == "ET_DYN"
loaded = 0
if independent:
    with open("/proc/self/maps") as maps:
        loaded = next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(path))


def run(name):
    code = compile("def f():\n    return 1\nf()\n", name, "exec")
    try:
        exec(code, {})
    except BaseException as error:
        return type(error).__name__
    return "ran"


strange = os.fsdecode(b"/srv/caf\xe9/x.py")
print(sys.version.split()[0])
print("probes off, not UTF-8:", run(strange))
for probe in ("function__entry", "line"):
    ctypes.c_uint16.from_address(loaded + semaphores[probe]).value += 1
print("probes on, UTF-8:", run("/srv/caf\u00e9/x.py"))
print("probes on, not UTF-8:", run(strange))
PYTHON

PYTHONHOME=$place/tree/usr PYTHONPATH=$place/packages tree/usr/bin/python3.11 look.py >seen
cat seen
diff - seen <<'SEEN'
3.11.2
probes off, not UTF-8: ran
probes on, UTF-8: ran
probes on, not UTF-8: SystemError
SEEN
