#!/usr/bin/env bash
# A profile function makes CPython 3.11 run all bytecode about half as fast, also that of functions that call nothing.
#
# Packages: Debian 12's python3.11-minimal, libpython3.11-minimal and libpython3.11-stdlib, 3.11.2-6+deb12u8; Debian 13's
# python3.13-minimal, libpython3.13-minimal and libpython3.13-stdlib, 3.13.5-2+deb13u5 with the libraries that they need.
#
# Expectation: a profile function hears of calls and returns, so that a loop without calls costs what it did. It does with 3.10, and
# with 3.13, where cProfile listens through sys.monitoring (1.0 to 1.1 times as long).
#
# Behaviour: with cProfile on, a loop of additions and comparisons takes about 1.9 times as long in 3.11. As long as there is a profile
# function, the interpreter goes through its tracing case for each instruction, and uses none of its specialised ones. What
# works in C is as fast as ever, so that profiles of such a program show it smaller than it is.
#
# For users of pystap: up to 3.11 the agent hears calls through a profile function. Shares of a traced Python 3.11 show C code too
# small; `--sample` does not change them. docs/truth.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

mkdir debs tree-3.11 tree-3.13 lists
debian12=3.11.2-6+deb12u8 debian13=3.13.5-2+deb13u5
(
    cd debs
    for package in python3.11-minimal libpython3.11-minimal libpython3.11-stdlib; do
        apt-get download -qq -o APT::Sandbox::User=root "$package=$debian12" >/dev/null
    done
)
for archive in debs/*.deb; do dpkg-deb -x "$archive" tree-3.11; done
rm debs/*

# Debian 13's packages, with lists of their own, from wherever this machine has Debian 12's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | sort -u | head -n 1)
mkdir -p apt/lists/partial apt/cache/archives/partial
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
    apt-get "${options[@]}" -qq download "python3.13-minimal=$debian13" "libpython3.13-minimal=$debian13" \
        "libpython3.13-stdlib=$debian13" libc6 libexpat1 libgcc-s1 zlib1g >/dev/null
)
for archive in debs/*.deb; do dpkg-deb -x "$archive" tree-3.13; done
ln -s usr/lib tree-3.13/lib 2>/dev/null || true
ln -s usr/lib64 tree-3.13/lib64 2>/dev/null || true

cat >loop.py <<'PYTHON'
import cProfile
import sys
import time


def loop():
    total = 0
    for number in range(200000):
        total = total + number * 2
        if total > 1000000:
            total = 0


def least():
    times = []
    for _ in range(25):
        begun = time.perf_counter()
        loop()
        times.append(time.perf_counter() - begun)
    return min(times)


alone = least()
profile = cProfile.Profile()
profile.enable()
profiled = least()
profile.disable()
print(sys.version.split()[0], round(profiled / alone, 2))
PYTHON

run_311() { PYTHONHOME=$place/tree-3.11/usr tree-3.11/usr/bin/python3.11 -S loop.py; }
run_313() {
    local tree=$place/tree-3.13
    PYTHONHOME=$tree/usr "$tree"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path "$tree/usr/lib/x86_64-linux-gnu" \
        "$tree/usr/bin/python3.13" -S loop.py
}
said="$(run_311) $(run_313)"
echo "times as long with a profile function: $said"
read -r one slow other quick <<<"$said"
[ "$one" = 3.11.2 ] && [ "$other" = 3.13.5 ]
python3 -c 'import sys; slow, quick = map(float, sys.argv[1:]); sys.exit(not (slow > 1.5 and quick < 1.3))' "$slow" "$quick"
echo "as described"
