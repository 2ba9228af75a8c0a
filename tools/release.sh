#!/usr/bin/env bash
# release.sh NEXT: cuts the version of Cargo.toml, as a commit and a tag, and begins version NEXT.
source "$(dirname "$0")/common.sh"
use_postgres

extensions=(pg_embed pg_embed_pgvector)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
next=${1:-}

check() {
    local last extension
    [[ $next =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "say which version comes next: make release NEXT=0.2.0"
    [ "$next" != "$version" ] && [ "$(printf '%s\n' "$version" "$next" | sort -V | tail -n 1)" = "$next" ] ||
        die "$next does not come after $version, which is to be released"
    [ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
    grep -qx "## $version (unreleased)" CHANGELOG.md || die "CHANGELOG.md has no '## $version (unreleased)'"
    ! git rev-parse -q --verify "refs/tags/v$version" >/dev/null || die "there is a tag v$version already"
    last=$(printf '%s\n' sql/released/pg_embed--*.sql | sed -n 's|.*--\(.*\)\.sql$|\1|p' | sort -V | tail -n 1)
    [ "$last" != '*' ] || return 0
    for extension in "${extensions[@]}"; do
        [ -e "sql/upgrades/$extension--$last--$version.sql" ] ||
            die "sql/upgrades/$extension--$last--$version.sql is missing: what leads from $last to $version"
    done
}

# set_version VERSION
set_version() {
    sed -i "0,/^version = \".*\"/s//version = \"$1\"/" Cargo.toml
    sed -i "/\"meta-spec\"/,\$!s/\"version\": \"$version\"/\"version\": \"$1\"/" META.json
    cargo update --quiet --offline --workspace
}

check
tools/build.sh
for extension in "${extensions[@]}"; do
    cp "$ROOT$SHAREDIR/extension/$extension--$version.sql" sql/released/
done
sed -i "s/^## $version (unreleased)$/## $version ($(date +%F))/" CHANGELOG.md
git add sql/released CHANGELOG.md
git commit --quiet -m "pg_embed $version"
git tag -a "v$version" -m "pg_embed $version"

set_version "$next"
sed -i "s/^## $version (/## $next (unreleased)\n\n&/" CHANGELOG.md
for extension in "${extensions[@]}"; do
    echo "-- What changes in the SQL of $extension from $version to $next." >"sql/upgrades/$extension--$version--$next.sql"
done
git add sql/upgrades
git commit --quiet -am "Begin $next"
say "Tagged v$version; 'git push --follow-tags' publishes it. The version is $next from here on"
say "What changes in the SQL goes into sql/upgrades/*--$version--$next.sql, too"
