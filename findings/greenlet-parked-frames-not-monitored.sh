#!/usr/bin/env bash
# A greenlet that is parked when sys.monitoring is switched on returns without an event, although its function is watched.
#
# Packages: Debian 13's python3.13-minimal, libpython3.13-minimal, libpython3.13-stdlib 3.13.5-2+deb13u5 with the libraries that
# they need; greenlet 3.5.6.
#
# Expectation: `sys.monitoring.set_events` reaches the code that runs already. CPython promises this for frames on the stacks of
# threads, and a suspended generator, which is on no stack either, tells its return as well.
#
# Behaviour: the frames of a greenlet that waits for its turn belong to no thread at that moment, so the interpreter puts no
# instrumentation into their code; and when the greenlet is switched to, it goes on behind the instruction that would look for
# changes. Its function returns unseen, with and without a loop around the switch. Code that is called anew is seen again.
#
# For users of pystap: its agent looks for parked greenlets when a session begins and has their code watched; docs/agent.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

# Debian 13's packages, with lists of their own, from wherever this machine has Debian 12's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | sort -u | head -n 1)
mkdir -p apt/lists/partial apt/cache/archives/partial debs
: >apt/status
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >apt/sources.list
options=(
    -o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::State::status=$place/apt/status"
    -o "Dir::Cache=$place/apt/cache" -o APT::Sandbox::User=root
)
apt-get "${options[@]}" -qq update >/dev/null
(
    cd debs
    apt-get "${options[@]}" -qq download python3.13-minimal=3.13.5-2+deb13u5 libpython3.13-minimal=3.13.5-2+deb13u5 \
        libpython3.13-stdlib=3.13.5-2+deb13u5 libc6=2.41-12+deb13u5 libexpat1=2.9.0-1~deb13u1 \
        libgcc-s1=14.2.0-19 libstdc++6=14.2.0-19 zlib1g=1:1.3.dfsg+really1.3.1-1+deb13u1 >/dev/null
)
for archive in debs/*.deb; do dpkg-deb -x "$archive" tree; done
python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --only-binary :all: \
    --python-version 3.13 --implementation cp --abi cp313 --platform manylinux_2_24_x86_64 --platform manylinux_2_28_x86_64 \
    --target packages greenlet==3.5.6

cat >look.py <<'PYTHON'
import sys

import greenlet

monitoring = sys.monitoring
returned = []


def parks():
    greenlet.getcurrent().parent.switch()


def parks_in_a_loop():
    for _ in range(3):
        greenlet.getcurrent().parent.switch()


def generates():
    yield


def called():
    pass


def watched(act):
    returned.clear()
    monitoring.set_events(2, monitoring.events.PY_RETURN)
    act()
    monitoring.set_events(2, 0)
    return list(returned)


def to_its_end(waiting):
    while not waiting.dead:
        waiting.switch()


def parked(function):
    waiting = greenlet.greenlet(function)
    waiting.switch()
    return waiting


monitoring.use_tool_id(2, "look")
monitoring.register_callback(2, monitoring.events.PY_RETURN, lambda code, offset, value: returned.append(code.co_name))
print(sys.version.split()[0], greenlet.__version__)
once, looping, generator = parked(parks), parked(parks_in_a_loop), generates()
next(generator)
print("a call:", "called" in watched(called))
print("a suspended generator:", "generates" in watched(lambda: list(generator)))
print("a parked greenlet:", "parks" in watched(lambda: to_its_end(once)))
print("a greenlet parked in a loop:", "parks_in_a_loop" in watched(lambda: to_its_end(looping)))
print("a greenlet that begins later:", "parks" in watched(lambda: to_its_end(parked(parks))))
PYTHON

libraries=$place/tree/usr/lib/x86_64-linux-gnu
PYTHONHOME=$place/tree/usr PYTHONPATH=$place/packages "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" \
    tree/usr/bin/python3.13 look.py >seen
cat seen
diff - seen <<'SEEN'
3.13.5 3.5.6
a call: True
a suspended generator: True
a parked greenlet: False
a greenlet parked in a loop: False
a greenlet that begins later: True
SEEN
