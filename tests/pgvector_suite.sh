#!/usr/bin/env bash
# Runs pgvector's own tests of ivfflat against the ivf index in the private tree: PGVECTOR_SOURCE, or the argument, is a
# checkout of pgvector (0.8.6 was tried). Further arguments choose TAP files by a part of their names; without, all run.
# Nothing of pgvector's is in this repository. In its tests `ivfflat` is read as `ivf` and the extension's name as
# pg_embed; what else is changed is where pg_embed behaves otherwise on purpose:
#   * 100 lists are asked for where pgvector has them by default; here the number follows from the rows;
#   * there is no notice of an index made too early;
#   * the bounds of options and settings (0 is "automatic" here) are left to tests/pg_regress;
#   * builds are not parallel yet, and say nothing of workers;
#   * where its tests say "TODO: do not use index", or "use attribute index", the planner does so here;
#   * 10000 lists of 3 dimensions fit into the memory that pgvector finds too small.
source "$(dirname "$0")/../tools/common.sh"
use_postgres

pgvector=${PGVECTOR_SOURCE:-${1:-}}
[ "$#" = 0 ] || shift
perl=$(dirname "$("$ROOT$BINDIR/pg_config" --pgxs)")/../test/perl
pg_regress=$(dirname "$("$ROOT$BINDIR/pg_config" --pgxs)")/../test/regress/pg_regress

skip() {
    echo "SKIPPED pgvector's tests: $*"
    exit 0
}
[ -d "$pgvector/test/t" ] || skip "PGVECTOR_SOURCE names no checkout of pgvector"
perl -MIPC::Run -e 1 2>/dev/null || skip "the Perl module IPC::Run is missing (Debian: libipc-run-perl)"
[ -e "$perl/PostgreSQL/Test/Cluster.pm" ] || skip "$perl has no PostgreSQL::Test::Cluster (it came with PostgreSQL 15)"

work=$DEV/pgvector
trap 'stop_cluster "$work/cluster"' EXIT
stop_cluster "$work/cluster"
rm -rf "$work"
make_dir "$work"
mkdir -p "$work/t" "$work/sql" "$work/expected"

rename='s/ivfflat/ivf/g; s/CREATE EXTENSION vector/CREATE EXTENSION pg_embed/g;'

failed=0
say "pgvector's SQL tests of ivfflat"
no_bounds='/^-- options/,/^-- dimensions/d'
sed "$rename $no_bounds" "$pgvector/test/sql/ivfflat_vector.sql" >"$work/sql/ivf_vector.sql"
sed "$rename $no_bounds" "$pgvector/test/expected/ivfflat_vector.out" |
    sed '/^NOTICE:  ivf index created with little data/,/^HINT:  Drop the index/d' >"$work/expected/ivf_vector.out"
make_cluster "$work/cluster"
start_cluster "$work/cluster"
"$pg_regress" --bindir="$ROOT$BINDIR" --host="$work/cluster" --port="$PORT" --user=postgres --inputdir="$work" \
    --outputdir="$work" --dbname=pgvector --load-extension=pg_embed ivf_vector || {
    cat "$work/regression.diffs"
    failed=1
}
stop_cluster "$work/cluster"

say "pgvector's TAP tests of ivfflat"
for file in "$pgvector"/test/t/*ivfflat*.pl; do
    name=$(basename "$file")
    case $name in
        *halfvec* | *bit*) continue ;; # other types
    esac
    [ "$#" = 0 ] || [[ $name == *$1* ]] || continue
    perl -0pe "$rename"'
        s/(USING ivf \(v \S+?\))(?! WITH)/$1 WITH (lists = 100)/g;
        s/\tlike\(\$stderr, qr\/using \\d\+ parallel workers\/\);\n//;
        s/(# TODO [^\n]*\n\s*like\(\$explain, qr\/)Index Scan using idx/$1Seq Scan|attribute_idx|Index Scan using idx/g;
        s/# Test errors with too much memory.*?(?=done_testing)//s;
    ' "$file" >"$work/t/${name/ivfflat/ivf}"
done
if is_root; then
    chown -R "$SERVER_USER" "$work"
fi
as_server env TESTDIR="$work" PATH="$ROOT$BINDIR:$PATH" PGPORT="$PORT" PG_REGRESS="$pg_regress" \
    prove --directives --timer -I "$perl" "$work"/t/*.pl || failed=1
exit "$failed"
