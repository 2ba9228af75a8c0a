#!/usr/bin/env bash
# growth.sh [PART...]: measures how the index keeps itself in shape while rows come and go (growth.py --help says what), in
# a cluster that ivf.sh makes.
BENCH_PROGRAM=growth exec "$(dirname "$0")/ivf.sh" "$@"
