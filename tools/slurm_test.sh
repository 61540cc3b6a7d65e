#!/usr/bin/env bash
# Evaluate under Slurm:
#   [GPUS=4] [GPUS_PER_NODE=4] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS OF test.py]
set -eu
[ $# -ge 4 ] || { sed -n '3,4s/^# */usage: /p' "$0" >&2; exit 2; }
exec bash "$(dirname "$0")/slurm_run.sh" test.py "$@"
