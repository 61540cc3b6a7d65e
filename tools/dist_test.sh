#!/usr/bin/env bash
# Evaluate on several GPUs of this machine, or in several processes on its CPU where it has none.
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [OPTIONS OF test.py]
# Over several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -eu
[ $# -ge 3 ] || { sed -n "3s/^# */usage: /p" "$0" >&2; exit 2; }
exec bash "$(dirname "$0")/dist_run.sh" test.py "$3" "$1" "$2" "${@:4}"
