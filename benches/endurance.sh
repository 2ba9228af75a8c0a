#!/usr/bin/env bash
# Measures what embedding does to a server, in a cluster of its own: 200 connections at once against the same work in as
# many connections as there are processors, and the memory of a session over 100,000 embeds of mixed length. About 20
# minutes; with fewer embeds: endurance.sh 20000
source "$(dirname "$0")/../tools/common.sh"
use_postgres

embeds=${1:-100000}
cluster=$DEV/endurance
model=$(demo_model)
connections=$((200 / $(nproc) * $(nproc))) # the same number by so many at a time
missed=0

stop() {
    stop_cluster "$cluster"
    rm -rf "$cluster"
}

connect() {
    local program=$1
    shift
    "$ROOT$BINDIR/$program" -h "$cluster" -p "$PORT" -U postgres "$@"
}

# seconds CLIENTS PGBENCH_OPTIONS...: the wall clock's time of CLIENTS connections at once.
seconds() {
    local start end
    start=$(date +%s%N)
    connect pgbench -n -M simple -f "$cluster/work.sql" -c "$1" -j "$(nproc)" "${@:2}" postgres >"$cluster/pgbench.log" 2>&1 ||
        die "pgbench failed: $(cat "$cluster/pgbench.log")"
    end=$(date +%s%N)
    echo $(((end - start) / 1000000))
}

# together LABEL: all connections at once against the same ones a few at a time, each time new ones.
together() {
    local few many ratio
    few=$(seconds "$(nproc)" -C -t $((connections / $(nproc))))
    many=$(seconds "$connections" -t 1)
    ratio=$(awk "BEGIN { printf \"%.2f\", $many / $few }")
    printf '%-10s %d connections: %d ms at once, %d ms by %d at a time, ratio %s\n' \
        "$1" "$connections" "$many" "$few" "$(nproc)" "$ratio"
    awk "BEGIN { exit !($ratio > 1.2) }" && missed=1
    return 0
}

stop
trap stop EXIT
make_cluster "$cluster"
add_settings "$cluster" <<CONF
max_connections = $((connections + 10))
pg_embed.default_model = '$model'
CONF
# 60 texts of 3 to 60 words, the same ones in each connection.
cat >"$cluster/work.sql" <<'SQL'
SELECT count(embed(i || repeat(' word', i * 7 % 60))) FROM generate_series(1, 60) i;
SQL
start_cluster "$cluster"
connect psql -Xq -d postgres -c 'CREATE EXTENSION pg_embed' -c "SELECT embed('writes the cache') IS NULL" >/dev/null

say "Connections at once, $model; bar: 1.2 times the time of a few at a time"
together cache
stop_cluster "$cluster"
add_settings "$cluster" <<CONF
shared_preload_libraries = 'pg_embed'
pg_embed.preload_models = '$model'
CONF
start_cluster "$cluster"
together preloaded

say "Private memory of one session over $embeds embeds"
# Lengths from 3 to about 260 tokens, mostly short, as in a table of real texts; one in ten in arrays.
connect psql -XqAt -v ON_ERROR_STOP=1 -d postgres <<SQL
SET statement_timeout = 0;
CREATE FUNCTION private_memory() RETURNS text LANGUAGE sql VOLATILE AS \$\$
    SELECT (regexp_match(pg_read_file('/proc/' || pg_backend_pid() || '/status'), 'RssAnon:\s*(\d+) kB'))[1]::int / 1024
        || ' MB' \$\$;
CREATE PROCEDURE embed_for_long(embeds int) LANGUAGE plpgsql AS \$\$
DECLARE
    done int := 0;
    words int;
BEGIN
    WHILE done < embeds LOOP
        FOR i IN 1..90 LOOP
            words := 1 + 8 * -ln(1 - random());
            IF i % 30 = 0 THEN words := words * 20; END IF;
            PERFORM embed(done || ' ' || i || repeat(' parcel', words));
        END LOOP;
        PERFORM embed(ARRAY(SELECT done || ' array ' || i || repeat(' parcel', i * 3) FROM generate_series(1, 10) i));
        done := done + 100;
        IF done % (embeds / 10) = 0 OR done = 1000 THEN
            RAISE NOTICE '% embeds: %', done, private_memory();
        END IF;
        COMMIT;
    END LOOP;
END \$\$;
SET client_min_messages = notice;
CALL embed_for_long($embeds);
SELECT model, calls, texts, tokens, round(seconds::numeric, 1) FROM embed_stats();
SQL
exit "$missed"
