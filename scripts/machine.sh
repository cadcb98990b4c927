# What the scripts need of the machine: Debian packages, and a Rust that is new enough. Sourced; installs only what is
# missing, and says what that is.

# The oldest Rust that compiles this crate, from the manifest.
rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# Where `cargo install` and rustup put their programs; a shell that is no login shell may not look there.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# need_root WHAT: both the packages and the guest (debootstrap, chroot) need root.
need_root() {
    [ "$(id -u)" = 0 ] || fail "make $1 installs packages and builds a guest with chroot, so it needs root: run it as root"
}

# install_packages PACKAGE...: those of them that are not installed.
install_packages() {
    local package missing=()
    command -v apt-get >/dev/null ||
        fail "this is not Debian (there is no apt-get), so nothing can be installed here: see README.md, \"Where it runs\""
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    printf 'installing %s\n' "${missing[*]}"
    # One package list that cannot be fetched is no reason to stop: the install below decides.
    apt-get update -qq || true
    without_services env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# without_services COMMAND...: installs something of which no service is started meanwhile. Tests start what they need themselves,
# and nobody shall find an sshd that listens because they ran pystap's tests.
without_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    "$@" || status=$?
    rm "$policy"
    return "$status"
}

# Whether there is a cargo, and it is new enough.
rust_is_there() {
    local version
    version=$(cargo --version 2>/dev/null | cut -d' ' -f2)
    [ -n "$version" ] && [ "$(printf '%s\n' "$rust_needed" "$version" | sort -V | head -n 1)" = "$rust_needed" ]
}

# Rust with rustfmt and clippy. Debian 12 has a new one beside its own old one, for browsers: the packages that end in -web.
install_rust() {
    if ! rust_is_there; then
        install_packages cargo-web rustc-web rust-web-clippy rustfmt-web ||
            fail "Rust $rust_needed or later is needed and this Debian has none: install it with rustup, then try again"
        # An old one elsewhere must not hide it.
        PATH=/usr/bin:$PATH
        rust_is_there || fail "cargo is still older than $rust_needed: install Rust with rustup, then try again"
    fi
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        if command -v rustup >/dev/null; then
            rustup component add rustfmt clippy
        else
            install_packages rust-web-clippy rustfmt-web
        fi
    fi
}
