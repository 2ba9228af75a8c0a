#!/usr/bin/env bash
# install.sh install|install-extension|uninstall: puts what the private tree holds into the directories of PG_CONFIG, or takes it away.
source "$(dirname "$0")/common.sh"
use_postgres

lib=${DESTDIR:-}$PKGLIBDIR
share=${DESTDIR:-}$SHAREDIR

# Of the scripts in the private tree only those that are part of this version.
install_extension() {
    local from=$ROOT$SHAREDIR/extension version name file files=()
    version=$(sed -n "s/^default_version = '\(.*\)'/\1/p" "$from/pg_embed.control")
    for name in pg_embed pg_embed_pgvector; do
        files+=("$from/$name.control" "$from/$name--$version.sql")
    done
    for file in sql/released/*.sql sql/upgrades/*.sql; do
        [ ! -e "$file" ] || files+=("$from/${file##*/}")
    done
    say "Installing pg_embed into $lib and $share"
    privileged "$lib/pg_embed" mkdir -p "$lib/pg_embed"
    privileged "$lib" install -m 755 "$ROOT$PKGLIBDIR/pg_embed.so" "$lib/"
    privileged "$lib/pg_embed" install -m 755 "$ONNXRUNTIME" "$lib/pg_embed/"
    privileged "$share/extension" mkdir -p "$share/extension"
    privileged "$share/extension" install -m 644 "${files[@]}" "$share/extension/"
}

install_all() {
    local model
    install_extension
    for model in "$MODELS"/*/; do
        model=$(basename "$model")
        # tests/data's models are for the tests only.
        [ ! -e "tests/data/$model/model.onnx" ] || continue
        say "Installing the model $model"
        copy_model "$model"
    done
    if [ "$(demo_model)" != gte-small ]; then
        say "pg_embed.default_model is gte-small, which is not here; set it to $(demo_model), or 'make model MODEL=gte-small'"
    fi
}

uninstall_all() {
    local model models=()
    say "Removing pg_embed from $lib and $share"
    privileged "$lib" rm -f "$lib/pg_embed.so"
    privileged "$lib/pg_embed" rm -f "$lib/pg_embed/${ONNXRUNTIME##*/}"
    privileged "$share/extension" rm -f "$share"/extension/pg_embed{,_pgvector}.control \
        "$share"/extension/pg_embed{,_pgvector}--*.sql
    if [ -e "$share/pg_embed/installed" ]; then
        mapfile -t models <"$share/pg_embed/installed"
        for model in "${models[@]}"; do
            privileged "$share/pg_embed" rm -rf "$share/pg_embed/models/$model"
        done
        privileged "$share/pg_embed" rm "$share/pg_embed/installed"
    fi
    for dir in "$lib/pg_embed" "$share/pg_embed/models" "$share/pg_embed"; do
        [ ! -d "$dir" ] || privileged "$(dirname "$dir")" rmdir --ignore-fail-on-non-empty "$dir"
    done
    if [ -d "$share/pg_embed/models" ]; then
        say "Kept, as 'make' did not install them: $(echo "$share"/pg_embed/models/*)"
    fi
}

# What a package has put there is the package manager's.
if [ -z "${DESTDIR:-}" ] && package=$(dpkg-query -S "$lib/pg_embed.so" 2>/dev/null); then
    die "pg_embed is there as the package ${package%%:*}; 'apt-get remove ${package%%:*}' first"
fi

case $1 in
    install) install_all ;;
    install-extension) install_extension ;;
    uninstall) uninstall_all ;;
    *) die "install.sh install|install-extension|uninstall" ;;
esac
