#!/usr/bin/env bash
# Builds the extension and installs it into the private tree.
source "$(dirname "$0")/common.sh"
use_postgres

built=$ROOT/built # as old as the sources that the last build saw
sources=(Cargo.toml Cargo.lock pg_embed.control pg_embed_pgvector.control build.rs src sql crates)

if [ ! -e "$ROOT$PKGLIBDIR/pg_embed.so" ]; then
    say "Building pg_embed for PostgreSQL $MAJOR (the first time takes about 2 minutes)"
elif [ ! -e "$built" ] || [ -n "$(find "${sources[@]}" -newer "$built" -print -quit)" ]; then
    say "Building pg_embed for PostgreSQL $MAJOR"
else
    exit 0
fi
touch "$built.new"
cargo build --release --lib "${FEATURES[@]}"

# What `cargo pgrx install` would do; no SQL is derived from the Rust code.
library=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/libpg_embed.so
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# src/lib.rs names the files in their order. On pgvector's type, what it makes of it takes the place of our own.
mapfile -t sql < <(sed -n 's|^extension_sql_file!("\.\./\(sql/[a-z_]*\.sql\)".*|\1|p' src/lib.rs)
[ "${sql[*]::2}" = "sql/alone.sql sql/vector.sql" ] || die "src/lib.rs does not begin with the SQL of the type"
extension=$ROOT$SHAREDIR/extension
rm -f "$extension"/pg_embed{,_pgvector}--*.sql
cat "${sql[@]}" >"$extension/pg_embed--$version.sql"
cat sql/pgvector.sql "${sql[@]:2}" >"$extension/pg_embed_pgvector--$version.sql"
for script in sql/released/*.sql sql/upgrades/*.sql; do
    [ ! -e "$script" ] || [ -e "$extension/${script##*/}" ] || cp "$script" "$extension/"
done
for control in pg_embed.control pg_embed_pgvector.control; do
    sed "s/@CARGO_VERSION@/$version/" "$control" >"$extension/$control"
done
put "$library" "$ROOT$PKGLIBDIR/pg_embed.so"
mv "$built.new" "$built"
