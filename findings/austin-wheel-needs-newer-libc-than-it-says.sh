#!/usr/bin/env bash
# The wheel of the sampler austin is installed on systems on which its program cannot start.
#
# Package: austin-dist 4.0.0 from PyPI (x86-64), looked at with readelf of binutils.
#
# Expectation: a wheel with the tag manylinux_2_12 runs where the C library is glibc 2.12 or later, which is what the tag is for:
# pip installs it nowhere else.
#
# Behaviour: its program needs symbols of glibc 2.38. On Debian 12 (2.36), Ubuntu 22.04 (2.35) and RHEL 9 (2.34) pip installs it
# without a word, and the first start of `austin` ends with the loader's message about a version that was not found. 3.7.0 is the
# last one that starts there.
#
# For users of pystap: who wants to compare the two on such a system takes austin-dist 3.7.0. (docs/sampling.md)
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

newest_symbol() { # VERSION: of the C library, that the program of this version of the wheel needs
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux2010_x86_64 --platform manylinux_2_12_x86_64 --dest "$1" "austin-dist==$1"
    python3 -m zipfile -e "$1"/*.whl "$1/wheel"
    local program
    program=$(find "$1/wheel" -type f -name austin)
    readelf --version-info --wide "$program" | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -uV | tail -n 1
}

new=$(newest_symbol 4.0.0)
old=$(newest_symbol 3.7.0)
echo "4.0.0: $(basename 4.0.0/*.whl) needs glibc $new"
echo "3.7.0: $(basename 3.7.0/*.whl) needs glibc $old"
[[ "$(basename 4.0.0/*.whl)" == *manylinux_2_12_x86_64* ]]
[ "$new" = 2.38 ]
[ "$(printf '%s\n' "$old" 2.34 | sort -V | tail -n 1)" = 2.34 ]
echo "as described: the tag says 2.12"
