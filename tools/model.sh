#!/usr/bin/env bash
# Installs the model $MODEL, from the hub repository $REPO if given, into the private tree, and beside an installed
# pg_embed. With QUANTIZE=q8 its quantised twin, $MODEL-q8; of the known models that name says so.
source "$(dirname "$0")/common.sh"
use_postgres

[ -n "${MODEL:-}" ] || die "say which: make model MODEL=gte-small, MODEL=all-minilm-l6-v2, or MODEL=name REPO=owner/name"
case ${QUANTIZE:-} in
    "" | q8) ;;
    *) die "QUANTIZE=$QUANTIZE is not known; q8 is" ;;
esac
if [ -z "${QUANTIZE:-}${REPO:-}" ] && [[ $MODEL == *-q8 ]]; then
    MODEL=${MODEL%-q8}
    QUANTIZE=q8
fi
if [ -n "${QUANTIZE:-}" ]; then
    say "Quantising the model $MODEL"
    install_twin "$MODEL" ${REPO:+--repo "$REPO"}
    base=$MODEL
    MODEL=$(basename "$MODEL")-q8
else
    say "Fetching the model $MODEL"
    install_model "$MODEL" ${REPO:+--repo "$REPO"}
fi
if [ -e "${DESTDIR:-}$SHAREDIR/extension/pg_embed.control" ]; then
    copy_model "$MODEL"
    # Queries by the twin want the model of the documents beside it.
    [ ! -e "$MODELS/${base:-}/model.onnx" ] || copy_model "$base"
    say "Installed $MODEL also in ${DESTDIR:-}$SHAREDIR/pg_embed/models"
else
    say "Installed $MODEL in $MODELS"
fi
