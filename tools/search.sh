#!/usr/bin/env bash
# search.sh: the page of examples/search, over the PostgreSQL manual in a cluster of its own. PORT= is the page's port, 8000 without
# it; MANUAL= a directory with the manual's HTML, instead of that of Debian's package.
page_port=${PORT:-8000} # the next line sets PORT to that of the clusters
source "$(dirname "$0")/common.sh"
use_postgres

cluster=$DEV/search
server=$DEV/bin/pg_embed-search
model=$(demo_model)
wait=150 # seconds until the page opens; the workers embed what is left while it answers
started=

# The supported majors, the one in use first, then the newest.
majors_to_try() {
    local i
    echo "$MAJOR"
    for ((i = ${#MAJORS[@]} - 1; i >= 0; i--)); do
        [ "${MAJORS[i]}" = "$MAJOR" ] || echo "${MAJORS[i]}"
    done
}

# Sets $manual: a directory with the HTML of the manual, from Debian's package. It needs no right to install one.
get_manual() {
    local major pages
    if [ -n "${MANUAL:-}" ]; then
        manual=$(realpath "$MANUAL")
        [ -e "$manual/index.html" ] || die "there is no index.html in $manual"
        return
    fi
    for major in $(majors_to_try); do
        pages=/usr/share/doc/postgresql-doc-$major/html
        for manual in "$pages" "$DEV/manual/$major$pages"; do
            [ ! -e "$manual/index.html" ] || return 0
        done
        if unpack_manual "$major"; then
            [ "$major" = "$MAJOR" ] || say "There is no package postgresql-doc-$MAJOR; taking the manual of $major"
            return
        fi
    done
    die "apt has no package postgresql-doc-$MAJOR (apt-get update may help); name a directory of the manual's HTML with MANUAL=..."
}

# unpack_manual MAJOR
unpack_manual() {
    local to=$DEV/manual/$1
    type apt-get >/dev/null 2>&1 || return 1
    rm -rf "$to.new"
    mkdir -p "$to.new"
    # apt downloads as a user of its own, where it can.
    (cd "$to.new" && apt-get download -qq "postgresql-doc-$1") >/dev/null 2>&1 || return 1
    say "Unpacking the manual of PostgreSQL $1"
    dpkg-deb -x "$to.new"/*.deb "$to.new" && rm "$to.new"/*.deb && rm -rf "$to" && mv "$to.new" "$to"
}

# What the cluster was made for: for anything else it is made anew.
fingerprint() {
    echo "$MAJOR $model $manual"
    cat "$ROOT$SHAREDIR"/extension/pg_embed--*.sql examples/search/sql/{schema,vectorizer,map}.sql examples/search/src/manual/*.rs
}

start() {
    local made
    made=$(fingerprint | sha256sum)
    if [ "$(cat "$cluster/made" 2>/dev/null)" != "$made" ]; then
        say "Making a database cluster"
        stop_cluster "$cluster"
        rm -rf "$cluster"
        make_cluster "$cluster"
        add_settings "$cluster" <<CONF
shared_preload_libraries = 'pg_embed'
pg_embed.preload_models = '$model,$model-q8'
pg_embed.default_model = '$model'
pg_embed.query_model = '$model-q8'
pg_embed.max_workers = $(($(nproc) < 6 ? $(nproc) : 6))
CONF
        echo "$made" | as_server tee "$cluster/made" >/dev/null
    fi
    if [ -z "$(cluster_pid "$cluster")" ]; then
        say "Starting PostgreSQL $MAJOR on the socket in $cluster"
        start_cluster "$cluster"
        started=yes
    fi
    as_server "$ROOT$BINDIR/createdb" -h "$cluster" -p "$PORT" -U postgres search 2>/dev/null || true
}

# Ends what this script has started.
stop() {
    [ -z "${rest:-}" ] || kill "$rest" 2>/dev/null || true
    if [ -n "$started" ]; then
        say "Stopping PostgreSQL"
        stop_cluster "$cluster"
    fi
}

database() {
    echo "host=$cluster port=$PORT dbname=search user=$1"
}

get_manual
[ -e "$MODELS/$model-q8" ] || { say "Making the quantised twin of $model" && install_twin "$model"; }
cargo build --release -p pg_embed-search
mkdir -p "${server%/*}"
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
put "$target/release/pg_embed-search" "$server"

trap stop EXIT
start
say "Loading the manual; the first time takes some minutes"
as_server "$server" load --database "$(database postgres)" --manual "$manual" --wait "$wait"
# What is left, then the index and the map of the whole.
as_server "$server" load --database "$(database postgres)" --manual "$manual" >"$DEV/search.log" 2>&1 &
rest=$!
trap : INT # Ctrl-C ends the server, then this script goes on to stop the cluster
as_server "$server" serve --database "$(database search_reader)" --manual "$manual" --port "$page_port"
