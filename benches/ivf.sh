#!/usr/bin/env bash
# ivf.sh [PART...]: measures the index against its peers (ivf.py --help says what) in a cluster that lives as long as
# the run. ivf.sh --stop and --start are ivf.py's way to restart the server. growth.sh runs growth.py in such a cluster.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

export BENCH_DIR=$DEV/bench
export BENCH_PROGRAM=${BENCH_PROGRAM:-ivf}
export BENCH_CLUSTER=$BENCH_DIR/$BENCH_PROGRAM-cluster
BENCH_MODEL=$(demo_model)
export BENCH_MODEL
export PGHOST=$BENCH_CLUSTER PGPORT=$PORT PGUSER=postgres PGCLIENTENCODING=UTF8
export PATH="$ROOT$BINDIR:$PATH"

# Extensions that were installed into the system's Postgres after the private tree was made.
link_extensions() {
    local file
    for file in "$PKGLIBDIR"/*.so "$SHAREDIR"/extension/*; do
        case ${file##*/} in pg_embed*) continue ;; esac
        [ -e "$ROOT$file" ] || ln -sf "$file" "$ROOT$file"
    done
}

# Prints the directory with WordNet's data files, from Debian's wordnet-base; it need not be installed.
wordnet() {
    local dir=/usr/share/wordnet
    if [ ! -e "$dir/data.noun" ]; then
        dir=$BENCH_DIR/wordnet$dir
        if [ ! -e "$dir/data.noun" ]; then
            say "Downloading Debian's wordnet-base" >&2
            ! is_root || apt-get update -qq >&2 || true # an image may come without package lists
            (cd "$BENCH_DIR" && apt-get -o APT::Sandbox::User=root download -qq wordnet-base >&2 &&
                dpkg -x wordnet-base_*.deb wordnet) ||
                die "wordnet-base cannot be downloaded; install it, or 'apt-get update' first"
            rm "$BENCH_DIR"/wordnet-base_*.deb
        fi
    fi
    echo "$dir"
}

start() {
    local preload=
    # VectorChord insists on being loaded with the server.
    [ ! -e "$ROOT$PKGLIBDIR/vchord.so" ] || preload=vchord
    make_cluster "$BENCH_CLUSTER"
    # Nothing in the background, nor checkpoints, within what is measured. Commits do not wait for the disk, so that
    # inserts measure the index.
    add_settings "$BENCH_CLUSTER" <<CONF
shared_preload_libraries = '$preload'
autovacuum = off
checkpoint_timeout = 1h
max_wal_size = 16GB
synchronous_commit = off
effective_io_concurrency = 200
jit = off
CONF
    start_cluster "$BENCH_CLUSTER"
}

remove() {
    stop_cluster "$BENCH_CLUSTER"
    rm -rf "$BENCH_CLUSTER"
}

case ${1:-} in
    --start) start_cluster "$BENCH_CLUSTER" ;;
    --stop) stop_cluster "$BENCH_CLUSTER" ;;
    *)
        [ -e "$ROOT$PKGLIBDIR/pg_embed.so" ] || die "there is nothing to measure; run 'make build' first"
        mkdir -p "$BENCH_DIR"
        "$DEV/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r benches/requirements.txt
        case " $* " in *' -h '* | *' --help '*) exec "$DEV/venv/bin/python" "benches/$BENCH_PROGRAM.py" --help ;; esac
        link_extensions
        BENCH_WORDNET=$(wordnet)
        export BENCH_WORDNET
        remove
        trap remove EXIT
        start
        "$DEV/venv/bin/python" "benches/$BENCH_PROGRAM.py" "$@"
        ;;
esac
