#!/usr/bin/env bash
# Train on several GPUs of this machine, or in several processes on its CPU where it has none.
#   tools/dist_train.sh CONFIG PROCESSES [OPTIONS OF train.py]
# Over several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -eu
[ $# -ge 2 ] || { sed -n "3s/^# */usage: /p" "$0" >&2; exit 2; }
exec bash "$(dirname "$0")/dist_run.sh" train.py "$2" "$1" "${@:3}"
