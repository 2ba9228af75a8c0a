#!/usr/bin/env bash
# Runs tests/pg_regress against the extension in the private tree, in a cluster of its own with the models of tests/data
# and no others, so that the expected output is the same everywhere. Arguments: the tests to run; all without.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

cluster=$DEV/regress
pg_regress=$(dirname "$("$ROOT$BINDIR/pg_config" --pgxs)")/../test/regress/pg_regress
[ -x "$pg_regress" ] || die "$pg_regress does not exist"

# vector_setup makes what the tests of vector use.
tests=(--schedule=tests/pg_regress/schedule)
[ "$#" = 0 ] || tests=(vector_setup "$@")

trap 'stop_cluster "$cluster"' EXIT
stop_cluster "$cluster"
rm -rf "$cluster"
make_cluster "$cluster"
mkdir "$cluster/models" "$cluster/output"
for file in tests/data/*/model.onnx; do
    cp -r "$(dirname "$file")" "$cluster/models/"
done
as_server tee -a "$cluster/data/postgresql.conf" >/dev/null <<CONF
fsync = off
pg_embed.model_path = '$cluster/models'
pg_embed.default_model = 'tiny-bert'
pg_embed.max_workers = 0
CONF
start_cluster "$cluster"

"$pg_regress" --bindir="$ROOT$BINDIR" --host="$cluster" --port="$PORT" --user=postgres \
    --inputdir="$SOURCE/tests/pg_regress" --outputdir="$cluster/output" \
    --dbname=pg_embed_regress --load-extension=pg_embed "${tests[@]}" || {
    cat "$cluster/output/regression.diffs" "$cluster/log" >&2
    die "the output differs; what came out is in $cluster/output/results"
}
