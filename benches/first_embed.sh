#!/usr/bin/env bash
# Measures the first embed of a connection, in a cluster of its own: with the weight cache, and with preloaded models;
# for the demo's model, and for one of gte-small's shape with made-up weights.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

cluster=$DEV/first_embed
made_up=$DEV/made_up # kept: the weights take a while
models=("$(demo_model)" gte-small-shape)
missed=0

stop() {
    stop_cluster "$cluster"
    rm -rf "$cluster"
}

# measure LABEL BARS...: see first_embed.py.
measure() {
    local model
    for model in "${models[@]}"; do
        /usr/bin/python3 benches/first_embed.py "$1" "$model" "${@:2}" "${psql[@]}" || missed=1
    done
}

if [ ! -e "$made_up/model.onnx" ]; then
    say "Making a model of gte-small's shape"
    "$DEV/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tools/requirements-export.txt
    "$DEV/venv/bin/python" benches/made_up_model.py tests/data/gte-small "$made_up"
fi

stop
trap stop EXIT
make_cluster "$cluster"
mkdir "$cluster/models"
ln -s "$MODELS/${models[0]}" "$cluster/models/${models[0]}"
ln -s "$made_up" "$cluster/models/gte-small-shape"
add_settings "$cluster" <<<"pg_embed.model_path = '$cluster/models'"
psql=("$ROOT$BINDIR/psql" -h "$cluster" -p "$PORT" -U postgres -XqAt -v ON_ERROR_STOP=1 -d postgres)

start_cluster "$cluster"
"${psql[@]}" -c 'CREATE EXTENSION pg_embed'
for model in "${models[@]}"; do
    "${psql[@]}" -c "SELECT embed('$model', 'writes the cache')" >/dev/null
done
sync # a page of a file that is not on the disk yet would count as private and changed
say "First embed of a connection; bars: 150 ms over a warm one and 16 MB, preloaded twice a warm one and 4 MB"
measure cache 150 - 16

stop_cluster "$cluster"
add_settings "$cluster" <<CONF
shared_preload_libraries = 'pg_embed'
pg_embed.preload_models = '${models[0]},${models[1]}'
CONF
start_cluster "$cluster"
measure preloaded - 2 4
exit "$missed"
