#!/usr/bin/env bash
# Stops the servers and removes what was built, the private tree with its models included.
source "$(dirname "$0")/common.sh"

stop_cluster "$DEV/demo"
stop_cluster "$DEV/search"
stop_cluster "$DEV/regress"
for bench in bench/ivf-cluster bench/growth-cluster first_embed endurance; do
    stop_cluster "$DEV/$bench"
done
say "Removing $DEV and target"
rm -rf "$DEV" "$SOURCE/target"
