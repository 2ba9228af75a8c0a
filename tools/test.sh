#!/usr/bin/env bash
# Runs every test.
source "$(dirname "$0")/common.sh"
use_postgres
export_test_environment

# Only these tests want it.
install_cargo_pgrx() {
    local where=()
    [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ] || return 0
    # Another version stays as it is.
    if command -v cargo-pgrx >/dev/null; then
        where=(--root "$DEV/cargo")
    fi
    say "Installing cargo-pgrx $PGRX_VERSION (about 3 minutes)"
    # The features left out are for downloading a Postgres, and would want OpenSSL.
    cargo install cargo-pgrx --version "=$PGRX_VERSION" --locked --no-default-features "${where[@]}"
}

# The small models of the tests, where the servers of the tests find them.
copy_test_models() {
    local file
    for file in tests/data/*/model.onnx; do
        cp -r "$(dirname "$file")" "$MODELS/"
    done
}

# What `cargo pgrx test` does, for the library's own tests alone: it would run tests/integration too, on a build with
# the test functions in it. The environment is how it talks to pgrx-tests.
pgrx_test() {
    local data=$DEV/pgrx-test
    rm -rf "$data"
    make_dir "$data"
    export CARGO_PGRX_TEST_PGDATA=$data PGRX_BUILD_PROFILE=release PGRX_NO_DEFAULT_FEATURES=true
    export PGRX_FEATURES="pg$MAJOR pg_test"
    export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 # build.rs does it
    if is_root; then
        export CARGO_PGRX_TEST_RUNAS=$SERVER_USER
    fi
    # pgrx installs a library with the test functions, and its own SQL: the extension is put back afterwards. What it
    # writes into must not be what running servers have mapped.
    put "$ROOT$PKGLIBDIR/pg_embed.so" "$ROOT$PKGLIBDIR/pg_embed.so"
    rm -f "$ROOT/built"
    cargo test --release --lib --no-default-features --features "$PGRX_FEATURES"
    rm -rf "$data"
}

copy_test_models
install_twin "$(demo_model)"
say "The model of the tests is $(demo_model)"

say "1/5 The crates that know nothing of Postgres"
cargo test --release -p embedder -p ivf

say "2/5 The functions marked #[pg_test], inside PostgreSQL $MAJOR"
install_cargo_pgrx
(pgrx_test)

say "3/5 SQL against expected output (tests/pg_regress)"
tools/build.sh
tests/regress.sh

say "4/5 Getting, fusing and quantising a model (tests/test_get_model.sh, tests/test_model_tools.sh)"
tests/test_get_model.sh
install_model_tools
tests/test_model_tools.sh "$DEV/venv/bin/python"

say "5/5 Whole clusters (tests/integration)"
cargo test --release --test integration "${FEATURES[@]}"
