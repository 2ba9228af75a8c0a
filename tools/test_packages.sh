#!/usr/bin/env bash
# test_packages.sh [SYSTEM...]: makes the Debian packages, and installs them in a bare system without a compiler. The system
# is this machine's own, if none is named; for another one the packages are made in a directory with that. For root.
source "$(dirname "$0")/common.sh"
source tools/systems.sh

this_system() (
    source /etc/os-release
    echo "$ID$VERSION_ID"
)

# make_packages SYSTEM: leaves them in $packages.
make_packages() {
    local system=$systems/packing
    rm -rf "$packages"
    mkdir -p "$packages"
    if [ "$1" = "$(this_system)" ]; then
        rm -rf dist
        tools/deb.sh
        cp dist/*.deb "$packages/"
        return
    fi
    new_system "$1" "$system"
    give_rust "$system"
    git clone --quiet "$SOURCE" "$system/src"
    # What does not depend on the system need not be downloaded again.
    mkdir -p "$system/var/tmp/pg_embed"
    cp -r "$DEV/lib" "$MODELS" "$system/var/tmp/pg_embed/"
    in_system "$system" 'apt-get update -qq; apt-get install -y -qq --no-install-recommends make >/dev/null'
    in_system "$system" 'cd /src; make deb DEV=/var/tmp/pg_embed'
    cp "$system"/src/dist/*.deb "$packages/"
    rm -rf "$system"
}

check_packages() {
    command -v lintian >/dev/null || (apt_install lintian)
    say "lintian"
    runuser -u nobody -- lintian --fail-on error --tag-display-limit 0 "$packages"/*.deb
}

# install_in SYSTEM
install_in() {
    local system=$systems/installed
    new_system "$1" "$system"
    mkdir "$system/packages"
    cp "$packages"/*.deb tools/demo/texts.txt tests/installed_package.sh "$system/packages/"
    in_system "$system" 'bash /packages/installed_package.sh'
    rm -rf "$system"
}

packages=$systems/packages
[ "$#" != 0 ] || set -- "$(this_system)"
[ -e "$DEV/venv/ok" ] || tools/setup.sh
for system in "$@"; do
    say "Packages for $system"
    make_packages "$system"
    check_packages
    install_in "$system"
    say "The packages for $system are tested, in $SECONDS s"
done
