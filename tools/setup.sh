#!/usr/bin/env bash
# Installs what is missing, once: Debian packages, and in the private tree Postgres's files, ONNX Runtime and
# a model.
source "$(dirname "$0")/common.sh"

# A Postgres of Debian's packages, or Ubuntu's.
packaged_pg_config='^/usr/lib/postgresql/([0-9]+)/bin/pg_config$'

# Prints the newest supported major that the system's packages have.
packaged_major() {
    local i # not grep -q below, which leaves before apt-cache has said all: a broken pipe is a failure
    type apt-cache >/dev/null 2>&1 || return 0
    for ((i = ${#MAJORS[@]} - 1; i >= 0; i--)); do
        if LC_ALL=C apt-cache policy "postgresql-${MAJORS[i]}" 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; then
            echo "${MAJORS[i]}"
            return
        fi
    done
}

# Sets PG_CONFIG where no Postgres is installed.
choose_postgres() {
    local major majors sudo=()
    mapfile -t majors < <(installed_majors)
    if [ -n "$PG_CONFIG" ]; then
        if [ -z "$PG_CONFIG_GIVEN" ] && [ "${#majors[@]}" -gt 1 ]; then
            say "Taking $PG_CONFIG; of Debian's packages PostgreSQL ${majors[*]} are installed. PG_CONFIG=... names another"
        fi
        return
    fi
    major=$(packaged_major)
    if [ -z "$major" ]; then
        # A new machine has no lists of packages yet.
        is_root || sudo=(sudo)
        "${sudo[@]}" apt-get update -qq || true
        major=$(packaged_major)
    fi
    [ -n "$major" ] || die "neither is there a PostgreSQL of ${MAJORS[*]}, nor do the system's packages have one; name one with PG_CONFIG=..."
    say "No PostgreSQL is installed; taking $major, the newest of the system's packages"
    PG_CONFIG=$(debian_pg_config "$major")
}

# Prints the Debian packages that are missing. What is there in another way (a Postgres or an LLVM of one's own) is not
# asked for.
missing_packages() {
    local major
    if [[ $PG_CONFIG =~ $packaged_pg_config ]]; then
        major=${BASH_REMATCH[1]}
        [ -x "${PG_CONFIG%/*}/postgres" ] || echo "postgresql-$major"
        [ -e "/usr/include/postgresql/$major/server/postgres.h" ] || echo "postgresql-server-dev-$major"
    fi
    command -v cc >/dev/null || echo gcc
    command -v readelf >/dev/null || echo binutils
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null || echo libclang-dev
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    [ -x /usr/bin/python3 ] || echo python3
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

# Those that only `make test` wants: a test traces system calls, and pgrx's tests start Postgres through sudo when root
# runs them.
missing_test_packages() {
    command -v strace >/dev/null || echo strace
    ! is_root || command -v sudo >/dev/null || echo sudo
}

install_packages() {
    local needed tests sudo=()
    if [[ $PG_CONFIG =~ $packaged_pg_config ]]; then
        check_major "${BASH_REMATCH[1]}"
    fi
    mapfile -t needed < <(missing_packages)
    mapfile -t tests < <(missing_test_packages)
    [ "$((${#needed[@]} + ${#tests[@]}))" != 0 ] || return 0
    local packages=("${needed[@]}" "${tests[@]}")

    is_root || sudo=(sudo)
    if type "${sudo[@]}" apt-get >/dev/null 2>&1; then
        say "Installing Debian packages: ${packages[*]}"
        if "${sudo[@]}" bash -c "$(declare -f apt_install); apt_install \"\$@\"" bash "${packages[@]}"; then
            return
        fi
    fi
    if [ "${#needed[@]}" = 0 ]; then
        say "Not installed: ${tests[*]}; some tests need them"
        return
    fi
    die "these Debian packages are missing; as root run:
    apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
}

check_rust() {
    command -v cargo >/dev/null || die "cargo is not found; install Rust 1.95 or newer first"
    # pgrx formats the bindings that it makes; `make lint` wants both.
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        say "Installing rustfmt and clippy"
        rustup component add rustfmt clippy || die "rustfmt and clippy are missing"
    fi
}

# In a directory that everybody may write to, somebody else may have been first.
make_dev() {
    local dir
    mkdir -p "$DEV"
    for dir in "$DEV" "$(dirname "$DEV")"; do
        case $(stat -c %u "$dir") in
            0 | "$(id -u)") ;;
            *) die "$dir belongs to $(stat -c %U "$dir"); choose another place with DEV=..." ;;
        esac
    done
}

# What the programs look for relative to themselves, as those of PyPI's wheels do, must lie so beside the copies.
link_libraries() {
    local program path paths file
    for program in "$BINDIR"/{postgres,psql,initdb}; do
        paths=$(readelf -d "$program" | sed -n 's/.*(\(RPATH\|RUNPATH\)).*\[\(.*\)\]$/\2/p')
        for path in ${paths//:/ }; do
            [[ $path == '$ORIGIN'* ]] || continue
            path=$(realpath -m "${path/'$ORIGIN'/$BINDIR}")
            mkdir -p "$ROOT$path"
            for file in "$path"/*.so*; do
                [ ! -f "$file" ] || [ -e "$ROOT$file" ] || ln -s "$file" "$ROOT$file"
            done
        done
    done
}

# Makes the private tree, again when the chosen Postgres is another one or was upgraded.
make_tree() {
    local version dir file
    version="$PG_CONFIG $("$BINDIR/postgres" --version)"
    [ "$(cat "$ROOT/version" 2>/dev/null)" != "$version" ] || return 0
    say "Making a private copy of PostgreSQL $MAJOR in $DEV"
    stop_cluster "$DEV/demo"
    stop_cluster "$DEV/search"
    rm -rf "$ROOT"
    mkdir -p "$ROOT$BINDIR" "$ROOT$PKGLIBDIR" "$ROOT$SHAREDIR"
    for file in "$BINDIR"/pg* "$BINDIR"/{postgres,psql,initdb,createdb,dropdb,createuser,dropuser,vacuumdb,reindexdb}; do
        [ ! -f "$file" ] || cp "$file" "$ROOT$BINDIR/"
    done
    cp -rs "$PKGLIBDIR/." "$ROOT$PKGLIBDIR/"
    cp -rs "$SHAREDIR/." "$ROOT$SHAREDIR/"
    for dir in "$("$PG_CONFIG" --includedir)" "$("$PG_CONFIG" --includedir-server)"; do
        if [ ! -e "$ROOT$dir" ]; then
            mkdir -p "$(dirname "$ROOT$dir")"
            ln -s "$dir" "$ROOT$dir"
        fi
    done
    link_libraries
    # Writing through symlinks to an installed pg_embed would change the system's.
    rm -rf "$ROOT$PKGLIBDIR"/pg_embed* "$ROOT$SHAREDIR"/pg_embed "$ROOT$SHAREDIR"/extension/pg_embed*
    # These two outlive the tree: they do not depend on the Postgres.
    mkdir -p "$MODELS" "$ROOT$PKGLIBDIR/pg_embed" "$ROOT$SHAREDIR/pg_embed"
    ln -s "$ONNXRUNTIME" "$ROOT$PKGLIBDIR/pg_embed/"
    ln -s "$MODELS" "$ROOT$SHAREDIR/pg_embed/models"

    [ "$("$ROOT$BINDIR/pg_config" --pkglibdir)" = "$ROOT$PKGLIBDIR" ] ||
        die "this Postgres does not find its files relative to its executable: $BINDIR"
    echo "$version" >"$ROOT/version"
}

install_onnxruntime() {
    local scratch=$DEV/download
    [ ! -e "$ONNXRUNTIME" ] || [ ! -e "$DEV/lib/ThirdPartyNotices.txt" ] || return 0
    say "Downloading ONNX Runtime $ONNXRUNTIME_VERSION (about 20 MB)"
    rm -rf "$scratch"
    "$DEV/venv/bin/python" -m pip download --disable-pip-version-check --require-hashes --no-deps \
        --only-binary=:all: --python-version 3.11 --platform "manylinux_2_28_$(uname -m)" \
        --dest "$scratch" -r tools/requirements-onnxruntime.txt
    "$DEV/venv/bin/python" -m zipfile -e "$scratch"/onnxruntime-*.whl "$scratch"
    mkdir -p "$DEV/lib"
    chmod 755 "$scratch/onnxruntime/capi/${ONNXRUNTIME##*/}"
    mv "$scratch/onnxruntime/ThirdPartyNotices.txt" "$DEV/lib/"
    mv "$scratch/onnxruntime/capi/${ONNXRUNTIME##*/}" "$ONNXRUNTIME"
    rm -rf "$scratch"
}

# The hub is asked once, while there is no model at all. FIRST_MODEL names the only one that will do.
install_first_model() {
    local model
    for model in ${FIRST_MODEL:-gte-small all-minilm-l6-v2}; do
        [ ! -e "$MODELS/$model" ] || return 0
        if [ -e "$SHAREDIR/pg_embed/models/$model" ]; then
            say "Taking the installed model $model"
            cp -r "$SHAREDIR/pg_embed/models/$model" "$MODELS/"
            return
        fi
    done
    if [ -n "${FIRST_MODEL:-}" ]; then
        say "Getting the model $FIRST_MODEL"
        install_model "$FIRST_MODEL"
        return
    fi
    say "Fetching the model gte-small from the model hub"
    if ! install_model gte-small; then
        say "Taking the model all-minilm-l6-v2 instead (about 90 MB, and a minute)"
        install_model all-minilm-l6-v2
    fi
}

check_rust
choose_postgres
install_packages
use_postgres
! is_root || id "$SERVER_USER" >/dev/null 2>&1 || die "Postgres refuses to run as root; create a user '$SERVER_USER'"
make_dev
make_tree
if [ ! -e "$DEV/venv/ok" ]; then
    say "Making a Python environment"
    /usr/bin/python3 -m venv --clear "$DEV/venv"
    touch "$DEV/venv/ok"
fi
install_onnxruntime
install_first_model
say "Ready: PostgreSQL $MAJOR, ONNX Runtime $ONNXRUNTIME_VERSION, model $(demo_model), in $DEV"
