#!/usr/bin/env bash
# Builds the extension and installs it into the private tree.
source "$(dirname "$0")/common.sh"
use_postgres

built=$ROOT/built # as old as the sources that the last build saw
sources=(Cargo.toml Cargo.lock pg_embed.control src sql crates)

if [ ! -e "$ROOT$PKGLIBDIR/pg_embed.so" ]; then
    say "Building pg_embed for PostgreSQL $MAJOR (the first time takes about 3 minutes)"
elif [ ! -e "$built" ] || [ -n "$(find "${sources[@]}" -newer "$built" -print -quit)" ]; then
    say "Building pg_embed for PostgreSQL $MAJOR"
else
    exit 0
fi
touch "$built.new"
fresh_library
cargo pgrx install --release --pg-config "$ROOT$BINDIR/pg_config" "${FEATURES[@]}" >"$DEV/build.log" ||
    die "the build failed; what cargo pgrx said besides is in $DEV/build.log"
mv "$built.new" "$built"
