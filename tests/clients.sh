#!/usr/bin/env bash
# Tries clients and frameworks of Python and Node.js, from PyPI and npm, against pg_embed, and against pg_embed_pgvector
# where the server has pgvector. Arguments: those of pytest.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

cluster=$DEV/clients
venv=$DEV/clients-venv
node=$DEV/clients-node

if ! cmp -s tests/clients/requirements.txt "$venv/requirements.txt"; then
    say "Installing the clients of Python (about 400 MB)"
    "$DEV/venv/bin/python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
    cp tests/clients/requirements.txt "$venv/"
fi

trap 'stop_cluster "$cluster"' EXIT
stop_cluster "$cluster"
rm -rf "$cluster"
make_cluster "$cluster"
mkdir "$cluster/models"
cp -r tests/data/tiny-bert "$cluster/models/"
add_settings "$cluster" <<CONF
fsync = off
unix_socket_permissions = 0777
pg_embed.model_path = '$cluster/models'
pg_embed.default_model = 'tiny-bert'
CONF
start_cluster "$cluster"
export PG_EMBED_CLIENTS_HOST=$cluster PG_EMBED_CLIENTS_PORT=$PORT

say "Clients of Python"
(cd tests/clients && PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -q -ra -p no:cacheprovider "$@")

if ! command -v npm >/dev/null; then
    say "SKIPPED the clients of Node.js: npm is not installed"
    exit 0
fi
if ! cmp -s tests/clients/package.json "$node/package.json"; then
    say "Installing the clients of Node.js"
    mkdir -p "$node"
    rm -rf "${node:?}"/*
    cp tests/clients/package.json "$node/"
    npm install --prefix "$node" --silent --no-audit --no-fund --ignore-scripts || {
        rm "$node/package.json"
        die "npm failed"
    }
fi

say "Clients of Node.js"
on_cluster() {
    "$ROOT$BINDIR/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$cluster" -p "$PORT" -U postgres "$@"
}
databases=own
on_cluster -d postgres -c 'CREATE DATABASE own'
on_cluster -d own -c 'CREATE EXTENSION pg_embed'
if [ "$(on_cluster -d postgres -c "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")" = 1 ]; then
    databases+=,beside
    on_cluster -d postgres -c 'CREATE DATABASE beside'
    on_cluster -d beside -c 'CREATE EXTENSION vector' -c 'CREATE EXTENSION pg_embed_pgvector'
fi
# Node.js looks for packages in the directories above the program.
cp tests/clients/clients.test.mjs "$node/"
PG_EMBED_CLIENTS_DATABASES=$databases node --test "$node/clients.test.mjs"
