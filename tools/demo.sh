#!/usr/bin/env bash
# demo.sh demo|psql|stop: the demo in a cluster of its own.
source "$(dirname "$0")/common.sh"
use_postgres

cluster=$DEV/demo

demo_psql() {
    PGCLIENTENCODING=UTF8 "$ROOT$BINDIR/psql" -h "$cluster" -p "$PORT" -U postgres "$@"
}

start() {
    if [ "$(cat "$cluster/data/PG_VERSION" 2>/dev/null)" != "$MAJOR" ]; then
        say "Making a database cluster"
        stop_cluster "$cluster"
        rm -rf "$cluster"
        make_cluster "$cluster"
    fi
    if [ -z "$(cluster_pid "$cluster")" ]; then
        say "Starting PostgreSQL $MAJOR on the socket in $cluster"
        start_cluster "$cluster"
    fi
}

demo() {
    local model
    model=$(demo_model)
    start
    say "Making the database demo; the model is $model"
    # A new database, so that it has the extension as it was built last.
    demo_psql -Xq -v ON_ERROR_STOP=1 -d postgres <<SQL
SET client_min_messages = warning;
DROP DATABASE IF EXISTS demo WITH (FORCE);
CREATE DATABASE demo;
ALTER DATABASE demo SET pg_embed.default_model = '$model';
SQL
    demo_psql -Xq -v ON_ERROR_STOP=1 -d demo -f tools/demo/demo.sql
    say "'make psql' opens this database, 'make stop' stops its server"
}

psql() {
    [ -n "$(cluster_pid "$cluster")" ] || start
    demo_psql -d demo
}

stop() {
    stop_cluster "$cluster"
    say "The demo's server is stopped"
}

"$1"
