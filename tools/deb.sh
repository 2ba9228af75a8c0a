#!/usr/bin/env bash
# deb.sh [MODEL_FOLDER]: makes Debian packages in dist/: of the extension for PG_CONFIG's Postgres and of every model in the
# private tree, or of this one model.
source "$(dirname "$0")/common.sh"
use_postgres

dist=$SOURCE/dist
maintainer=${DEBFULLNAME:-pg_embed maintainers} # as Debian's own tools ask for it
maintainer+=" <${DEBEMAIL:-pg-embed@users.noreply.github.com}>"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

install_debhelper() {
    local sudo=()
    [ ! -e /usr/bin/dh ] || return 0
    is_root || sudo=(sudo)
    say "Installing the Debian package debhelper"
    "${sudo[@]}" bash -c "$(declare -f apt_install); apt_install debhelper"
}

# new_package SOURCE: an empty package in $dir, whose files go to $stage.
new_package() {
    dir=$DEV/deb/$1
    stage=$dir/stage
    rm -rf "$dir"
    mkdir -p "$stage" "$dir/debian/source"
    cp packaging/debian/rules "$dir/debian/"
    echo '3.0 (native)' >"$dir/debian/source/format"
    cat >"$dir/debian/changelog" <<CHANGELOG
$1 ($version) unstable; urgency=medium

  * pg_embed $version.

 -- $maintainer  $(git log -1 --format=%aD 2>/dev/null || date -R)
CHANGELOG
}

# fill TEMPLATE NAME=VALUE...: replaces each @NAME@.
fill() {
    local template=$1 text pair
    text=$(cat "$template")
    shift
    for pair in "MAINTAINER=$maintainer" "$@"; do
        text=${text//"@${pair%%=*}@"/"${pair#*=}"}
    done
    printf '%s\n' "$text"
}

build_package() {
    (cd "$dir" && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >"$dir.log" 2>&1) ||
        die "dpkg-buildpackage failed; see $dir.log"
    mv "$DEV"/deb/*.deb "$dist/"
    rm -f "$DEV"/deb/*.{buildinfo,changes}
    rm -r "$dir"
}

extension_package() {
    local name=postgresql-$MAJOR-pg-embed doc target
    [[ $BINDIR == "/usr/lib/postgresql/$MAJOR/bin" ]] || die "$PG_CONFIG is not of Debian's packages, which these depend on"
    say "Packing $name $version"
    new_package pg-embed
    DESTDIR=$stage tools/install.sh install-extension
    # Models are for every Postgres on the machine, and packages of their own.
    mkdir -p "$stage$SHAREDIR/pg_embed" "$stage/usr/share/pg_embed/models"
    ln -s /usr/share/pg_embed/models "$stage$SHAREDIR/pg_embed/models"
    doc=$stage/usr/share/doc/$name
    mkdir -p "$doc"
    cp -r README.md docs "$doc/"
    cp "$DEV/lib/ThirdPartyNotices.txt" "$doc/onnxruntime-third-party-notices.txt"
    target=$(uname -m)-unknown-linux-gnu
    cargo metadata --format-version 1 "${FEATURES[@]}" --filter-platform "$target" |
        /usr/bin/python3 tools/crate_licences.py \
            <(cargo tree -p pg_embed -e normal --prefix none --format '{p}' "${FEATURES[@]}" --target "$target") >"$doc/crates.txt"
    cp packaging/debian/copyright "$dir/debian/"
    fill packaging/debian/control.in "MAJOR=$MAJOR" >"$dir/debian/control"
    fill packaging/debian/preinst.in "SHAREDIR=$SHAREDIR" >"$dir/debian/preinst"
    build_package
}

# model_package FOLDER
model_package() {
    local model package
    model=$(basename "$1")
    package=$(tr '[:upper:]_' '[:lower:]-' <<<"$model")
    [[ $package =~ ^[a-z0-9][a-z0-9+.-]*$ ]] || die "a Debian package cannot be named after the model $model"
    [ -e "$1/config.json" ] && [ -e "$1/tokenizer.json" ] || die "$1 is not a model's folder"
    if ! model_copyright "$1" "$model" >/dev/null; then
        say "No package of the model $model, whose licence is not known: put it as LICENSE into $1"
        return
    fi
    say "Packing pg-embed-model-$package $version"
    new_package "pg-embed-model-$package"
    mkdir -p "$stage/usr/share/pg_embed/models"
    cp -rL "$1" "$stage/usr/share/pg_embed/models/$model"
    fill packaging/debian/control.model.in "MODEL=$model" "PACKAGE_NAME=$package" >"$dir/debian/control"
    model_copyright "$1" "$model" >"$dir/debian/copyright"
    build_package
}

# model_copyright FOLDER MODEL: the folder's own licence file, or what is known of the model.
model_copyright() {
    local file
    for file in "$1"/LICENSE* packaging/models/"$2".copyright; do
        if [ -f "$file" ]; then
            cat "$file"
            return
        fi
    done
    return 1
}

install_debhelper
mkdir -p "$dist"
if [ "$#" != 0 ]; then
    model_package "$(realpath "$1")"
else
    extension_package
    for folder in "$MODELS"/*/; do
        # tests/data's models are for the tests only.
        [ -e "tests/data/$(basename "$folder")/model.onnx" ] || model_package "${folder%/}"
    done
fi
say "The packages are in $dist:"
ls -sh "$dist"
