#!/usr/bin/env bash
# Measures in the demo's database, which `make demo` must have left running: how long embed takes, and how many rows
# per second an exact search reads. Then the first embed of a connection, in a cluster of its own.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

cluster=$DEV/demo
seconds=10
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# connection PROGRAM ARGUMENTS...
connect() {
    local program=$1
    shift
    PGCLIENTENCODING=UTF8 "$ROOT$BINDIR/$program" -h "$cluster" -p "$PORT" -U postgres "$@"
}

sql() {
    connect psql -XqAt -v ON_ERROR_STOP=1 -d demo "$@"
}

# tps SCRIPT: transactions per second of a pgbench script in one connection, without the time to connect.
tps() {
    printf '%s\n' "$1" >"$scratch/script"
    connect pgbench -n -c 1 -T "$seconds" -f "$scratch/script" demo | sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

# report NAME FORMAT EXPRESSION
report() {
    awk "BEGIN { printf \"%-58s $2\\n\", \"$1\", $3 }"
}

say "Model $(demo_model), PostgreSQL $MAJOR, $(nproc) processors"

first=$(sql -c '\timing on' -c "SELECT embed('the first text of a connection') IS NOT NULL" |
    sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p')
report 'embed, first call of a connection (ms)' '%10.1f' "$first"

# A random number in the text, so that no cache answers.
words='the parcel arrived late and the box was open so I would like to send it back and get a refund please '
for length in 1 5; do
    text=
    for _ in $(seq "$length"); do
        text+=$words
    done
    tokens=$(sql -c "SELECT token_count('${text}123456')")
    rate=$(tps "\\set r random(100000, 999999)
SELECT embed('$text' || :r) IS NOT NULL;")
    report "embed, later calls, $tokens tokens (ms)" '%10.1f' "1000 / $rate"
done

sql <<'SQL'
CREATE UNLOGGED TABLE bench AS
    SELECT embedding FROM docs, generate_series(1, 50000 / (SELECT count(*) FROM docs));
VACUUM ANALYZE bench;
SQL
rows=$(sql -c 'SELECT count(*) FROM bench')
rate=$(tps "SELECT embedding <=> (SELECT embedding FROM docs LIMIT 1) AS distance FROM bench ORDER BY distance LIMIT 5;")
report "exact search of $rows rows of 384 dimensions (ms)" '%10.1f' "1000 / $rate"
report 'exact search (rows/s)' '%10.0f' "$rows * $rate"
sql -c 'DROP TABLE bench'

benches/first_embed.sh
