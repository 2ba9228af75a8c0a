#!/usr/bin/env bash
# Installs the model $MODEL, from the hub repository $REPO if given, into the private tree, and beside an installed
# pg_embed.
source "$(dirname "$0")/common.sh"
use_postgres

[ -n "${MODEL:-}" ] || die "say which: make model MODEL=gte-small, MODEL=all-minilm-l6-v2, or MODEL=name REPO=owner/name"
say "Fetching the model $MODEL"
install_model "$MODEL" ${REPO:+--repo "$REPO"}
if [ -e "${DESTDIR:-}$SHAREDIR/extension/pg_embed.control" ]; then
    copy_model "$MODEL"
    say "Installed $MODEL also in ${DESTDIR:-}$SHAREDIR/pg_embed/models"
fi
