# Sourced by the other scripts: where things are, and the helpers that more than one of them needs.
# shellcheck shell=bash disable=SC2034
#
# Everything is built, installed and run in one private tree, $DEV. Below $DEV/root lie, at their own absolute paths,
# a copy of the chosen Postgres's programs and symlinks to its other files. Postgres looks for its files relative to its
# own executable, so what is installed in there leaves the system's directories alone and needs no rights.

set -euo pipefail
umask 022 # root's files must be readable by the user that runs Postgres

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$SOURCE"

PGRX_VERSION=0.18.1
ONNXRUNTIME_VERSION=1.28.0
SERVER_USER=postgres # who runs Postgres when root calls; anybody else runs it himself
MAJORS=(15 16 17 18) # the PostgreSQL versions that are supported
PORT=15432           # only part of the sockets' names: the clusters do not listen on TCP

# Not below /root or a private home directory, where the user that runs Postgres could not read it.
if [ -z "${DEV:-}" ]; then
    DEV=/var/tmp/pg_embed-$(id -un)/$(printf %s "$SOURCE" | sha256sum | cut -c 1-8)
fi
DEV=$(realpath -m "$DEV")
MODELS=$DEV/models
ONNXRUNTIME=$DEV/lib/libonnxruntime.so.$ONNXRUNTIME_VERSION

export PGRX_HOME=$DEV/pgrx
export PATH="$DEV/cargo/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
USER=$(id -un) # pgrx's tests connect as $USER, which a container may not set
export USER
# make's job server is not ours to use, and no other server's address may leak in.
unset MAKEFLAGS MFLAGS MAKELEVEL
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGDATA

# What the tests in Rust read. After use_postgres.
export_test_environment() {
    export PG_EMBED_TEST_ONNXRUNTIME=$ONNXRUNTIME
    export PG_EMBED_TEST_MODELS=$MODELS
    export PG_EMBED_TEST_BINDIR=$ROOT$BINDIR
}

say() {
    printf '==> %s\n' "$*"
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() {
    [ "$(id -u)" = 0 ]
}

is_supported() {
    case " ${MAJORS[*]} " in
        *" $1 "*) return 0 ;;
    esac
    return 1
}

check_major() {
    is_supported "$1" || die "PostgreSQL $1 ($PG_CONFIG) is not supported; ${MAJORS[0]} to ${MAJORS[-1]} are"
}

# major_of PG_CONFIG
major_of() {
    "$1" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/'
}

debian_pg_config() {
    echo "/usr/lib/postgresql/$1/bin/pg_config"
}

# Prints the supported majors whose servers Debian's packages have installed, oldest first.
installed_majors() {
    local major
    for major in "${MAJORS[@]}"; do
        [ ! -x "$(dirname "$(debian_pg_config "$major")")/postgres" ] || echo "$major"
    done
}

PG_CONFIG_GIVEN=${PG_CONFIG:+yes}

# Sets PG_CONFIG, if the caller has not: the newest supported server that is installed, else the pg_config on the PATH.
# Empty if there is neither.
find_postgres() {
    local majors other
    if [ -z "${PG_CONFIG:-}" ]; then
        mapfile -t majors < <(installed_majors)
        if [ "${#majors[@]}" != 0 ]; then
            PG_CONFIG=$(debian_pg_config "${majors[-1]}")
        elif other=$(command -v pg_config) && is_supported "$(major_of "$other")"; then
            PG_CONFIG=$other
        else
            PG_CONFIG=
        fi
    fi
    # Debian's /usr/bin/pg_config is a script that speaks for a server that may not be installed yet.
    if command -v "$PG_CONFIG" >/dev/null; then
        PG_CONFIG=$("$PG_CONFIG" --bindir)/pg_config
    fi
}
find_postgres

# Sets what follows from PG_CONFIG. $BINDIR, $PKGLIBDIR and $SHAREDIR are the real directories, which only `install`,
# `uninstall` and `model` change; $ROOT before them gives the private ones.
use_postgres() {
    [ -n "$PG_CONFIG" ] || die "there is no PostgreSQL; run 'make setup', or name one with PG_CONFIG=..."
    [ -x "$PG_CONFIG" ] || die "$PG_CONFIG does not exist; run 'make setup', or name another with PG_CONFIG=..."
    MAJOR=$(major_of "$PG_CONFIG")
    check_major "$MAJOR"
    BINDIR=$("$PG_CONFIG" --bindir)
    PKGLIBDIR=$("$PG_CONFIG" --pkglibdir)
    SHAREDIR=$("$PG_CONFIG" --sharedir)
    ROOT=$DEV/root
    FEATURES=(--no-default-features --features "pg$MAJOR")
    export PGRX_PG_CONFIG_PATH=$ROOT$BINDIR/pg_config # whose headers pgrx reads
}

# The model of the demo: gte-small where it is installed, else all-minilm-l6-v2.
demo_model() {
    if [ -e "$MODELS/gte-small" ]; then echo gte-small; else echo all-minilm-l6-v2; fi
}

# Installs what the tools need that make models into the environment in $DEV.
install_model_tools() {
    "$DEV/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tools/requirements-fuse.txt
}

# install_model MODEL [--repo OWNER/NAME]: puts a model into $MODELS.
install_model() {
    install_model_tools &&
        "$DEV/venv/bin/python" tools/get_model.py "$1" "$MODELS" "${@:2}" &&
        "$DEV/venv/bin/python" tools/fuse_model.py "$MODELS/$1" &&
        { [ ! -e "$MODELS/$1-q8" ] || install_twin "$1"; } # of other files it is the twin no more
}

# install_twin MODEL [--repo OWNER/NAME]: puts the quantised twin of a model into $MODELS, as MODEL-q8, and the model too if
# it is not there. MODEL can also be a folder, /path/to/NAME.
install_twin() {
    local base from scratch
    base=$(basename "$1")
    from=$1
    if [[ $1 != */* ]]; then
        from=$MODELS/$1
        [ -e "$from" ] || install_model "$@" || return
    fi
    scratch=$MODELS/.$base-q8
    # A chain, as in a condition nothing else ends it: the twin that is there must outlive a failure.
    install_model_tools &&
        rm -rf "$scratch" &&
        "$DEV/venv/bin/python" tools/quantize_model.py "$from" "$scratch" &&
        rm -rf "${MODELS:?}/$base-q8" &&
        mv "$scratch" "$MODELS/$base-q8"
}

# copy_model MODEL: copies a model from $MODELS to the real directory, and notes it for `make uninstall`.
copy_model() {
    local to=${DESTDIR:-}$SHAREDIR/pg_embed
    privileged "$to" mkdir -p "$to/models"
    privileged "$to" rm -rf "$to/models/$1"
    privileged "$to" cp -r "$MODELS/$1" "$to/models/"
    if ! grep -qxF -- "$1" "$to/installed" 2>/dev/null; then
        echo "$1" | privileged "$to" tee -a "$to/installed" >/dev/null
    fi
}

# privileged PATH COMMAND...: runs the command, through sudo when PATH (or what exists of it) is not ours to write.
privileged() {
    local path=$1
    shift
    until [ -e "$path" ]; do
        path=$(dirname "$path")
    done
    if [ -w "$path" ]; then "$@"; else sudo "$@"; fi
}

# apt_install PACKAGES...: for root, in a shell of its own. A first Postgres would bring a cluster that starts at once; the
# setting that prevents it is gone again afterwards.
apt_install() {
    set -e
    export DEBIAN_FRONTEND=noninteractive
    settings=/etc/postgresql-common/createcluster.d
    mkdir -p "$settings"
    trap 'rm -f "$settings/pg_embed.conf"; rmdir --ignore-fail-on-non-empty "$settings"' EXIT
    echo 'create_main_cluster = off' >"$settings/pg_embed.conf"
    apt-get update -qq || true # a broken third party's source need not matter
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
}

# Runs a command as the user that runs Postgres, from a directory he can enter.
as_server() {
    if is_root; then
        (cd / && runuser -u "$SERVER_USER" -- "$@")
    else
        (cd / && "$@")
    fi
}

# make_dir DIR: makes a directory that belongs to the user that runs Postgres.
make_dir() {
    if is_root; then
        install -d -o "$SERVER_USER" "$1"
    else
        install -d "$1"
    fi
}

# put FILE TO: a copy under a new inode. Running servers have mapped the old one.
put() {
    cp "$1" "$2.new"
    mv "$2.new" "$2"
}

# A cluster is a directory with `data`, `log` and the socket in it.

# make_cluster DIR
make_cluster() {
    make_dir "$1"
    as_server "$ROOT$BINDIR/initdb" -D "$1/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8 --no-sync >/dev/null
    add_settings "$1" <<CONF
listen_addresses = ''
unix_socket_directories = '$1'
unix_socket_permissions = 0700
port = $PORT
CONF
}

# add_settings DIR: appends standard input to the cluster's postgresql.conf.
add_settings() {
    as_server tee -a "$1/data/postgresql.conf" >/dev/null
}

# start_cluster DIR
start_cluster() (
    # The server outlives this script: one that held our output, or make's, would keep a pipeline waiting.
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        [ "$fd" -le 2 ] || eval "exec $fd>&-"
    done
    as_server "$ROOT$BINDIR/pg_ctl" -D "$1/data" -l "$1/log" -w start </dev/null >/dev/null 2>&1 || {
        tail -n 20 "$1/log" >&2
        die "the server in $1 does not start"
    }
)

# cluster_pid DIR: prints the server's process id if it runs. A stale pid file may name any process; a server's working
# directory is its data directory.
cluster_pid() {
    local pid
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 0
    if [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; then
        echo "$pid"
    fi
}

# stop_cluster DIR: stops the server if it runs, and waits until it has gone.
stop_cluster() {
    local pid
    pid=$(cluster_pid "$1")
    [ -n "$pid" ] || return 0
    kill -INT "$pid" # a fast shutdown
    while [ -n "$(cluster_pid "$1")" ]; do
        sleep 0.1
    done
}
