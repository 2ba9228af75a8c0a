#!/usr/bin/env bash
# Runs the tests of examples/search, in a real browser too.
source "$(dirname "$0")/common.sh"
use_postgres
export_test_environment

install_browser() {
    local sudo=()
    ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null || return 0
    is_root || sudo=(sudo)
    say "Installing the Debian packages chromium and chromium-driver"
    "${sudo[@]}" bash -c "$(declare -f apt_install); apt_install chromium chromium-driver fonts-dejavu-core" ||
        say "Not installed; the tests in a browser say that they are skipped"
}

install_browser
cargo test --release -p pg_embed-search
