#!/usr/bin/env bash
# CPython 3.15's USDT probe for function entry passes the line -1 for functions that share variables with others.
#
# Packages: Debian testing's python3.15-minimal, libpython3.15-minimal, libpython3.15-stdlib 3.15.0-1 with the libraries that
# they need; pyelftools 0.32. Needs root and a kernel with uprobe events.
#
# Expectation: `function__entry` passes the line where the function begins, as up to 3.11 and as it does for plain functions.
#
# Behaviour: a function with cells or free variables (one that an inner function takes a variable from, that inner function, a
# method that calls `super()`) begins with instructions that belong to no line, and -1 is passed. `function__return` passes the
# real line for the same functions.
#
# For users of pystap: such calls have no line with Python 3.15's own probes; with `--agent` they have. docs/events.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

# Debian testing's packages, with lists of their own, from wherever this machine has Debian 12's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | sort -u | head -n 1)
mkdir -p apt/lists/partial apt/cache/archives/partial debs
: >apt/status
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" >apt/sources.list
options=(
    -o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::State::status=$place/apt/status"
    -o "Dir::Cache=$place/apt/cache" -o APT::Sandbox::User=root
)
apt-get "${options[@]}" -qq update >/dev/null
(
    cd debs
    apt-get "${options[@]}" -qq download python3.15-minimal=3.15.0-1 libpython3.15-minimal=3.15.0-1 \
        libpython3.15-stdlib=3.15.0-1 libc6 libexpat1 libgcc-s1 libzstd1 zlib1g >/dev/null
)
for archive in debs/*.deb; do dpkg-deb -x "$archive" tree; done
ln -s usr/lib tree/lib 2>/dev/null || true
ln -s usr/lib64 tree/lib64 2>/dev/null || true
python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --target packages pyelftools==0.32

cat >tree/program.py <<'PYTHON'
def plain():
    return 1


def shares():
    variable = 1

    def uses():
        return variable

    return uses()


class Base:
    def method(self):
        return 1


class Derived(Base):
    def method(self):
        return super().method()


plain()
shares()
Derived().method()
PYTHON

cat >watch.py <<'PYTHON'
import os
import re
import struct
import subprocess

from elftools.elf.elffile import ELFFile

TRACING = "/sys/kernel/tracing"
GROUP = f"finding_{os.getpid()}"
INTERPRETER = os.path.realpath("tree/usr/bin/python3.15")


def register(operand):
    """A register as uprobe events call it: %ax for %eax and %rax."""
    name = operand.split("@%")[1]
    return "%" + (name if name[1:].isdigit() else name[1:])


def definition(event, probe):
    with open(INTERPRETER, "rb") as file:
        elf = ELFFile(file)

        def offset(address):
            for segment in elf.iter_segments("PT_LOAD"):
                if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_filesz"]:
                    return address - segment["p_vaddr"] + segment["p_offset"]

        moved = elf.get_section_by_name(".stapsdt.base")["sh_addr"]
        notes, at = elf.get_section_by_name(".note.stapsdt").data(), 0
        while at < len(notes):
            owner, length, _ = struct.unpack_from("<III", notes, at)
            at += 12 + (owner + 3 & ~3)
            site, base, semaphore = struct.unpack_from("<QQQ", notes, at)
            _, name, arguments, *_ = notes[at + 24 : at + length].decode().split("\0")
            at += length + 3 & ~3
            if name == probe:
                _, function, line = map(register, arguments.split())
                where = f"{offset(site + moved - base):#x}({offset(semaphore + moved - base):#x})"
                return f"p:{GROUP}/{event} {INTERPRETER}:{where} function=+0({function}):string line={line}:s32\n"


def define(text):
    events = os.open(f"{TRACING}/uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(events, text.encode())
    finally:
        os.close(events)


instance = f"{TRACING}/instances/{GROUP}"
os.makedirs(instance)
try:
    for event, probe in ("entry", "function__entry"), ("return", "function__return"):
        define(definition(event, probe))
    for state in "1", "0":
        with open(f"{instance}/events/{GROUP}/enable", "w") as file:
            file.write(state)
        if state == "1":
            subprocess.run(["chroot", "tree", "/usr/bin/python3.15", "-S", "/program.py"], check=True)
    with open(f"{instance}/trace") as file:
        trace = file.read()
finally:
    os.rmdir(instance)
    for event in "entry", "return":
        try:
            define(f"-:{GROUP}/{event}\n")
        except OSError:
            pass
for event, function, line in re.findall(r': (entry|return): .*function="(plain|shares|uses|method)" line=(-?\d+)', trace):
    print(event, function, line)
PYTHON

version=$(chroot tree /usr/bin/python3.15 -S -c 'import sys; print(sys.version.split()[0])')
{ echo "$version" && PYTHONPATH=$place/packages python3 watch.py; } >seen
cat seen
diff - seen <<'SEEN'
3.15.0
entry plain 1
return plain 2
entry shares -1
entry uses -1
return uses 9
return shares 11
entry method -1
entry method 15
return method 16
return method 21
SEEN
