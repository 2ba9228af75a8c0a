#!/usr/bin/env bash
# Formatting, clippy, and a type check for every supported PostgreSQL.
source "$(dirname "$0")/common.sh"
use_postgres

say "Formatting"
cargo fmt --all --check

say "Clippy, for PostgreSQL $MAJOR"
cargo clippy --workspace --all-targets --release "${FEATURES[@]}" -- -D warnings

# pgrx ships bindings of every version for its documentation, which serve where there are no headers. A target directory
# of its own, so that nothing else is built again.
for major in "${MAJORS[@]}"; do
    [ "$major" != "$MAJOR" ] || continue
    say "Type check for PostgreSQL $major"
    DOCS_RS=1 RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER=$SOURCE/tools/rustc_docsrs.sh \
        cargo check --target-dir target/check --no-default-features --features "pg$major"
done

say "Scripts"
scripts=(tools/*.sh tests/*.sh benches/*.sh .ci/run)
for script in "${scripts[@]}"; do
    bash -n "$script"
done
if command -v shellcheck >/dev/null; then
    shellcheck -x -P SCRIPTDIR -S warning "${scripts[@]}"
fi
find benches tools tests -name '*.py' -exec /usr/bin/python3 -c '
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name, encoding="utf-8").read(), name)' {} +
