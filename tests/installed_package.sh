#!/usr/bin/env bash
# Runs as root in a bare system, with the packages and the demo's texts in the directory of this script: installs them as a
# user would, asks for the nearest texts, upgrades and removes.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

sql() {
    runuser -u postgres -- psql -X -q -At -v ON_ERROR_STOP=1 "$@"
}

nearest() {
    sql -c "SELECT body FROM texts ORDER BY embedding <=> embed('how do I get my money back?') LIMIT 5"
}

# Whatever is there of pg_embed but these packages and logs.
files() {
    find / -xdev \( -path /proc -o -path /packages -o -path /var/lib/dpkg -o -path /var/cache \) -prune \
        -o -path '*pg?embed*' -print
}

! command -v cc || fail "there is a compiler"
apt-get update -qq

# The time that docs/install.md tells begins here.
SECONDS=0
apt-get install -y -qq --no-install-recommends ./*.deb >/dev/null
version=$(echo /usr/lib/postgresql/*/lib/pg_embed.so | cut -d / -f 5)
pg_ctlcluster "$version" main status >/dev/null || pg_ctlcluster "$version" main start
models=(/usr/share/pg_embed/models/*)
sql -c "ALTER DATABASE postgres SET pg_embed.default_model = '${models[0]##*/}'"
sql <<'SQL'
CREATE EXTENSION pg_embed;
CREATE TABLE texts (body text, embedding vector(384));
CREATE TRIGGER embed BEFORE INSERT OR UPDATE ON texts
    FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
\copy texts (body) FROM texts.txt
CREATE INDEX ON texts USING ivf (embedding vector_cosine_ops);
SQL
found=$(nearest)
echo "==> After $SECONDS s the five nearest texts of $(sql -c 'SELECT count(*) FROM texts') are"
echo "$found"
[ "$SECONDS" -lt 60 ] || fail "that took more than a minute"
[ "$(wc -l <<<"$found")" = 5 ] && grep -q '^Refunds are issued' <<<"$found" || fail "these are others"

echo "==> Upgrading, while the server runs"
for package in ./*.deb; do
    dpkg-deb -R "$package" newer
    sed -i 's/^Version: .*/&+newer/' newer/DEBIAN/control
    dpkg-deb -b -Znone newer "newer-${package#./}" >/dev/null
    rm -r newer
done
apt-get install -y -qq --no-install-recommends ./newer-*.deb >/dev/null
[ "$(nearest)" = "$found" ] || fail "the answer is another"
pg_ctlcluster "$version" main restart
[ "$(nearest)" = "$found" ] || fail "the answer is another after a restart"

echo "==> Removing"
sql -c 'DROP EXTENSION pg_embed CASCADE' 2>/dev/null
mapfile -t packages < <(dpkg-query -W -f '${Package}\n' '*pg-embed*')
apt-get purge -y -qq "${packages[@]}" >/dev/null
pg_ctlcluster "$version" main stop
# The weight cache is the cluster's.
left=$(files | grep -v "^/var/lib/postgresql/$version/main/pg_embed" || true)
[ -z "$left" ] || fail "left behind: $left"
[ -z "$(dpkg --audit)" ] || fail "$(dpkg --audit)"

echo "==> Not over what 'make install' has put there"
mkdir -p "/usr/share/postgresql/$version/pg_embed/models"
! dpkg -i ./postgresql-*.deb >refused 2>&1 && grep -q "make uninstall" refused || fail "$(cat refused)"
